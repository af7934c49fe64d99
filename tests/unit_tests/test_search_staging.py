"""Vectors written where FAISS keeps them: the same index, without a copy, where it fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from langchain_gpu.search import kinds
from langchain_gpu.search.base import Matrix, Metric
from langchain_gpu.search.kinds.staging import Staged

COUNT, WIDTH = 50, 6
GIVEN = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
ROWS = np.arange(COUNT, dtype=np.int64)


def room(kind: str = "flat", metric: Metric = "ip") -> Matrix:
    rows = kinds.get(kind).allocate(COUNT, WIDTH, metric)
    rows[:] = GIVEN
    return rows


def is_room(rows: Any) -> bool:
    return isinstance(rows.base, Staged)


def address(index: Any) -> int:
    return int(index._body._index.codes.data())


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_room_becomes_the_index(metric: Metric) -> None:
    rows = room(metric=metric)
    assert is_room(rows)
    taken, copied = (kinds.get("flat").create(WIDTH, metric) for _ in range(2))
    where = rows.ctypes.data
    taken.add(ROWS, rows)
    assert address(taken) == where
    del rows
    copied.add(ROWS, GIVEN)
    for index in (taken, copied):  # and it lives on as any other
        index.add(ROWS + COUNT, -GIVEN)
        index.remove(ROWS[::3])
    assert taken.rows().tolist() == copied.rows().tolist()
    np.testing.assert_array_equal(taken.vectors(taken.rows()), copied.vectors(copied.rows()))
    for mine, other in zip(taken.search(GIVEN, 7), copied.search(GIVEN, 7), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[::-1],
        lambda rows: rows[1:],
        lambda rows: rows[:-1],
        lambda rows: rows.reshape(WIDTH, COUNT).T,
        lambda rows: rows.copy(),
        lambda rows: rows[:, ::-1],
    ],
)
def test_other_views_of_room_are_copied(change: Any) -> None:
    rows = room()
    vectors = np.array(change(rows))
    index = kinds.get("flat").create(WIDTH, "ip")
    index.add(ROWS[: len(vectors)], np.ascontiguousarray(change(rows)))
    assert address(index) != rows.ctypes.data
    rows[:] = 0
    np.testing.assert_array_equal(index.vectors(index.rows()), vectors)


def test_room_is_taken_once_and_by_an_empty_index_of_its_metric() -> None:
    rows = room()
    first, second, other = (kinds.get("flat").create(WIDTH, m) for m in ("ip", "ip", "l2"))
    other.add(ROWS, rows)
    assert address(other) != rows.ctypes.data
    first.add(ROWS, rows)
    second.add(ROWS, rows)
    assert address(first) == rows.ctypes.data != address(second)
    full = room()
    second.add(ROWS + COUNT, full)
    assert address(second) != full.ctypes.data
    assert len(second) == 2 * COUNT


@pytest.mark.parametrize("kind", ["hnsw", "fp16", "IVF2,Flat"])
def test_kinds_that_are_not_flat_get_an_array_of_numpy(kind: str) -> None:
    get = kinds.get(kind, train_size=COUNT) if "IVF" in kind else kinds.get(kind)
    assert not is_room(get.allocate(COUNT, WIDTH, "l2"))
    index = kinds.get("hnsw").create(WIDTH, "ip")
    index.add(ROWS, room())  # even where it got room
    np.testing.assert_array_equal(index.vectors(ROWS), GIVEN)


def test_no_vectors_need_no_room() -> None:
    assert kinds.get("flat").allocate(0, WIDTH, "l2").shape == (0, WIDTH)
