"""Memory of a device: free bytes, releasing the cache, recognizing out-of-memory errors.

Nothing here imports torch or initializes a device: a process that never touched torch holds none
of its memory.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import re
import sys
from typing import Any

from langchain_gpu.hardware.amd import read_amd
from langchain_gpu.hardware.cpu import read_memory
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.gpu import visible_amd, visible_nvidia
from langchain_gpu.hardware.nvidia import read_nvidia

# What the libraries say when an allocation fails. Each pattern names an allocator or a status
# code: a sentence that merely speaks of memory must not match.
_PHRASES = (
    # torch on a GPU: "CUDA out of memory.", "CUDA error: out of memory", "MPS backend out of ..."
    r"\b(CUDA|HIP|MPS|XPU)( backend| error:| driver error:)? out of memory",
    r"\b(cuda|hip)ErrorOutOfMemory\b",
    r"\bcudaErrorMemoryAllocation\b",
    # what torch compiles: a kernel that is loaded when the card is full
    r"Triton Error \[(CUDA|HIP)\]: out of memory",
    # torch on the CPU: "can't allocate memory" on Linux, "not enough memory" on Windows
    r"DefaultCPUAllocator: (can't allocate|not enough) memory",
    # the vendors' libraries below torch
    r"\b(CUBLAS|CUSOLVER|CUSPARSE|CUDNN|HIPBLAS|HIPSOLVER|HIPSPARSE)_STATUS_ALLOC_FAILED\b",
    r"\bCUFFT_ALLOC_FAILED\b",
    r"\bCUDNN_STATUS_INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED\b",
    r"\brocblas_status_memory_error\b",
    r"\bmiopenStatusAllocFailed\b",
    # Intel: SYCL's unified runtime, Level Zero, OpenCL (OpenVINO's GPU plugin), oneDNN
    r"\bUR_RESULT_ERROR_OUT_OF_(RESOURCES|(HOST|DEVICE)_MEMORY)\b",
    r"\bZE_RESULT_ERROR_OUT_OF_(HOST|DEVICE)_MEMORY\b",
    r"\bCL_(OUT_OF_RESOURCES|OUT_OF_HOST_MEMORY|MEM_OBJECT_ALLOCATION_FAILURE)\b",
    r"\[GPU\] Exceeded max size of memory (object )?allocation",
    r"could not create a memory object|\bdnnl_out_of_memory\b",
    # ONNX Runtime
    r"Failed to allocate memory for requested buffer",
    r"BFCArena::\w+.*(Failed to allocate|smaller than requested)",
    r"\b(CUDA|HIP) failure \d+: out of memory",  # a call below its arena
    # FAISS
    r"faiss::gpu::StandardGpuResourcesImpl::allocMemory.*fail",
    r"\bcudaMalloc error out of memory",
    # llama.cpp
    r"\bcudaMalloc failed: out of memory",
    r"unable to allocate \w+ buffer",
    r"failed to allocate (compute buffers|compute [pt][pg] buffers|buffer for kv cache)",
    # C++, as every binding passes it on ("bad allocation" is Windows')
    r"\bstd::bad_alloc\b|^bad allocation$",
)
_OUT_OF_MEMORY = re.compile("|".join(_PHRASES), re.DOTALL)


def is_out_of_memory(exc: BaseException) -> bool:
    """Say whether `exc`, or an exception it was raised from, means that memory ran out.

    Args:
        exc: An exception of torch (CUDA, ROCm, XPU, MPS, CPU), ONNX Runtime, OpenVINO, FAISS,
            llama.cpp, NumPy or Python itself.
    """
    seen: set[int] = set()
    current: BaseException | None = exc
    while current is not None and id(current) not in seen:
        if _is_one(current):
            return True
        seen.add(id(current))
        current = current.__cause__
    return False


def _is_one(exc: BaseException) -> bool:
    torch = _loaded_torch()  # one class for CUDA, ROCm and XPU
    if isinstance(exc, MemoryError) or (torch and isinstance(exc, torch.OutOfMemoryError)):
        return True
    if isinstance(exc, OSError):  # mapping a file of weights
        return exc.errno == errno.ENOMEM
    # torch, FAISS and OpenVINO raise RuntimeError; ONNX Runtime's classes derive from Exception.
    speaks = isinstance(exc, RuntimeError) or type(exc).__module__.startswith("onnxruntime")
    return speaks and _OUT_OF_MEMORY.search(str(exc)) is not None


def release(device: Device) -> None:
    """Give memory back: collect garbage, then empty the caches kept for `device`.

    On the CPU that is what the C library keeps of freed memory, on a GPU what torch does. Call it
    outside an `except` block: inside, the traceback still holds the tensors.
    """
    gc.collect()
    if device.kind == "cpu":
        _trim()
    torch = _loaded_torch()
    if torch is None:
        return
    if device.kind in {"cuda", "rocm"} and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif device.kind == "xpu" and torch.xpu.is_initialized():
        torch.xpu.empty_cache()
    elif device.kind == "mps":
        torch.mps.empty_cache()


def _trim() -> None:
    """Let glibc return the pages of freed blocks; other C libraries do that by themselves."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def free_memory(device: Device) -> int | None:
    """Return the bytes this process could take on `device` now, None where nobody can tell.

    Where torch runs on the device, what it has cached and not used counts as free; elsewhere the
    driver is asked, which makes no context.
    """
    if device.kind == "remote":
        return None
    if device.kind in {"cuda", "rocm", "xpu"}:
        return _free_on_card(device)
    free = read_memory()[1]
    torch = _loaded_torch()
    if device.kind == "mps" and torch is not None and free is not None:
        # One pool with the CPU, of which Metal recommends a part.
        left: int = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
        return max(0, min(free, left))
    return free


def _free_on_card(device: Device) -> int | None:
    torch, index = _loaded_torch(), device.index or 0
    api = None if torch is None else torch.xpu if device.kind == "xpu" else torch.cuda
    if api is not None and api.is_initialized():
        free: int = api.mem_get_info(index)[0]
        cached: int = api.memory_reserved(index) - api.memory_allocated(index)
        return free + cached
    if device.kind == "xpu":  # no driver to ask without initializing it
        return device.memory_free
    return _ask_driver(device.kind, index)


def has_context(device: Device) -> bool:
    """Say whether torch has opened a GPU in this process, so that its own overhead is taken."""
    torch = _loaded_torch()
    if torch is None or device.kind not in {"cuda", "rocm", "xpu"}:
        return False
    return bool((torch.xpu if device.kind == "xpu" else torch.cuda).is_initialized())


def _ask_driver(kind: str, index: int) -> int | None:
    if kind == "cuda":
        gpus = visible_nvidia(read_nvidia().gpus, os.environ)
    else:
        gpus = visible_amd(read_amd().gpus, os.environ)
    return gpus[index].memory_free if index < len(gpus) else None


def _loaded_torch() -> Any:
    """Return torch if this process has imported it to the end, else None."""
    torch = sys.modules.get("torch")
    half_way = getattr(getattr(torch, "__spec__", None), "_initializing", False)  # another thread
    return None if half_way else torch


__all__ = ["free_memory", "has_context", "is_out_of_memory", "release"]
