"""What an index of each kind becomes on a GPU, and which searches stay on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.embeddings import FakeEmbeddings

from langchain_gpu.events import FallbackWarning
from langchain_gpu.planner import Index, Plan, imagined, plan
from langchain_gpu.search import kinds
from langchain_gpu.search.base import TEMPORARY_BYTES, Effort, Metric, VectorIndex
from langchain_gpu.search.route import Route
from langchain_gpu.vectorstores import FAISSVectorStore
from tests.unit_tests.fake_faiss_gpu import (
    K_LIMIT,
    FakeGPU,
    Mirror,
    fake_faiss_gpu,
    filled,
    queries,
    truth,
)

fake = fake_faiss_gpu


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
    with pytest.raises(
        ValueError,
        match="the plan has 0 components with the role 'index', and one is needed; it has: none",
    ):
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
