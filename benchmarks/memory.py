"""The memory one contestant takes, in a process of its own.

    python -m benchmarks.memory TASK.json

The process loads the contestant, embeds the task's texts, and prints what it held at most. That is
everything: the interpreter, the libraries, the weights, the batches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contestants import Setup, load
from benchmarks.machine import peak_memory

_ROOT = Path(__file__).parents[1]
_TIMEOUT = 300.0  # seconds


def measure(setup: Setup, name: str, texts: list[str]) -> dict[str, Any]:
    """Return `bytes`, and `device_bytes` on a GPU, or `problem`."""
    task = {"setup": asdict(setup), "name": name, "texts": texts}
    return run_apart("benchmarks.memory", task)


def run_apart(module: str, task: dict[str, Any], *, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Run a module of this folder on a task; return the last line it prints, which is JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.json"
        path.write_text(json.dumps(task, default=str), encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter, our own module
                [sys.executable, "-m", module, str(path)],
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
                cwd=_ROOT,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
        except subprocess.TimeoutExpired:
            return {"problem": f"took more than {timeout:.0f} s"}
    if done.returncode:
        return {"problem": (done.stderr.strip() or "it failed").splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def read_setup(said: dict[str, Any]) -> Setup:
    """Return a setup from its JSON."""
    paths = {name: Path(said[name]) if said[name] else None for name in ("folder", "gguf")}
    return Setup(**{**said, **paths})


def main() -> None:
    """Do the task named on the command line."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    setup = read_setup(task["setup"])
    contestant = load(setup, task["name"])
    contestant.documents(task["texts"])
    found = {"bytes": peak_memory()}
    if setup.torch_device.startswith("cuda"):
        import torch

        found["device_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
