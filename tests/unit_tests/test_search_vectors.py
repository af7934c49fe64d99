"""Vectors at the border: what is taken, and the item a refusal names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from langchain_gpu.search import embed as embedding_module
from langchain_gpu.search.base import Metric, VectorError
from langchain_gpu.search.embed import embed
from langchain_gpu.search.relevance import RELEVANCE
from langchain_gpu.search.vectors import gather, prepare, prepare_one, sliced


def name(position: int) -> str:
    return f"item {position}"


def take(vectors: Any, *, metric: Metric = "l2", dimension: int | None = None) -> Any:
    return prepare(vectors, count=len(vectors), metric=metric, dimension=dimension, name=name)


@pytest.mark.parametrize(
    "vectors",
    [
        [[1, 2], [3, 4]],
        ((1.0, 2.0), (3.0, 4.0)),
        np.array([[1, 2], [3, 4]], dtype=np.int32),
        np.array([[1, 3], [2, 4]], dtype=np.float64).T,
        [np.array([1, 2], dtype=np.float32), [3.0, 4.0]],
    ],
)
def test_anything_array_like_becomes_float32_rows(vectors: Any) -> None:
    rows = take(vectors)
    assert rows.dtype == np.float32
    assert rows.flags["C_CONTIGUOUS"]
    assert rows.tolist() == [[1, 2], [3, 4]]


def test_no_vectors_are_no_rows() -> None:
    assert take([]).shape[0] == 0
    assert take(np.empty((0, 8)), dimension=3).shape[0] == 0


def test_cosine_scales_a_copy() -> None:
    vectors = np.array([[3, 4], [0, 2]], dtype=np.float32)
    np.testing.assert_allclose(take(vectors, metric="cosine"), [[0.6, 0.8], [0.0, 1.0]])
    assert vectors.tolist() == [[3, 4], [0, 2]]


def test_unit_rows_are_not_copied_again() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert take(vectors, metric="cosine") is vectors


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1, 2], [np.nan, 2]], "item 1 holds NaN"),
        ([[1, 2], [1, np.inf]], "item 1 holds NaN, infinity"),
        ([[1, 2], [1, -np.inf]], "item 1"),
        ([[1e39, 2]], "item 0 holds NaN, infinity, or numbers too large"),
        ([[1, 2], [1, 2, 3]], "item 1 has 3 dimensions, item 0 has 2"),
        ([[1, 2], [[1], [2]]], "item 1 has 2 x 1 dimensions"),
        ([[1, 2], ["a", 2]], "item 1 holds something that is not a number"),
        ([[1, 2], None], "item 1"),
        ([1.0, 2.0], "rows of numbers"),
        ([[[1.0]]], "rows of numbers"),
        ([[], []], "rows of numbers"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_bad_vector_is_named(vectors: Any, message: str) -> None:
    with pytest.raises(VectorError, match=message):
        take(vectors)


def test_another_width_names_both() -> None:
    with pytest.raises(VectorError, match="item 0 has 2 dimensions, the store has 3"):
        take([[1, 2]], dimension=3)


def test_another_number_of_vectors_names_both() -> None:
    with pytest.raises(VectorError, match="3 vectors are needed, the embedding returned 2"):
        prepare([[1, 2], [3, 4]], count=3, metric="ip", dimension=None, name=name)


def test_a_zero_vector_is_refused_under_cosine_only() -> None:
    vectors = [[1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(VectorError, match="item 1 has length 0"):
        take(vectors, metric="cosine")
    assert take(vectors, metric="ip").tolist() == vectors
    assert take(vectors, metric="l2").tolist() == vectors


@given(arrays(np.float32, (3, 4), elements=st.floats(0.125, 1000, width=32)))
def test_cosine_rows_have_length_one(vectors: Any) -> None:
    np.testing.assert_allclose(np.linalg.norm(take(vectors, metric="cosine"), axis=1), 1, atol=1e-5)


class Lists:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(len(texts))
        return [[float(text), 1.0] for text in texts]


class Arrays(Lists):
    def embed_to_array(self, texts: Any) -> Any:
        return np.array([[float(text), 2.0] for text in texts], dtype=np.float32)


def ask(embedding: Any, texts: list[str], dimension: int | None = None) -> Any:
    return embed(embedding, texts, metric="ip", dimension=dimension, name=name)


def test_lists_come_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_module, "SLICE", 3)
    lists = Lists()
    rows = ask(lists, list("12345678"))
    assert rows.tolist() == [[number, 1] for number in range(1, 9)]
    assert lists.calls == [3, 3, 2]


def test_a_bad_vector_in_a_later_slice_keeps_its_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_module, "SLICE", 3)
    with pytest.raises(VectorError, match="item 4 holds NaN"):
        ask(Lists(), ["1", "2", "3", "4", "nan", "6"])


def test_an_error_in_a_later_slice_says_where_the_slice_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The embedding counts the texts it was given, and knows of no others."""
    monkeypatch.setattr(embedding_module, "SLICE", 3)
    with pytest.raises(ValueError, match="could not convert") as caught:
        ask(Lists(), ["1", "2", "3", "4", "x", "6"])
    assert caught.value.__notes__ == ["in the part of the texts that starts at item 3"]
    with pytest.raises(ValueError, match="could not convert") as caught:
        ask(Lists(), ["1", "x", "3", "4"])
    assert not hasattr(caught.value, "__notes__"), "it counts from the start"


def test_slices_of_different_widths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Growing(Lists):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            self.calls.append(len(texts))
            return [[1.0] * (1 + len(self.calls))] * len(texts)

    monkeypatch.setattr(embedding_module, "SLICE", 3)
    with pytest.raises(VectorError, match="item 3 has 3 dimensions, the store has 2"):
        ask(Growing(), list("123456"))


