"""The GPU mirror and the way back to the CPU, with a stand-in that fails in FAISS's own words."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, FakeEmbeddings

from langchain_gpu.events import Event, FallbackWarning, FellBack
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import NO_PACKAGE, Nvidia
from langchain_gpu.planner import Index, Plan, imagined, plan
from langchain_gpu.search import faiss_gpu, kinds, route
from langchain_gpu.search.base import TEMPORARY_BYTES, Effort, Metric, VectorIndex
from langchain_gpu.search.route import Route
from langchain_gpu.vectorstores import FAISSVectorStore

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
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
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


def test_the_cpu_build_asks_nobody_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "read_nvidia", lambda: pytest.fail("the driver was asked"))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    device = Route("auto").device
    assert device.kind == "cpu"
    assert "CPU build" in device.reason
    assert "faiss-gpu" in device.reason


def test_the_cpu_can_be_asked_for() -> None:
    assert Route("cpu").device.kind == "cpu"


@pytest.mark.parametrize("name", ["cuad", "cpu:1", "cuda:", "cuda:-1", "", "CUDA"])
def test_a_name_that_means_nothing_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="names no device"):
        Route(name)


def test_a_gpu_asked_for_under_a_cpu_build_falls_back_once_and_says_how_to_get_one() -> None:
    events: list[Event] = []
    asked = Route("cuda:0", events.append)
    index = filled()
    with pytest.warns(FallbackWarning, match="CPU build.*faiss-gpu"):
        assert asked.device.kind == "cpu"
    assert asked.search(index, queries(), 4).rows.tolist() == truth(index, 4)
    asked.report()
    assert [type(event) for event in events] == [FellBack]
    assert "not on cuda:0" in asked.device.reason


@pytest.mark.parametrize("name", ["mps", "xpu", "rocm:0"])
def test_devices_without_faiss_kernels_fall_back(name: str) -> None:
    with pytest.warns(FallbackWarning, match="no kernels for .*cannot be used"):
        assert Route(name).device.kind == "cpu"


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_the_mirror_answers_with_rows(fake: FakeGPU, name: str) -> None:
    asked, index = Route(name), filled()
    found = asked.search(index, queries(), 5)
    assert found.rows.tolist() == truth(index, 5)
    assert (fake.copies, fake.searches) == (1, 1)
    assert str(asked.device) == "cuda:0"
    assert asked.device.name == "NVIDIA H100"
    assert "test vector" in asked.device.reason
    assert fake.temporary == [TEMPORARY_BYTES]


def test_fewer_rows_than_k_end_in_minus_one(fake: FakeGPU) -> None:
    found = Route("cuda").search(filled(2), queries(1), 4)
    assert sorted(found.rows[0].tolist()) == [-1, -1, 500, 501]
    assert fake.searches == 1


def test_the_mirror_is_copied_again_only_after_a_change(fake: FakeGPU) -> None:
    asked, index = Route("cuda"), filled()
    for _ in range(3):
        asked.search(index, queries(), 5)
    assert fake.copies == 1
    index.remove(np.array([500, 501, 533], dtype=np.int64))
    assert fake.copies == 1
    assert asked.search(index, queries(), 5).rows.tolist() == truth(index, 5)
    assert fake.copies == 2
    other = filled(9)
    assert asked.search(other, queries(), 5).rows.tolist() == truth(other, 5)
    assert fake.copies == 3


@pytest.mark.parametrize("ids", [None, ["0", "1", "2"]], ids=["all", "each"])
def test_a_store_without_documents_holds_nothing_on_the_card(
    fake: FakeGPU, ids: list[str] | None
) -> None:
    store = FAISSVectorStore(DeterministicFakeEmbedding(size=8), device="cuda:0")
    store.add_texts(["a", "b", "c"], ids=["0", "1", "2"])
    store.similarity_search("a", k=1)
    store.hybrid_search("a")
    (searcher,) = store._route._mirrors
    assert isinstance(searcher, faiss_gpu.FaissGPU)
    copy = weakref.ref(searcher._mirror)
    assert copy() is not None
    store.delete(ids)
    assert copy() is None
    assert len(store._words._state.parts) == 0
    store.add_texts(["a"], ids=["3"])
    assert [found.id for found in store.hybrid_search("a")] == ["3"]
    assert fake.copies == 2


def test_k_above_the_kernels_limit_goes_to_the_cpu_and_is_told_once(fake: FakeGPU) -> None:
    events: list[Event] = []
    asked, index = Route("cuda", events.append), filled(3000)
    asked.search(index, queries(), 5)
    for _ in range(2):
        found = asked.search(index, queries(), 2500)
        assert found.rows.tolist() == truth(index, 2500)
    with pytest.warns(FallbackWarning, match="selection up to 2048") as told:
        asked.report()
    asked.report()
    assert len(told) == len(events) == 1
    asked.search(index, queries(), 5)
    assert fake.searches == 2  # the limit was that search's, not the GPU's end
    assert asked.device.kind == "cuda"


def test_filters_go_to_the_cpu_for_the_gpu_would_ignore_them(fake: FakeGPU) -> None:
    asked, index = Route("cuda"), filled()
    found = asked.search(index, queries(), 2, np.array([507, 511], dtype=np.int64))
    assert sorted(found.rows[0].tolist()) == [507, 511]
    assert fake.searches == 0
    with pytest.warns(FallbackWarning, match="no filters on a GPU"):
        asked.report()


def test_an_index_that_does_not_fit_gives_the_gpu_up(fake: FakeGPU) -> None:
    fake.memory_error_in.add("copy")
    asked, index = Route("cuda"), filled()
    assert asked.search(index, queries(), 4).rows.tolist() == truth(index, 4)
    with pytest.warns(FallbackWarning, match="cudaMalloc error out of memory"):
        asked.report()
    fake.memory_error_in.clear()
    asked.search(index, queries(), 4)
    assert fake.searches == 0
    assert asked.device.kind == "cpu"
    assert "given up" in asked.device.reason


def test_a_search_that_runs_out_of_memory_is_done_by_the_cpu(fake: FakeGPU) -> None:
    fake.memory_error_in.add("search")
    asked, index = Route("cuda"), filled()
    assert asked.search(index, queries(), 4).rows.tolist() == truth(index, 4)
    with pytest.warns(FallbackWarning, match="out of memory"):
        asked.report()
    fake.memory_error_in.clear()
    asked.search(index, queries(), 4)
    assert fake.searches == 1


def kind_of(name: str, count: int = 400, **options: int) -> VectorIndex:
    index = kinds.get(name, **options).create(8, "ip")  # type: ignore[arg-type] # numbers only
    stored = np.random.default_rng(0).standard_normal((count, 8), dtype=np.float32)
    if (improved := index.improve(stored)) is not None:
        improved()
    index.add(np.arange(500, 500 + count, dtype=np.int64), stored)
    return index


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_a_mirror_in_16_bits_gives_the_true_order(fake: FakeGPU, metric: Metric) -> None:
    rng = np.random.default_rng(4)
    # Many vectors that differ by less than 16 bits can tell.
    stored = (1 + rng.standard_normal((900, 8)) / 1000).astype(np.float32)
    index = kinds.get("flat").create(8, metric)
    index.add(np.arange(900, dtype=np.int64), stored)
    asked, sought = Route("cuda", dtype="float16"), np.ones((2, 8), dtype=np.float32)
    found = asked.search(index, sought, 7)
    exact = stored.astype(np.float64)
    scores = exact.sum(1) if metric == "ip" else -((exact - 1) ** 2).sum(1)
    best = np.argsort(-scores, kind="stable")[:7]
    assert found.rows.tolist() == [best.tolist()] * 2
    assert fake.options[0].useFloat16
    assert fake.searches > 1, "the first candidates proved nothing"
    asked.report()


@pytest.mark.usefixtures("fake")
def test_what_16_bits_cannot_prove_within_the_limit_goes_to_the_cpu() -> None:
    index = kinds.get("flat").create(8, "ip")
    stored = np.ones((5000, 8), dtype=np.float32)
    stored[4321] += 1e-4
    index.add(np.arange(5000, dtype=np.int64), stored)
    asked = Route("cuda", dtype="float16")
    assert asked.search(index, np.ones((1, 8), dtype=np.float32), 3).rows.tolist() == [[4321, 0, 1]]
    with pytest.warns(FallbackWarning, match="selection up to 2048"):
        asked.report()


def test_16_bit_floats_become_a_flat_index_there(fake: FakeGPU) -> None:
    index = kind_of("fp16")
    found = Route("cuda").search(index, queries(), 5)
    assert found.rows.tolist() == index.search(queries(), 5).rows.tolist()
    assert (fake.copies, fake.searches) == (1, 1)


@pytest.mark.usefixtures("fake")
def test_8_bit_vectors_have_no_form_there() -> None:
    asked, index = Route("cuda"), kind_of("sq8", train_size=50)
    found = asked.search(index, queries(), 5)
    assert found.rows.tolist() == index.search(queries(), 5).rows.tolist()
    with pytest.warns(FallbackWarning, match="not implemented on GPU"):
        asked.report()
    assert asked.device.kind == "cpu"


def test_lists_are_searched_there_with_the_effort_of_the_search(fake: FakeGPU) -> None:
    index = kind_of("IVF8,Flat", train_size=100)
    asked = Route("cuda")
    for effort in (Effort(), Effort(nprobe=1), Effort(nprobe=8)):
        found = asked.search(index, queries(), 3, None, effort)
        assert found.rows.tolist() == index.search(queries(), 3, None, effort).rows.tolist()
    assert (fake.copies, fake.searches) == (1, 3)


@pytest.mark.usefixtures("fake")
def test_lists_that_hold_too_few_are_searched_on_the_cpu() -> None:
    index = kind_of("IVF8,Flat", train_size=100)
    asked = Route("cuda")
    found = asked.search(index, queries(), 390, None, Effort(nprobe=1))
    assert (found.rows >= 0).all()
    with pytest.warns(FallbackWarning, match="fewer than 390"):
        asked.report()


def test_lists_above_the_kernels_limit_go_to_the_cpu(
    fake: FakeGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Mirror.search.__globals__, "K_LIMIT", 4)
    asked = Route("cuda")
    asked.search(kind_of("IVF8,Flat", train_size=100), queries(), 3, None, Effort(nprobe=8))
    assert fake.searches == 0
    with pytest.warns(FallbackWarning, match="nprobe selection up to"):
        asked.report()


@pytest.mark.parametrize("name", ["IVF8,Flat", "auto"], ids=["more than there are", "still flat"])
def test_lists_that_are_not_there_are_not_asked_for(fake: FakeGPU, name: str) -> None:
    asked = Route("cuda")
    index = kind_of(name, train_size=100)
    found = asked.search(index, queries(), 3, None, Effort(nprobe=K_LIMIT + 1))
    assert found.rows.tolist() == truth(kind_of("flat"), 3)
    assert fake.searches == 1


def test_product_quantizers_get_16_bit_tables(fake: FakeGPU) -> None:
    Route("cuda").search(kind_of("IVF2,PQ4x4", train_size=100), queries(), 3)
    assert fake.options[0].useFloat16


def test_a_graph_stays_on_the_cpu_and_says_so(fake: FakeGPU) -> None:
    asked, index = Route("cuda"), kind_of("hnsw")
    for _ in range(2):
        found = asked.search(index, queries(), 5)
        assert found.rows.tolist() == index.search(queries(), 5).rows.tolist()
    with pytest.warns(FallbackWarning, match="HNSW graph is walked on the CPU") as told:
        asked.report()
    assert (len(told), fake.copies) == (1, 0)


def test_several_gpus_share_the_vectors(fake: FakeGPU) -> None:
    asked, index = Route(["cuda:0", "cuda:1"]), filled()
    assert asked.search(index, queries(), 5).rows.tolist() == truth(index, 5)
    assert fake.shared_by == [0, 1]
    assert fake.temporary == [TEMPORARY_BYTES] * 2
    assert "cuda:0,1, which share" in asked.device.reason


def test_a_plan_says_where_and_how_much_room(fake: FakeGPU) -> None:
    index = Index(kind="flat", rows=9, dimension=4, bytes=144, temporary=2**20)
    gpu = plan([index], imagined([2**33], 2**34))
    store = FAISSVectorStore(FakeEmbeddings(size=4), plan=gpu)
    store.add_texts(["a", "b"])
    store.similarity_search("a")
    assert (str(store.device), fake.temporary) == ("cuda:0", [2**20])
    none = plan([index], imagined([2**20], 2**34))
    assert FAISSVectorStore(FakeEmbeddings(size=4), plan=none).device.kind == "cpu"
    with pytest.raises(ValueError, match="says 0 times where an index goes"):
        FAISSVectorStore(FakeEmbeddings(size=4), plan=Plan(components=(), pools=()))


def test_what_cannot_be_shared_goes_to_the_cpu(fake: FakeGPU) -> None:
    asked, index = Route(["cuda:0", "cuda:1"]), kind_of("fp16")
    found = asked.search(index, queries(), 5)
    assert found.rows.tolist() == index.search(queries(), 5).rows.tolist()
    with pytest.warns(FallbackWarning, match="shards of flat and IVF"):
        asked.report()
    assert fake.copies == 0


@pytest.mark.parametrize("names", [[], ["cuda:0", "cuda:0"], ["cuda:0", "cpu"], ["auto", "cuda:1"]])
def test_devices_that_cannot_share_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="only different cuda devices"):
        Route(names)


def test_threads_take_turns_on_the_gpu(fake: FakeGPU) -> None:
    asked, index = Route("cuda"), filled()
    expected = truth(index, 5)
    right: list[bool] = []

    def ask() -> None:
        found = [asked.search(index, queries(), 5).rows.tolist() for _ in range(50)]
        right.extend(rows == expected for rows in found)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 200
    assert fake.searches == 200


def test_auto_is_silent_without_a_card(fake: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "read_nvidia", Nvidia)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    device = Route("auto").device
    assert (device.kind, device.reason) == ("cpu", "NVIDIA GPUs here: 0")
    assert fake.copies == 0


@pytest.mark.usefixtures("fake")
def test_a_card_that_cannot_be_asked_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "read_nvidia", lambda: Nvidia(error=NO_PACKAGE))
    with pytest.warns(FallbackWarning, match="nvidia-ml-py"):
        assert Route("auto").device.kind == "cpu"


@pytest.mark.usefixtures("fake")
def test_a_card_that_is_not_there_is_told() -> None:
    with pytest.warns(FallbackWarning, match="NVIDIA GPUs here: 2"):
        assert Route("cuda:2").device.kind == "cpu"


@pytest.mark.usefixtures("fake")
def test_a_gpu_that_fails_its_trial_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_gpu, "prove", lambda _index: "a trial search failed: no kernel image")
    with pytest.warns(FallbackWarning, match="no kernel image"):
        assert Route("auto").device.kind == "cpu"


@pytest.fixture
def faiss_in_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `faiss` for child processes; this process keeps the real one."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    faiss_gpu.prove.cache_clear()
    yield tmp_path / "faiss.py"
    faiss_gpu.prove.cache_clear()


CHILD = """
import os, sys

