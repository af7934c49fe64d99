"""The flat kind: exact, rows kept through removals, filters before the cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from langchain_gpu.search import kinds
from langchain_gpu.search.base import Metric, VectorIndex
from langchain_gpu.search.faiss_cpu import FaissCPU
from langchain_gpu.search.mmr import select_diverse

METRICS: list[Metric] = ["cosine", "ip", "l2"]


def vectors(count: int, dimension: int = 8, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)


def filled(metric: Metric = "ip", count: int = 50) -> VectorIndex:
    index = kinds.get("flat").create(8, metric)
    index.add(np.arange(100, 100 + count, dtype=np.int64), vectors(count))
    return index


def search(index: VectorIndex, queries: Any, k: int, allowed: Any = None) -> Any:
    searcher = FaissCPU()
    searcher.build(index)
    return searcher.search(queries, k, allowed)


def best(metric: Metric, stored: Any, query: Any, k: int) -> Any:
    if metric == "l2":
        return np.argsort(((stored - query) ** 2).sum(1), kind="stable")[:k]
    return np.argsort(-(stored @ query), kind="stable")[:k]


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown index kind 'ivf'; known: auto, flat"):
        kinds.get("ivf")


@pytest.mark.parametrize("metric", METRICS)
def test_search_is_exact(metric: Metric) -> None:
    found = search(filled(metric), vectors(3, seed=1), 5)
    for query, rows in zip(vectors(3, seed=1), found.rows, strict=True):
        assert (rows - 100).tolist() == best(metric, vectors(50), query, 5).tolist()


def test_l2_scores_are_squared_distances() -> None:
    found = search(filled("l2"), vectors(50)[7:8], 2)
    assert found.rows[0, 0] == 107
    expected = ((vectors(50)[7] - vectors(50)[found.rows[0, 1] - 100]) ** 2).sum()
    np.testing.assert_allclose(found.scores[0], [0, expected], atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_removal_keeps_every_other_vector_on_its_row(metric: Metric) -> None:
    index = filled(metric)
    gone = np.array([100, 110, 111, 149, 7], dtype=np.int64)
    index.remove(gone)
    left = np.setdiff1d(np.arange(100, 150), gone)
    assert len(index) == 46
    assert index.rows().tolist() == left.tolist()
    np.testing.assert_array_equal(index.vectors(left), vectors(50)[left - 100])
    index.add(np.array([150], dtype=np.int64), vectors(1, seed=9))
    np.testing.assert_array_equal(index.vectors(np.array([150])), vectors(1, seed=9))


def test_version_grows_with_each_change() -> None:
    index = filled()
    before = index.version
    index.remove(np.array([], dtype=np.int64))
    assert index.version == before
    index.remove(np.array([100], dtype=np.int64))
    assert index.version > before


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("allowed", [[103], [100, 149], [149, 103, 120, 131, 140, 141, 142]])
def test_only_allowed_rows_are_found(metric: Metric, allowed: list[int]) -> None:
    rows = np.array(allowed, dtype=np.int64)
    query = vectors(1, seed=2)
    found = search(filled(metric), query, len(rows), rows)
    order = best(metric, vectors(50)[rows - 100], query[0], len(rows))
    assert found.rows[0].tolist() == rows[order].tolist()


def test_allowed_rows_that_are_gone_are_not_found() -> None:
    index = filled()
    index.remove(np.array([103], dtype=np.int64))
    found = search(index, vectors(1), 2, np.array([103, 104], dtype=np.int64))
    assert found.rows[0].tolist() == [104, -1]


@pytest.mark.parametrize("metric", METRICS)
def test_saved_and_loaded_it_answers_the_same(metric: Metric, tmp_path: Path) -> None:
    index = filled(metric)
    index.remove(np.arange(105, 115, dtype=np.int64))
    index.save(tmp_path / "i.faiss")
    loaded = kinds.get("flat").load(tmp_path / "i.faiss", metric)
    assert loaded.dimension == 8
    assert loaded.rows().tolist() == index.rows().tolist()
    queries = vectors(4, seed=3)
    np.testing.assert_array_equal(search(loaded, queries, 6).rows, search(index, queries, 6).rows)


def test_an_index_of_another_metric_is_refused(tmp_path: Path) -> None:
    filled("l2").save(tmp_path / "i.faiss")
    with pytest.raises(ValueError, match="not built for the metric 'cosine'"):
        kinds.get("flat").load(tmp_path / "i.faiss", "cosine")


def test_another_kind_of_index_is_refused(tmp_path: Path) -> None:
    faiss.write_index(faiss.IndexHNSWFlat(8, 4), str(tmp_path / "i.faiss"))
    with pytest.raises(ValueError, match="no flat index"):
        kinds.get("flat").load(tmp_path / "i.faiss", "l2")


def test_a_refused_write_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        filled().save(tmp_path / "absent" / "i.faiss")


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
def test_diversity_chooses_as_langchain_does(balance: float) -> None:
    from langchain_core.vectorstores.utils import maximal_marginal_relevance

    query, stored = vectors(1, seed=4), vectors(30)
    expected = maximal_marginal_relevance(query, list(stored), lambda_mult=balance, k=8)
    assert select_diverse(query, stored, 8, balance) == expected


def test_diversity_ends_with_the_candidates() -> None:
    assert sorted(select_diverse(vectors(1), vectors(3), 10, 0.5)) == [0, 1, 2]
    assert select_diverse(vectors(1), vectors(0), 10, 0.5) == []


@pytest.mark.parametrize("balance", [-0.1, 1.1, float("nan")])
def test_a_balance_outside_zero_and_one_is_refused(balance: float) -> None:
    with pytest.raises(ValueError, match="lambda_mult"):
        select_diverse(vectors(1), vectors(3), 2, balance)


@pytest.mark.parametrize("balance", [None, "0.5"])
def test_a_balance_that_is_no_number_is_refused(balance: Any) -> None:
    with pytest.raises(TypeError, match=f"lambda_mult must be a number, not {balance!r}"):
        select_diverse(vectors(1), vectors(3), 2, balance)
