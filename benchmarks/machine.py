"""What the machine can do at best, and what a process took of its memory."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from langchain_gpu import Device

# (rows, inner, columns): squares for the machine, and what models of 384 and 768 multiply.
_CPU_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (2048, 384, 1536), (2048, 3072, 768))
_GPU_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096))
# The instructions that oneDNN may take, torch's and OpenVINO's alike.
_ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
_PACKAGES = (
    "faiss-cpu",
    "faiss-gpu",
    "faiss-gpu-cuvs",
    "flash-attn",
    "langchain-gpu",
    "langchain-huggingface",
    "numpy",
    "ollama",
    "openai",
    "openvino",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
    "xllamacpp",
)


def synchronize(torch_name: str) -> None:
    """Wait until a GPU has done what it was given; nothing on a CPU."""
    if torch_name.startswith("cuda"):
        import torch

        torch.cuda.synchronize(torch_name)
    elif torch_name.startswith("xpu"):
        import torch

        torch.xpu.synchronize(torch_name)
    elif torch_name == "mps":
        import torch

        torch.mps.synchronize()


def clock(torch_name: str) -> float:
    """Return the time in seconds, once the device is idle."""
    synchronize(torch_name)
    return perf_counter()


def peak_rate(torch_name: str, dtype: str, *, seconds: float = 0.2) -> float:
    """Return the best rate of a dense matrix product, in FLOP/s.

    Args:
        torch_name: Where, as torch calls it.
        dtype: A floating dtype of torch. There is no figure for int8: torch's own product of it is
            far from what other libraries reach on the same CPU.
        seconds: How long each shape is repeated.
    """
    import torch

    kind: torch.dtype = getattr(torch, dtype)
    best = 0.0
    for rows, inner, columns in _CPU_SHAPES if torch_name == "cpu" else _GPU_SHAPES:
        left = torch.randn(rows, inner, device=torch_name).to(kind)
        right = torch.randn(inner, columns, device=torch_name).to(kind)
        out = torch.empty(rows, columns, device=torch_name, dtype=kind)
        for _ in range(2):
            torch.mm(left, right, out=out)
        # Between two looks at the clock the device gets work enough to forget them.
        steps = 1 if torch_name == "cpu" else 20
        began, times = clock(torch_name), 0
        while (spent := clock(torch_name) - began) < seconds or not times:
            for _ in range(steps):
                torch.mm(left, right, out=out)
            times += steps
        best = max(best, 2 * rows * inner * columns * times / spent)
    return best


def bandwidth(torch_name: str, *, seconds: float = 0.2) -> float:
    """Return the bytes that are read and written in a second, at best, while memory is copied."""
    import torch

    count = 2**26 if torch_name == "cpu" else 2**30
    source = torch.zeros(count, dtype=torch.uint8, device=torch_name)
    target = torch.zeros_like(source)
    target.copy_(source)
    best, end = 0.0, clock(torch_name) + seconds
    while (began := clock(torch_name)) < end or not best:
        for _ in range(4):
            target.copy_(source)
        best = max(best, 8 * count / (clock(torch_name) - began))
    return best


def peak_memory() -> int:
    """Return the most bytes of memory this process has held so far.

    On Linux that is VmHWM: `ru_maxrss` survives `exec`, so that a process started by a large one
    would seem as large.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def describe(device: Device) -> dict[str, Any]:
    """Return what of a device belongs into a result."""
    return {
        "kind": device.kind,
        "name": device.name,
        "cores": device.cores,
        "isa": list(device.isa),
        "isa_limit": os.environ.get(_ISA_LIMIT),
        "capability": device.capability,
        "memory_total": device.memory_total,
    }


def versions() -> dict[str, str]:
    """Return the versions of what takes part."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def slug(name: str) -> str:
    """Return a name as a part of a file name."""
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))
