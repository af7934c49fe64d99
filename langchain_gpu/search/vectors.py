"""Input vectors: anything array-like, as checked float32 rows."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import Matrix, Metric, VectorError

Allocate = Callable[[int, int], Matrix]  # (rows, dimension)

SLICE = 4096  # vectors made ready at once: of lists or single rows an array is made first
UNIT = 1e-6  # lengths this close to 1 are left as they are: most models normalize already


def prepare(
    vectors: Any,
    *,
    count: int,
    metric: Metric,
    dimension: int | None,
    name: Callable[[int], str],
) -> Matrix:
    """Return `vectors` as rows an index can hold; the input is never written to.

    Args:
        vectors: [count, dimension] array, or a sequence of sequences of floats.
        count: How many vectors there must be.
        metric: `"cosine"` scales every row to length 1.
        dimension: The width asked for; None takes any that all rows share.
        name: Says in an error which item a position stands for.

    Raises:
        VectorError: The number of rows, a row's width, a NaN or infinite number, or a row of length
            0 under cosine.
    """
    matrix, lengths = _checked(vectors, count, metric, dimension, name)
    return matrix if lengths is None else matrix / lengths


def empty(count: int, dimension: int) -> Matrix:
    """Return room for vectors."""
    return np.empty((count, dimension), dtype=np.float32)


def gather(
    parts: Iterable[tuple[int, Any]],
    count: int,
    *,
    metric: Metric,
    dimension: int | None,
    name: Callable[[int], str],
    allocate: Allocate = empty,
) -> Matrix:
    """Return what `prepare` makes of parts, in one matrix; each part may go before the next comes.

    Args:
        parts: (how many there must be, the vectors), in their order.
        count: Of all parts.
        metric: As in `prepare`.
        dimension: As in `prepare`; None takes that of the first part.
        name: As in `prepare`, by the position among all.
        allocate: Makes the matrix.

    Raises:
        VectorError: As `prepare` does.
    """
    rows: Matrix | None = None
    start = 0
    for size, part in parts:
        found = prepare(
            part,
            count=size,
            metric=metric,
            dimension=dimension,
            name=partial(_shifted, name, start),
        )
        if rows is None:
            dimension = found.shape[1]
            rows = allocate(count, dimension)
        rows[start : start + size] = found
        start += size
        del part, found  # before the next is made
    return np.empty((0, dimension or 0), dtype=np.float32) if rows is None else rows


def sliced(vectors: Sequence[Any] | Matrix) -> Iterable[tuple[int, Any]]:
    """Yield vectors part by part, as `gather` takes them."""
    for start in range(0, len(vectors), SLICE):
        part = vectors[start : start + SLICE]
        yield len(part), part


def _shifted(name: Callable[[int], str], start: int, position: int) -> str:
    return name(start + position)


def prepare_one(
    vector: Any, *, metric: Metric, dimension: int, name: Callable[[int], str]
) -> Matrix:
    """Return what `prepare` makes of `[vector]`, sooner: a search has one, and waits for it.

    Raises:
        VectorError: As `prepare` does.
    """
    row = None
    if isinstance(vector, np.ndarray) and vector.dtype == np.float32:
        row = np.array(vector)
    elif isinstance(vector, list):
        with suppress(TypeError, ValueError), np.errstate(over="ignore"):
            row = np.array(vector, dtype=np.float32)
    if row is not None and row.shape == (dimension,):
        with np.errstate(over="ignore"):
            square = float(np.dot(row, row))
        if math.isfinite(square) and (square or metric != "cosine"):
            if metric == "cosine" and abs(math.sqrt(square) - 1) > UNIT:
                row /= np.float32(math.sqrt(square))
            return row[None]
    return prepare([vector], count=1, metric=metric, dimension=dimension, name=name)


def _checked(
    vectors: Any, count: int, metric: Metric, dimension: int | None, name: Callable[[int], str]
) -> tuple[Matrix, Matrix | None]:
    """Return vectors, and what to divide them by [count, 1], if they must be."""
    matrix = _as_matrix(vectors, name)
    if len(matrix) != count:
        raise VectorError(f"{count} vectors are needed, the embedding returned {len(matrix)}")
    if count and dimension is not None and matrix.shape[1] != dimension:
        raise VectorError(
            f"{name(0)} has {matrix.shape[1]} dimensions, the store has {dimension}: "
            "use the embedding model that the store was built with"
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
    _check_lengths(lengths, zero_allowed=metric != "cosine", name=name)
    if metric == "cosine" and len(lengths) and np.abs(lengths - 1).max() > UNIT:
        return matrix, lengths[:, None]
    return matrix, None


def _as_matrix(vectors: Any, name: Callable[[int], str]) -> Matrix:
    if (rows := _from_lists(vectors)) is not None:
        return rows
    try:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused
            matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise _not_rectangular(vectors, name, error) from error
    if matrix.size == 0 and len(matrix) == 0:
        return matrix.reshape(0, 0)
    if matrix.ndim != 2 or matrix.shape[1] == 0:  # noqa: PLR2004 - rows and columns
        raise VectorError(f"vectors must be rows of numbers, got an array of shape {matrix.shape}")
    return matrix


def _from_lists(vectors: Any) -> Matrix | None:
    """Return rows of lists of floats in half of numpy's time, None where they are none."""
    if not isinstance(vectors, list) or not vectors or not isinstance(vectors[0], list):
        return None
    width = len(vectors[0])
    if not width or not all(isinstance(row, list) for row in vectors):
        return None
    rows = np.empty((len(vectors), width), dtype=np.float32)
    memory, pack = rows.data.cast("B"), struct.Struct(f"{width}f").pack_into
    try:
        for start, row in zip(range(0, rows.nbytes, 4 * width), vectors, strict=True):
            pack(memory, start, *row)
    except (struct.error, OverflowError):  # numpy takes more, and says what it does not take
        return None
    return rows


def _not_rectangular(
    vectors: Sequence[Any], name: Callable[[int], str], error: Exception
) -> VectorError:
    width: int | None = None
    for position, vector in enumerate(vectors):
        try:
            row = np.asarray(vector, dtype=np.float32)
        except (TypeError, ValueError):
            return VectorError(
                f"the vector of {name(position)} holds something that is not a number"
            )
        width = row.size if width is None else width
        if row.ndim != 1 or row.size != width:
            shape = " x ".join(map(str, row.shape)) or "no"
            return VectorError(f"{name(position)} has {shape} dimensions, {name(0)} has {width}")
    return VectorError(f"the vectors are not an array of numbers: {error}")


def _check_lengths(
    lengths: NDArray[np.float32], *, zero_allowed: bool, name: Callable[[int], str]
) -> None:
    # A NaN or infinite number makes the row's length NaN or infinite: one pass finds both.
    bad = ~np.isfinite(lengths)
    if bad.any():
        raise VectorError(
            f"the vector of {name(int(bad.argmax()))} holds NaN, infinity, or numbers too large "
            "for float32"
        )
    if not zero_allowed and not lengths.all():
        raise VectorError(
            f"the vector of {name(int((lengths == 0).argmax()))} has length 0, so it has no "
            'cosine with any other; use metric="ip" or "l2" for such vectors'
        )


__all__ = ["SLICE", "Allocate", "empty", "gather", "prepare", "prepare_one", "sliced"]
