from __future__ import annotations

import errno
import gc
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pynvml
import pytest
import torch

from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release

CUDA = Device(kind="cuda", index=1, name="a card", reason="test")
CPU = Device(kind="cpu", name="a processor", reason="test")


class OrtError(Exception):
    """ONNX Runtime's classes derive from Exception and live in this module."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


REAL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    torch.cuda.OutOfMemoryError("HIP out of memory. Tried to allocate 2.00 GiB."),
    torch.OutOfMemoryError("XPU out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported", 2),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.3 GB, other allocations: 1 GB)"),
    RuntimeError("XPU out of memory, please use `empty_cache` to release all unoccupied memory"),
    RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    RuntimeError("Native API failed: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 4503599627370496 bytes."
    ),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("could not create a memory object"),
    RuntimeError("[GPU] Exceeded max size of memory object allocation: requested 5 bytes"),
    RuntimeError("[GPU] clEnqueueNDRangeKernel, error code: -5 CL_OUT_OF_RESOURCES"),
    RuntimeError("std::bad_alloc"),
    RuntimeError(
        "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(const "
        "faiss::gpu::AllocRequest&) at StandardGpuResources.cpp:452: Error: 'err == cudaSuccess' "
        "failed: StandardGpuResources: alloc fail type TemporaryMemoryBuffer dev 0 space Device "
        "stream 0x1 size 1610612736 bytes (cudaMalloc error out of memory [2])"
    ),
    RuntimeError(
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB on device 0: "
        "cudaMalloc failed: out of memory"
    ),
    RuntimeError("unable to allocate CUDA0 buffer"),
    OrtError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "
        "MatMul node. bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, "
        "bool) Failed to allocate memory for requested buffer of size 402653184"
    ),
    OrtError(
        "onnxruntime::BFCArena::AllocateRawInternal Available memory of 0 is smaller than "
        "requested bytes of 1024"
    ),
    OrtError(
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Attention "
        "node. CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc(&p, size);"
    ),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", REAL, ids=lambda error: str(error)[:40])
def test_every_library_is_understood(error: Exception) -> None:
    assert is_out_of_memory(error)
    outer = RuntimeError("the batch failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA out of memory"),
        RuntimeError("the documentation of `out of memory` is missing"),
        RuntimeError("CUDA error: device-side assert triggered; this is not out of memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Input is not contiguous in memory"),
        RuntimeError("memory format channels_last needs 4 dimensions"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("BFCArena is no option of this provider"),
        RuntimeError("Error in void faiss::IndexFlat::search(): 'k > 0' failed"),
        OSError(errno.ENOENT, "No such file", "out of memory.txt"),
        OrtError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Unexpected input data type"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: str(error)[:40],
)
def test_other_errors_are_left_alone(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_an_error_met_while_handling_another_is_no_cause() -> None:
    outer = ValueError("bad input")
    outer.__context__ = MemoryError()
    assert not is_out_of_memory(outer)


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_out_of_memory(first)


def test_what_numpy_and_torch_really_raise() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 55, dtype=np.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as from_torch:
        torch.empty(1 << 50)
    assert is_out_of_memory(from_torch.value)


def test_what_faiss_really_raises() -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatL2(1 << 20)
    with pytest.raises(MemoryError) as caught:
        index.codes.resize(1 << 50)
    assert is_out_of_memory(caught.value)


def test_release_collects_garbage() -> None:
    class Circle:
        def __init__(self) -> None:
            self.me = self

    gc.disable()
    try:
        gone = weakref.ref(Circle())
        release(CPU)
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(("kind", "api"), [("cuda", "cuda"), ("rocm", "cuda"), ("xpu", "xpu")])
def test_release_empties_the_cache_of_a_device_in_use(
    monkeypatch: pytest.MonkeyPatch, kind: str, api: str
) -> None:
    calls: list[str] = []
    module = getattr(torch, api)
    monkeypatch.setattr(module, "empty_cache", lambda: calls.append(api))
    device = Device(kind=kind, index=0, name="a card", reason="test")  # type: ignore[arg-type]  # one of three
    monkeypatch.setattr(module, "is_initialized", lambda: False)
    release(device)
    assert calls == []  # nothing is cached on a device that never woke up
    monkeypatch.setattr(module, "is_initialized", lambda: True)
    release(device)
    assert calls == [api]


def test_free_memory_of_the_cpu() -> None:
    free = free_memory(select_device("cpu"))
    assert free is not None
    assert free > 0
    assert free_memory(Device(kind="remote", name="a host", reason="test")) is None


def test_free_memory_asks_nvml_before_cuda_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    def capability(_: object) -> tuple[int, int]:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    answers: dict[str, object] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
        "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": lambda i: i,
        "nvmlDeviceGetName": str,
        "nvmlDeviceGetUUID": "GPU-{}".format,
        "nvmlDeviceGetMigMode": capability,
        "nvmlDeviceGetCudaComputeCapability": capability,
        "nvmlDeviceGetMemoryInfo": lambda i: SimpleNamespace(total=100, free=10 * i),
    }
    for name, function in answers.items():
        monkeypatch.setattr(pynvml, name, function)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert free_memory(CUDA) == 10
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert free_memory(CUDA) == 20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert free_memory(CUDA) is None


def test_free_memory_counts_what_torch_has_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (100 + index, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20)
    assert free_memory(CUDA) == 131


def test_free_memory_of_sleeping_xpu_is_what_was_seen() -> None:
    seen = Device(kind="xpu", index=0, name="Arc", reason="test", memory_free=5)
    assert free_memory(seen) == 5


def test_free_memory_of_a_mac_is_what_metal_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 3000)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 1000)
    assert free_memory(Device(kind="mps", index=0, name="M2", reason="test")) == 2000


def test_torch_is_not_imported_for_any_of_it() -> None:
    code = (
        "import sys\n"
        "from langchain_gpu.hardware.devices import Device\n"
        "from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release\n"
        "assert not is_out_of_memory(ValueError('x')) and is_out_of_memory(MemoryError())\n"
        "for kind in ('cpu', 'cuda', 'rocm', 'xpu', 'mps'):\n"
        "    device = Device(kind=kind, index=0, name='', reason='')\n"
        "    release(device), free_memory(device)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603