class Index:
    def __init__(self, *_): pass
    def add(self, _): pass
    def search(self, vector, k):
        import numpy
        return None, numpy.zeros((1, 1), dtype="int64")

class Resources:
    def setTempMemory(self, _): pass

IndexFlatIP, StandardGpuResources = Index, Resources
get_num_gpus = lambda: 1

def index_cpu_to_gpu(resources, device, index):
    {body}
    return index
"""


def test_a_trial_that_works_proves_the_gpu(faiss_in_child: Path) -> None:
    faiss_in_child.write_text(CHILD.format(body="assert device == 0"))
    assert faiss_gpu.prove(0) is None


def test_a_trial_on_a_card_faiss_does_not_see_fails(faiss_in_child: Path) -> None:
    faiss_in_child.write_text(CHILD.format(body="pass"))
    assert "FAISS sees 1 GPUs" in str(faiss_gpu.prove(3))


def test_an_abort_inside_faiss_ends_the_child_only(faiss_in_child: Path) -> None:
    said = (
        "Faiss assertion 'err__ == cudaSuccess' failed in void faiss::gpu::runL2Norm(...) at "
        "/project/faiss/gpu/impl/L2Norm.cu:172; details: CUDA error 209 no kernel image is "
        "available for execution on the device"
    )
    faiss_in_child.write_text(CHILD.format(body=f"print({said!r}, file=sys.stderr); os.abort()"))
    assert "no kernel image is available" in str(faiss_gpu.prove(0))


def test_a_trial_that_hangs_is_ended(faiss_in_child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_gpu, "PROOF_SECONDS", 0.5)
    faiss_in_child.write_text(CHILD.format(body="import time; time.sleep(60)"))
    assert "could not be run" in str(faiss_gpu.prove(0))


def test_the_real_cpu_build_fails_its_trial() -> None:
    faiss_gpu.prove.cache_clear()
    assert "trial search failed" in str(faiss_gpu.prove(0))
    faiss_gpu.prove.cache_clear()


def test_searching_on_the_cpu_imports_no_torch() -> None:
    script = """
import sys
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_gpu import FAISSVectorStore
store = FAISSVectorStore.from_texts(["a", "b"], DeterministicFakeEmbedding(size=4))
assert store.similarity_search("a", k=1)[0].page_content == "a"
assert store.device.kind == "cpu"
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run(  # noqa: S603 - this interpreter, a fixed script
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
