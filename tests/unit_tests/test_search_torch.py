"""Exact search by torch, run on its CPU device, and the proof that rounded scores suffice."""

from __future__ import annotations

import weakref
from typing import Any, Literal

import faiss
import numpy as np
import pytest
import torch

from langchain_gpu.events import FallbackWarning
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import Nvidia
from langchain_gpu.search import faiss_gpu, kinds, route, torch_flat
from langchain_gpu.search.base import CannotSearch, Metric, VectorIndex
from langchain_gpu.search.rescore import Bound, prove
from langchain_gpu.search.route import Route
from langchain_gpu.search.torch_flat import TorchFlat

METRICS: list[Metric] = ["cosine", "ip", "l2"]
PLACE = Device(kind="cpu", name="test", reason="test")
# What torch raises on a card: its own class, and the first line of its own text.
MEMORY_ERROR = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.68 GiB"
)


def vectors(count: int, metric: Metric, *, repeated: bool = False, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((count, 24), dtype=np.float32)
    if repeated:
        made = made[rng.integers(0, max(count // 15, 1), count)]
    if metric == "cosine":
        made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def filled(stored: Any, metric: Metric, kind: str = "flat", **options: Any) -> VectorIndex:
    index = kinds.get(kind, **options).create(stored.shape[1], metric)
    if (improved := index.improve(stored)) is not None:
        improved()
    index.add(3 * np.arange(len(stored), dtype=np.int64) + 1, stored)
    return index


def truth(stored: Any, queries: Any, metric: Metric) -> Any:
    """Rows of `filled` in float64's order, the lowest of equals first."""
    left, right = queries.astype(np.float64), stored.astype(np.float64)
    if metric == "l2":
        scores = -((left[:, None] - right) ** 2).sum(-1)
    else:
        scores = np.einsum("qd,nd->qn", left, right)
    return 3 * np.argsort(-scores, axis=1, kind="stable") + 1


def started(index: VectorIndex, **options: Any) -> TorchFlat:
    searcher = TorchFlat(PLACE, **options)
    searcher.build(index)
    return searcher


@pytest.mark.parametrize("repeated", [False, True], ids=["different", "repeated"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_are_those_of_float64(
    metric: Metric,
    dtype: Literal["float16", "float32"],
    repeated: bool,  # noqa: FBT001 - a table's column
) -> None:
    stored, queries = vectors(1500, metric, repeated=repeated), vectors(20, metric, seed=1)
    index = filled(stored, metric)
    searcher = started(index, dtype=dtype, chunk_bytes=20_000)  # many chunks of both sides
    best = truth(stored, queries, metric)
    for k in (1, 7, 150, 1500):
        found = searcher.search(queries, k)
        np.testing.assert_array_equal(found.rows, best[:, :k])
        again = index.search(queries, k)
        np.testing.assert_allclose(found.scores, again.scores, atol=2e-5)


def test_products_that_torch_rounds_are_not_taken_for_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, queries = filled(vectors(200, "ip"), "ip"), vectors(3, "ip", seed=1)
    searcher = started(index, dtype="float32")
    bounds: list[Bound] = []

    def noting(*arguments: Any, bound: Bound, **options: Any) -> Any:
        bounds.append(bound)
        return prove(*arguments, bound=bound, **options)

    monkeypatch.setitem(TorchFlat.search.__globals__, "prove", noting)
    searcher.search(queries, 5)
    # torch's own reader of the older switch raises once this newer one is set.
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        found = searcher.search(queries, 5)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert torch.get_float32_matmul_precision() == "highest"
    assert [bound.coarse for bound in bounds] == [False, True]
    assert found.rows.tolist() == index.search(queries, 5).rows.tolist()


def test_more_than_there_are_ends_in_minus_one() -> None:
    stored = vectors(5, "ip")
    found = started(filled(stored, "ip")).search(stored[:2], 9)
    assert (found.rows[:, :5] > 0).all()
    assert (found.rows[:, 5:] == -1).all()


def test_an_empty_index_finds_nothing() -> None:
    found = started(filled(vectors(0, "l2"), "l2")).search(vectors(2, "l2"), 3)
    assert found.rows.tolist() == [[-1] * 3] * 2


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_only_allowed_rows_are_found(metric: Metric, dtype: Literal["float16", "float32"]) -> None:
    stored, queries = vectors(800, metric), vectors(6, metric, seed=1)
    allowed = 3 * np.sort(np.random.default_rng(2).choice(800, 90, replace=False)) + 1
    searcher = started(filled(stored, metric), dtype=dtype, chunk_bytes=10_000)
    best = [[row for row in rows if row in set(allowed)] for rows in truth(stored, queries, metric)]
    for k in (1, 5, 90):
        found = searcher.search(queries, k, allowed)
        assert found.rows.tolist() == [rows[:k] for rows in best]
    gone = np.append(allowed[:2], 7777)
    assert sorted(searcher.search(queries[:1], 5, gone).rows[0].tolist())[:3] == [-1, -1, -1]


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0, 3e5])
def test_the_order_is_true_for_numbers_of_any_size(metric: Metric, scale: float) -> None:
    """16 bits hold nothing above 65,504, and little below 0.0001."""
    stored = vectors(400, metric) * np.float32(scale)
    for size in (1e-6, 1.0, 1e6):
        queries = vectors(5, metric, seed=1) * np.float32(size)
        found = started(filled(stored, metric), dtype="float16").search(queries, 9)
        np.testing.assert_array_equal(found.rows, truth(stored, queries, metric)[:, :9])


def test_neighbors_closer_than_16_bits_can_tell_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = (1 + vectors(900, "ip") / 2000).astype(np.float32)
    searcher = started(filled(stored, "ip"), dtype="float16")
    asked: list[int] = []
    real = searcher._candidates

    def count(queries: Any, fetch: int, **options: Any) -> Any:
        asked.append(fetch)
        return real(queries, fetch, **options)

    monkeypatch.setattr(searcher, "_candidates", count)
    queries = np.ones((2, 24), dtype=np.float32)
    found = searcher.search(queries, 5)
    np.testing.assert_array_equal(found.rows, truth(stored, queries, "ip")[:, :5])
    assert len(asked) > 1, "the first candidates could not prove it"


def test_a_bound_holds_for_rounded_scores() -> None:
    stored, queries = vectors(500, "ip"), vectors(20, "ip", seed=1)
    rounded = stored.astype(np.float16)
    moved = np.linalg.norm(rounded.astype(np.float64) - stored, axis=1).max()
    bound = Bound(float(np.linalg.norm(stored, axis=1).max()), float(moved), coarse=True)
    rough = (queries.astype(np.float16) @ rounded.T).astype(np.float64)
    exact = queries.astype(np.float64) @ stored.astype(np.float64).T
    assert (np.abs(rough - exact) <= bound.of(queries, l2=False)[:, None]).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("fp16", {}), ("sq8", {"train_size": 50}), ("IVF4,Flat", {"train_size": 100})],
)
def test_other_kinds_are_searched_in_full(kind: str, options: dict[str, Any]) -> None:
    stored, queries = vectors(600, "l2"), vectors(4, "l2", seed=1)
    index = filled(stored, "l2", kind, **options)
    rows = np.sort(index.rows())
    found = started(index).search(queries, 8)
    np.testing.assert_array_equal(found.rows, truth(index.vectors(rows), queries, "l2")[:, :8])


def test_the_mirror_follows_changes_and_is_kept_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = vectors(300, "ip")
    index, queries = filled(stored, "ip"), vectors(3, "ip", seed=1)
    copies: list[int] = []
    real = TorchFlat._copy

    def count(self: TorchFlat, index: VectorIndex) -> Any:
        copies.append(len(index))
        return real(self, index)

    monkeypatch.setattr(TorchFlat, "_copy", count)
    searcher = started(index)
    for _ in range(2):
        searcher.build(index)
        searcher.search(queries, 3)
    index.remove(truth(stored, queries, "ip")[:, 0])
    searcher.build(index)
    left = index.search(queries, 3).rows
    np.testing.assert_array_equal(searcher.search(queries, 3).rows, left)
    assert copies[0] == 300
    assert len(copies) == 2


def test_what_is_forgotten_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[Device] = []
    index, queries = filled(vectors(30, "ip"), "ip"), vectors(3, "ip", seed=1)
    searcher = started(index)
    monkeypatch.setattr(torch_flat, "release", released.append)
    found = searcher.search(queries, 3).rows
    parts = [weakref.ref(searcher._vectors), weakref.ref(searcher._squares)]
    searcher.forget()
    searcher.forget()
    assert [part() for part in parts] == [None, None]
    assert released == [PLACE], "torch keeps it for itself else"
    alive = weakref.ref(index)
    del index
    assert alive() is None
    searcher.build(filled(vectors(30, "ip"), "ip"))
    np.testing.assert_array_equal(searcher.search(queries, 3).rows, found)


def test_memory_that_runs_out_makes_chunks_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, queries = vectors(300, "ip"), vectors(3, "ip", seed=1)
    searcher = started(filled(stored, "ip"), chunk_bytes=2**24)
    real = searcher._candidates

    def fail(asked: Any, fetch: int, **options: Any) -> Any:
        if searcher._chunk_bytes > 2**22:
            raise MEMORY_ERROR
        return real(asked, fetch, **options)

    monkeypatch.setattr(searcher, "_candidates", fail)
    found = searcher.search(queries, 4)
    np.testing.assert_array_equal(found.rows, truth(stored, queries, "ip")[:, :4])
    assert searcher._chunk_bytes == 2**22


def raising(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (MEMORY_ERROR, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), True),
        (NotImplementedError("The operator 'aten::topk' is not implemented for MPS"), True),
    ],
)
def test_a_search_that_fails_is_handed_on(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    lasting: bool,  # noqa: FBT001 - a table's column
) -> None:
    searcher = started(filled(vectors(30, "ip"), "ip"))
    monkeypatch.setattr(searcher, "_candidates", raising(error))
    with pytest.raises(CannotSearch) as raised:
        searcher.search(vectors(1, "ip"), 3)
    assert raised.value.lasting is lasting
    assert str(error).splitlines()[0] in str(raised.value)


