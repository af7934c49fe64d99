"""What llama.cpp allocates for a GGUF file, read from its log while it loads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from langchain_gpu.models.resolve import ModelNotFoundError, resolve
from langchain_gpu.planner import Chat, ComponentPlan, Encoder
from langchain_gpu.planner.drive import main_device, tensor_split
from langchain_gpu.planner.gguf_encoder import slots_of
from langchain_gpu.planner.terms import MIB
from langchain_gpu.verify.measured import Measured, compare

# As in: load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
_BUFFER = re.compile(
    r"(\S+)\s+(model|KV|RS|compute|output) buffer size\s*=\s*([0-9.]+) MiB", re.IGNORECASE
)
_PURPOSE = {
    "model": "weights",
    "kv": "kv_cache",
    "rs": "kv_cache",
    "compute": "activations",
    "output": "activations",
}
_SECONDS = 600
_SHOWN = 2000


def measure_llama(component: Chat | Encoder, planned: ComponentPlan) -> Measured:
    """Load the file in a process of its own and add up the buffers that llama.cpp names.

    Raises:
        ModelNotFoundError: The file is not here.
        RuntimeError: It could not be loaded, llama.cpp does not see the GPU of the plan, it took
            too long, or no buffer was named.
    """
    path = _path(component)
    asked = what_to_load(path, component, planned)
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "langchain_gpu.verify.llama_child", json.dumps(asked)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{path}: llama.cpp did not load it in {_SECONDS} seconds") from error
    if done.returncode:
        raise RuntimeError(
            f"{path}: llama.cpp could not load it as planned:\n{done.stderr[-_SHOWN:]}"
        )
    measured = buffers(done.stderr)
    if "weights" not in measured:
        raise RuntimeError(f"{path}: llama.cpp named no buffers; its messages may have changed")
    rss = int(json.loads(done.stdout.splitlines()[-1])["rss"])
    how = "buffers that llama.cpp allocated: model, KV, compute and output"
    return compare(planned, measured, how=how, rss=rss)


def what_to_load(path: Path, component: Chat | Encoder, planned: ComponentPlan) -> dict[str, Any]:
    """Return what `llama_child` is told: the file, and each number of the plan."""
    device = main_device(planned)
    asked: dict[str, Any] = {
        "path": str(path),
        "device": device,
        "n_gpu_layers": max(0, planned.n_gpu_layers or 0),
        "tensor_split": tensor_split(planned),
    }
    if isinstance(component, Encoder):
        slots = slots_of(device)
        return {**asked, "n_ctx": planned.max_batch_tokens, "n_parallel": slots, "embedding": True}
    return {
        **asked,
        "n_ctx": planned.context,
        "n_parallel": component.sequences,
        "cache_dtype": component.cache_dtype,
        "ubatch": component.ubatch,
    }


def _path(component: Chat | Encoder) -> Path:
    """Return the file that was planned for; its name alone may mean another quantization."""
    file = next(iter(component.info.files), "")
    named = Path(component.info.name).expanduser()
    if named.is_dir() and (named / file).is_file():
        return named / file
    found = resolve(component.info.name, kind="gguf", local_files_only=True).path
    if file and found.name != Path(file).name:
        found = found.parent / Path(file).name
        if not found.is_file():
            raise ModelNotFoundError(
                f"{component.info.name}: {file} is not on this machine; download it, then verify"
            )
    return found


def buffers(log: str) -> dict[str, int]:
    """Add up the buffers named in llama.cpp's messages, in bytes by purpose.

    A device's buffers of weights are as many as the model has files, and caches of layers with and
    without a window are two: these add up. What it computes in is reserved again when a setting
    changes what is computed, in the place of what was there: the last counts.
    """
    last: dict[tuple[str, str, int], float] = {}
    seen: dict[tuple[str, str], int] = {}
    for line in log.splitlines():
        if (match := _BUFFER.search(line)) is None:
            continue
        device, kind = match[1], match[2].lower()
        place = seen.get((device, kind), 0) if _PURPOSE[kind] != "activations" else 0
        seen[device, kind] = place + 1
        last[device, kind, place] = float(match[3])
    found: dict[str, int] = {}
    for (_, kind, _), mib in last.items():
        purpose = _PURPOSE[kind]
        found[purpose] = found.get(purpose, 0) + round(mib * MIB)
    return found


__all__ = ["buffers", "measure_llama", "what_to_load"]
