"""The GPU mirror and the way back to the CPU, with a stand-in that fails in FAISS's own words."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu.events import Event, FallbackWarning, FellBack
from langchain_gpu.hardware.nvidia import NO_PACKAGE, Nvidia
from langchain_gpu.search import faiss_gpu, route
from langchain_gpu.search.base import TEMPORARY_BYTES
from langchain_gpu.search.route import Route
from langchain_gpu.vectorstores import FAISSVectorStore
from tests.unit_tests.fake_faiss_gpu import FakeGPU, fake_faiss_gpu, filled, queries, truth

fake = fake_faiss_gpu


def test_the_cpu_build_asks_nobody_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "read_nvidia", lambda: pytest.fail("the driver was asked"))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    device = Route("auto").device
    assert device.kind == "cpu"
    assert "CPU build" in device.reason
    assert "faiss-gpu" in device.reason


def test_the_cpu_can_be_asked_for() -> None:
    assert Route("cpu").device.kind == "cpu"
    assert Route(torch.device("cpu")).device.kind == "cpu"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cuad", "cpu:1", "cuda:", "cuda:-1", "", "CUDA"])
def test_a_name_that_means_nothing_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="is not a device"):
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
