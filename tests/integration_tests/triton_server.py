"""A real Triton on a loopback port, with the models of `examples/triton`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from langchain_gpu.models.resolve import resolve
from tests.integration_tests.servers import Running, free_port, serve

ROOT = Path(__file__).parents[2]


def folder() -> Path:
    """Where `.ci/servers.sh` put it; skips where it did not run."""
    found = Path(os.environ.get("LANGCHAIN_GPU_SERVERS", ROOT / ".servers")) / "triton"
    if not (found / ".stamp").is_file():
        pytest.skip(f"no Triton in {found}; run .ci/servers.sh, or set LANGCHAIN_GPU_SERVERS")
    return found


def make_models(work: Path, reranker: Path) -> Path:
    """Make the example's model repository as its README says, with one chat at a time."""
    small = resolve("HuggingFaceTB/SmolLM2-135M-Instruct", kind="gguf").path
    minilm = resolve("sentence-transformers/all-MiniLM-L6-v2").path
    models = work / "models"
    command = [sys.executable, str(ROOT / "examples" / "triton" / "export.py"), str(models)]
    command += ["--embed", str(minilm), "--rerank", str(reranker), "--chat", str(small)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)  # noqa: S603
    config = models / "chat" / "config.pbtxt"
    # More threads than there are free cores spin: one is enough for a test.
    text = config.read_text()
    for name in ("n_parallel", "n_threads"):
        before = f'key: "{name}" value: {{ string_value: "2" }}'
        assert before in text
        text = text.replace(before, before.replace('"2"', '"1"'))
    config.write_text(text)
    broken = models / "broken"
    shutil.copytree(models / "embed", broken)
    (broken / "1" / "model.onnx").unlink()
    return models


@contextmanager
def triton(work: Path, reranker: Path) -> Iterator[Running]:
    """Run Triton; the URL is that of its gRPC port. Its model `broken` cannot be loaded."""
    environment = folder()
    packages = next(environment.glob("lib/python3*/site-packages"))
    server = packages / "pytriton" / "tritonserver"
    models, port, grpc_port = make_models(work, reranker), free_port(), free_port()
    command = [
        str(server / "bin" / "tritonserver"),
        *("--model-repository", str(models), "--backend-directory", str(server / "backends")),
        *("--http-address", "127.0.0.1", "--http-port", str(port)),
        *("--grpc-address", "127.0.0.1", "--grpc-port", str(grpc_port)),
        *("--allow-metrics", "false", "--exit-on-error", "false"),
    ]
    variables = {
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }
    # It never calls itself ready with a model that is not: live is enough, and `chat` is last.
    health = "/v2/models/chat/ready"
    with serve(command, variables, port, health, work / "log") as running:
        yield Running(f"grpc://127.0.0.1:{grpc_port}", running.log, running.process)