def test_an_index_that_does_not_fit_leaves_no_memory_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searcher = TorchFlat(PLACE)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "from_numpy", raising(MEMORY_ERROR))
        with pytest.raises(CannotSearch, match="out of memory") as raised:
            searcher.build(filled(vectors(30, "ip"), "ip"))
    assert raised.value.lasting
    assert searcher._vectors is None


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an Apple GPU, whose arithmetic the CPU does."""
    apple = Device(kind="mps", index=0, name="Apple M4", reason="torch runs on it")
    monkeypatch.setattr(route, "select_device", lambda name: PLACE if name == "cpu" else apple)
    monkeypatch.setattr(torch_flat, "release", lambda _device: None)
    real = TorchFlat.__init__

    def on_the_cpu(self: TorchFlat, device: Device, **options: Any) -> None:
        real(self, device, **options)
        self._device = PLACE

    monkeypatch.setattr(TorchFlat, "__init__", on_the_cpu)


@pytest.mark.usefixtures("on_torch")
@pytest.mark.parametrize("name", ["mps", "auto"])
def test_a_gpu_without_faiss_is_searched_by_torch(name: str) -> None:
    stored, queries = vectors(300, "ip"), vectors(3, "ip", seed=1)
    asked, index = Route(name), filled(stored, "ip")
    found = asked.search(index, queries, 4)
    np.testing.assert_array_equal(found.rows, truth(stored, queries, "ip")[:, :4])
    assert asked.device.kind == "mps"
    assert "searched by torch" in asked.device.reason
    few = asked.search(index, queries, 2, np.array([1, 4, 10], dtype=np.int64))
    assert set(few.rows.ravel().tolist()) <= {1, 4, 10}
    asked.report()


@pytest.mark.usefixtures("on_torch")
def test_a_card_the_faiss_wheel_has_no_kernels_for_is_searched_by_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = GPU(name="NVIDIA RTX 5090", capability="12.0")
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(route, "read_nvidia", lambda: Nvidia(gpus=(card,)))
    monkeypatch.setattr(faiss_gpu, "prove", lambda _index: "a trial search failed: no kernel image")
    stored, queries = vectors(300, "ip"), vectors(3, "ip", seed=1)
    asked = Route("cuda:0")
    found = asked.search(filled(stored, "ip"), queries, 4)
    np.testing.assert_array_equal(found.rows, truth(stored, queries, "ip")[:, :4])
    with pytest.warns(FallbackWarning, match=r"runs on mps:0 \(torch\), not cuda:0.*no kernel"):
        asked.report()
    assert "no kernel image" in asked.device.reason


@pytest.mark.usefixtures("on_torch")
def test_a_gpu_that_fails_is_given_up_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, queries = vectors(300, "ip"), vectors(3, "ip", seed=1)
    asked, index = Route("mps"), filled(stored, "ip")
    fault = RuntimeError("MPS backend failed: command buffer exited with error status")
    monkeypatch.setattr(TorchFlat, "_candidates", raising(fault))
    found = asked.search(index, queries, 4)
    np.testing.assert_array_equal(found.rows, truth(stored, queries, "ip")[:, :4])
    with pytest.warns(FallbackWarning, match="runs on cpu, not mps:0.*command buffer"):
        asked.report()
    assert asked.device.kind == "cpu"
    assert "given up" in asked.device.reason


@pytest.mark.usefixtures("on_torch")
def test_auto_does_not_import_torch_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "torch")
    assert Route("auto").device.kind == "cpu"
