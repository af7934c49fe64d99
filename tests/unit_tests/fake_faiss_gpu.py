"""A stand-in for the GPU parts of FAISS, which fails in FAISS's own words."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest

from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import Nvidia
from langchain_gpu.search import faiss_gpu, kinds, route
from langchain_gpu.search.base import VectorIndex

K_LIMIT = 2048
CARD = GPU(name="NVIDIA H100", capability="9.0", memory_total=80 * 2**30)

# Thrown by FAISS 1.15 as RuntimeError; the first is `validateKSelect`, the second `allocMemory`.
K_ERROR = (
    "Error in void faiss::gpu::validateKSelect(int, bool) at /project/faiss/gpu/impl/IndexUtils.cu"
    ":29: Error: 'k > 0 && k <= getMaxKSelection(use_cuvs)' failed: GPU index only supports "
    "min/max-K selection up to 2048 (requested {k})"
)
MEMORY_ERROR = (
    "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(const faiss::gpu::"
    "AllocRequest&) at /project/faiss/gpu/StandardGpuResources.cpp:579: Error: 'err == cudaSuccess'"
    " failed: StandardGpuResources: alloc fail type FlatData dev 0 space Device stream 0x5582 size "
    "1536000000 bytes (cudaMalloc error out of memory [2])\n"
)


NPROBE_ERROR = (
    "Error in void faiss::gpu::validateNProbe(size_t, bool) at /project/faiss/gpu/impl/IndexUtils"
    ".cu:40: Error: 'nprobe > 0 && nprobe <= getMaxKSelection(use_cuvs)' failed: GPU IVF index "
    "only supports nprobe selection up to 2048 (requested {nprobe})"
)
KIND_ERROR = (
    "Error in virtual faiss::Index* faiss::gpu::ToGpuCloner::clone_Index(const faiss::Index*) at "
    "/project/faiss/gpu/GpuCloner.cpp:244: Error: 'false' failed: This index type is not "
    "implemented on GPU."
)


class FakeGPU:
    """What the GPU parts of FAISS do, on the CPU."""

    def __init__(self) -> None:
        self.copies = 0
        self.searches = 0
        self.temporary: list[int] = []
        self.memory_error_in: set[str] = set()
        self.busy = threading.Lock()
        self.options: list[Any] = []
        self.shared_by: list[int] = []
        self.rounding = False

    def resources(self) -> Any:
        fake = self

        class StandardGpuResources:
            def setTempMemory(self, size: int) -> None:  # noqa: N802 - FAISS's name
                fake.temporary.append(size)

        return StandardGpuResources()

    def index_cpu_to_gpu(self, _resources: Any, device: int, index: Any, options: Any) -> Any:
        assert device == 0
        assert not isinstance(index, faiss.IndexIDMap)
        if "copy" in self.memory_error_in:
            raise RuntimeError(MEMORY_ERROR)
        if isinstance(index, faiss.IndexScalarQuantizer):
            if index.sq.qtype != faiss.ScalarQuantizer.QT_fp16:
                raise RuntimeError(KIND_ERROR)
            index = self.halved(index)
        elif options.useFloat16 and isinstance(index, faiss.IndexFlat):
            index = self.halved(index)
        self.copies += 1
        self.options.append(options)
        return Mirror(self, faiss.clone_index(index))

    def index_cpu_to_gpu_multiple_py(
        self, resources: list[Any], index: Any, options: Any, gpus: list[int]
    ) -> Any:
        assert len(resources) == len(gpus)
        assert options.shard
        assert isinstance(index, (faiss.IndexFlat, faiss.IndexIVF)), "FAISS would clone to the CPU"
        self.copies += 1
        self.shared_by = gpus
        return Mirror(self, faiss.clone_index(index))

    def halved(self, index: Any) -> Any:
        """Round the vectors and their products to 16 bits, in an index that hides it."""
        rounded = faiss.IndexFlat(index.d, index.metric_type)
        rounded.add(index.reconstruct_n(0, index.ntotal).astype(np.float16).astype(np.float32))
        self.rounding = True
        return rounded


class Mirror:
    def __init__(self, fake: FakeGPU, index: Any) -> None:
        self.fake = fake
        self.index = index

    def search(self, queries: Any, k: int, params: Any = None) -> Any:
        assert self.fake.busy.acquire(blocking=False), "two threads use one resources object"
        try:
            if k > K_LIMIT:
                raise RuntimeError(K_ERROR.format(k=k))
            if "search" in self.fake.memory_error_in:
                raise RuntimeError(MEMORY_ERROR)
            if params is not None and params.nprobe > K_LIMIT:
                raise RuntimeError(NPROBE_ERROR.format(nprobe=params.nprobe))
            self.fake.searches += 1
            scores, found = self.index.search(queries, k, params=params)
            if not self.fake.rounding:
                return scores, found
            scores = scores.astype(np.float16).astype(np.float32)
            order = np.argsort(-scores, axis=1, kind="stable")  # as a device that sees only halves
            return np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
        finally:
            self.fake.busy.release()


@pytest.fixture
def fake_faiss_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    """A build of FAISS that sees two cards; a file calls it `fake`."""
    fake = FakeGPU()
    monkeypatch.setattr(faiss, "StandardGpuResources", fake.resources, raising=False)
    for name in ("index_cpu_to_gpu", "index_cpu_to_gpu_multiple_py"):
        monkeypatch.setattr(faiss, name, getattr(fake, name), raising=False)
    for name in ("GpuClonerOptions", "GpuMultipleClonerOptions"):
        monkeypatch.setattr(faiss, name, SimpleNamespace, raising=False)
    monkeypatch.setattr(faiss_gpu, "prove", lambda _index: None)
    monkeypatch.setattr(route, "read_nvidia", lambda: Nvidia(gpus=(CARD, CARD)))
    monkeypatch.setattr(route, "select_device", no_torch_here)
    return fake


def no_torch_here(name: str) -> Device:
    if name != "cpu":
        raise DeviceNotFoundError(f"device {name!r} cannot be used")
    return select_device("cpu")


def filled(count: int = 60) -> VectorIndex:
    index = kinds.get("flat").create(8, "ip")
    stored = np.random.default_rng(0).standard_normal((count, 8), dtype=np.float32)
    index.add(np.arange(500, 500 + count, dtype=np.int64), stored)
    return index


def queries(count: int = 3) -> Any:
    return np.random.default_rng(1).standard_normal((count, 8), dtype=np.float32)


def truth(index: VectorIndex, k: int) -> Any:
    return index.search(queries(), k).rows.tolist()