def test_arrays_are_asked_for_first() -> None:
    arrays_ = Arrays()
    assert ask(arrays_, ["1", "2"]).tolist() == [[1, 2], [2, 2]]
    assert arrays_.calls == []


def test_no_texts_ask_for_nothing() -> None:
    lists = Lists()
    assert ask(lists, [], 2).shape == (0, 2)
    assert lists.calls == []


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@given(st.floats(-1e6, 1e6))
def test_relevance_lies_between_zero_and_one(metric: Metric, score: float) -> None:
    assert 0 <= RELEVANCE[metric](score) <= 1


@pytest.mark.parametrize(
    ("metric", "near", "far"), [("cosine", 0.9, 0.2), ("ip", 30.0, 20.0), ("l2", 0.1, 3.0)]
)
def test_nearer_is_more_relevant(metric: Metric, near: float, far: float) -> None:
    assert RELEVANCE[metric](near) > RELEVANCE[metric](far)


def test_the_cosine_is_its_own_relevance() -> None:
    assert RELEVANCE["cosine"](0.75) == 0.75
    assert RELEVANCE["cosine"](-0.5) == 0
    assert RELEVANCE["cosine"](1.0000001) == 1
    assert RELEVANCE["l2"](0.0) == 1


ONES: list[Any] = [
    np.array([3, 4], dtype=np.float32),
    np.array([0.6, 0.8], dtype=np.float32),
    np.array([3, 9, 4], dtype=np.float32)[::2],
    np.array([3, 4], dtype=np.float64),
    np.array([3, 4], dtype=np.int8),
    [3.0, 4.0],
    (3, 4),
    [0.0, 0.0],
    [1e-30, 1e-30],
    [1e300, 1.0],
    [float("nan"), 1.0],
    np.array([np.inf, 1], dtype=np.float32),
    np.array([3e38, 3e38], dtype=np.float32),
    [1.0],
    [[3.0, 4.0]],
    np.array([[3, 4]], dtype=np.float32),
    ["3", "x"],
    [None, 1.0],
    [],
    7.0,
    "ab",
]


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("vector", ONES, ids=repr)
def test_one_is_taken_or_refused_as_many_are(vector: Any, metric: Metric) -> None:
    def outcome(make: Any) -> Any:
        try:
            rows = make()
        except VectorError as error:
            return str(error)
        assert rows.dtype == np.float32
        assert rows.flags["C_CONTIGUOUS"]
        return pytest.approx(rows, rel=1e-6)

    expected = outcome(lambda: take([vector], metric=metric, dimension=2))
    found = outcome(lambda: prepare_one(vector, metric=metric, dimension=2, name=name))
    assert (found.expected if hasattr(found, "expected") else found) == expected


def test_one_is_never_written_to_or_kept() -> None:
    vector = np.array([3, 4], dtype=np.float32)
    vector.flags.writeable = False
    row = prepare_one(vector, metric="ip", dimension=2, name=name)
    assert row.flags.writeable
    assert not np.shares_memory(row, vector)


def floats(*rows: list[Any]) -> list[list[Any]]:
    return [*rows]


@pytest.mark.parametrize(
    "rows",
    [
        floats([1, 2.5], [True, -0.0]),
        floats([np.float32(1), np.float64(2)], [np.int8(3), 4]),
        floats([1e-46, 1.17549435e-38], [1.3e19, 0.1]),
        floats([10**18, 16_777_217], [0.1 + 0.2, 1 / 3]),
        floats(["1", "2.5"], ["3", "4"]),
        floats([np.array(1.0), 2], [3, 4]),
    ],
)
def test_lists_become_the_floats_numpy_makes_of_them(rows: list[list[Any]]) -> None:
    expected = np.array(rows, dtype=np.float32)
    np.testing.assert_array_equal(take(rows).view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize(
    "rows",
    [
        floats([1.0, 2.0], [1e39, 0.0]),
        floats([1.0, 2.0], [10**400, 0.0]),
        floats([1.0, 2.0], [1.0, None]),
        floats([1.0, 2.0], [1.0, "x"]),
        floats([1.0, 2.0], [1.0]),
        floats([1.0, 2.0], [1.0, 2.0, 3.0]),
        floats([1.0, 2.0], [1.0, [2.0]]),
    ],
)
def test_lists_that_are_no_rows_of_floats_are_refused_by_name(rows: list[list[Any]]) -> None:
    with pytest.raises((VectorError, OverflowError), match=r"item 1|too large"):
        take(rows)


def test_parts_are_gathered_into_the_room_that_is_given() -> None:
    given = np.random.default_rng(0).standard_normal((9000, 3))
    rooms: list[Any] = []

    def allocate(count: int, dimension: int) -> Any:
        rooms.append(np.zeros((count, dimension), dtype=np.float32))
        return rooms[-1]

    def gathered(vectors: Any) -> Any:
        return gather(
            sliced(vectors), 9000, metric="cosine", dimension=None, name=name, allocate=allocate
        )

    expected = take(given, metric="cosine")
    for vectors in (given, list(given), given.tolist()):
        found = gathered(vectors)
        assert found is rooms[-1]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    given[8000, 1] = np.nan
    with pytest.raises(VectorError, match="item 8000 holds NaN"):
        gathered(given)
    with pytest.raises(VectorError, match="item 5000 has 2 dimensions"):
        gathered([*given[:5000].tolist(), [1.0, 2.0]])
    assert gather([], 0, metric="ip", dimension=7, name=name).shape == (0, 7)
