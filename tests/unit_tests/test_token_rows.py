from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from langchain_gpu.engine.tasks.token_rows import flat_ids


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_rows_lie_end_to_end(kind: type) -> None:
    ids, lengths = flat_ids([kind([1, 2]), kind([3])], window=2, vocabulary=4, start=0)
    assert ids.tolist() == [1, 2, 3]
    assert lengths.tolist() == [2, 1]


def test_no_rows_are_no_mistake() -> None:
    ids, lengths = flat_ids([], window=2, vocabulary=4, start=0)
    assert len(ids) == len(lengths) == 0


@pytest.mark.parametrize(
    ("row", "vocabulary", "problem"),
    [
        ([], 4, "is empty"),
        ([1, 2, 3], 4, "has 3 ids, and the model's window 2"),
        ([-1], 4, "holds an id outside the vocabulary of 4"),
        ([4], 4, "holds an id outside the vocabulary of 4"),
        ([2**70], 4, "holds an id outside the vocabulary of 4"),
        ([-1], None, "holds a negative id"),
        ([-(2**70)], None, "holds a negative id"),
        ([2**70], None, "holds an id that no vocabulary has"),
    ],
)
def test_the_first_wrong_row_is_named(
    row: Sequence[int], vocabulary: int | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=f"^token row 11 {problem}$"):
        flat_ids([[1], row, []], window=2, vocabulary=vocabulary, start=10)


@pytest.mark.parametrize(
    "row",
    [
        [1.5],
        np.array([1.5]),
        np.array([True]),
        np.ones((1, 1), np.int64),
        np.array(1),
        "12",
        ["1"],
        [None],
        [[1]],
        None,
        1,
    ],
)
def test_what_holds_no_ids_is_named(row: Any) -> None:
    both: list[list[Any]] = [[[1], row], [np.array([1]), row]]
    for rows in both:
        with pytest.raises(TypeError, match="^token row 11 is not a sequence of whole numbers: "):
            flat_ids(rows, window=9, vocabulary=4, start=10)


def test_numbers_of_other_kinds_are_whole_too() -> None:
    rows: list[Any] = [[np.int32(1), np.uint8(2)], np.array([3], np.uint16), torch.tensor([2, 1])]
    ids, lengths = flat_ids(rows, window=2, vocabulary=4, start=0)
    assert ids.tolist() == [1, 2, 3, 2, 1]
    assert lengths.tolist() == [2, 1, 2]
