"""Token ids from the caller: checked, and laid end to end."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_IDS = 2**63  # what an array can hold


def flat_ids(
    rows: Sequence[Sequence[int]], *, window: int | None, vocabulary: int | None, start: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids of all rows, shape (sum of lengths,), and the rows' lengths, shape (rows,).

    Args:
        rows: Ids of each row, special tokens included.
        window: Tokens the model reads at most; None for no limit.
        vocabulary: How many ids the model has; None where only a server knows.
        start: Position of the first row in the caller's sequence, for messages.

    Raises:
        TypeError: A row is not a sequence of whole numbers; the message has its position.
        ValueError: A row is empty, longer than the window, or holds an id the model does not have;
            the same.
    """
    try:
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = _joined(rows, int(lengths.sum()))
    except OverflowError:
        ids = np.array([-1])  # as wrong, and it can be compared
    except TypeError:
        for index, row in enumerate(rows):
            if not _is_whole(row):
                raise TypeError(
                    f"token row {start + index} is not a sequence of whole numbers: {row!r:.60}"
                ) from None
        raise
    wrong = (lengths == 0).any() or (ids < 0).any()
    wrong = wrong or (window is not None and (lengths > window).any())
    if wrong or (vocabulary is not None and (ids >= vocabulary).any()):
        for index, row in enumerate(rows):
            if (problem := _problem(row, window, vocabulary)) is not None:
                raise ValueError(f"token row {start + index} {problem}")
    return ids, lengths


def _joined(rows: Sequence[Any], total: int) -> NDArray[np.int64]:
    """Lay rows end to end, without taking a fraction for a whole number."""
    if any(isinstance(row, np.ndarray) for row in rows):
        arrays = [row if isinstance(row, np.ndarray) else _joined([row], len(row)) for row in rows]
        if any(
            array.ndim != 1 or (array.size and array.dtype.kind not in "iu") for array in arrays
        ):
            raise TypeError("a row of an array that holds something else")
        return np.concatenate([array.astype(np.int64, copy=False) for array in arrays])
    ids = list(chain.from_iterable(rows))
    whole = ids if set(map(type, ids)) <= {int} else map(operator.index, ids)
    return np.fromiter(whole, np.int64, total)


def _is_whole(row: Any) -> bool:
    try:
        _joined([row], len(row))
    except TypeError:
        return False
    except OverflowError:
        pass
    return True


def _problem(row: Sequence[int], window: int | None, vocabulary: int | None) -> str | None:
    if not len(row):
        return "is empty"
    if window is not None and len(row) > window:
        return f"has {len(row)} ids, and the model's window {window}"
    if vocabulary is not None:
        inside = min(row) >= 0 and max(row) < vocabulary
        return None if inside else f"holds an id outside the vocabulary of {vocabulary}"
    if min(row) < 0:
        return "holds a negative id"
    return None if max(row) < _MOST_IDS else "holds an id that no vocabulary has"


__all__ = ["flat_ids"]
