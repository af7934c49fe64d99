"""A search of a collection, from the filter to the nearest rows, without its locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from langchain_gpu.store.batch import decode_metadata
from langchain_gpu.store.contracts import Index, Matrix, Near, Predicate, Rows, Search


def admitted(where: Predicate, rows: Rows, metadata: Sequence[str]) -> Rows:
    """Return those of `rows` whose metadata, as JSON text [rows], `where` admits."""
    here = (bool(where(decode_metadata(text))) for text in metadata)
    return rows[np.fromiter(here, dtype=np.bool_, count=len(rows))]


def check_width(what: str, matrix: Matrix, index: Index) -> None:
    """Refuse vectors that are not as wide as those of the index.

    Args:
        what: What they are, in the plural.
        matrix: [n, width]
        index: What they are to go with.

    Raises:
        ValueError: They are not.
    """
    if matrix.shape[1] != index.dimension:
        raise ValueError(
            f"the {what} have {matrix.shape[1]} dimensions, the store has {index.dimension}"
        )


def nearest(
    search: Search, index: Index, queries: Matrix, k: int, allowed: Rows | None, *how: Any
) -> Near:
    """Return the `k` nearest rows of each query, or all if there are fewer.

    Args:
        search: Finds them.
        index: What to search.
        queries: [q, dimension], at least one.
        k: At least 1.
        allowed: The rows that may be found; None for all.
        how: Handed to `search`.

    Raises:
        ValueError: The queries are not as wide as the vectors of the index.
    """
    check_width("queries", queries, index)  # the store may have changed since they were embedded
    scores, rows = search(index, queries, k, allowed, *how)
    found = rows.ravel().tolist()
    # A list and not an array: after a scan the CPU's caches are cold, and this touches less.
    if min(found) >= 0:
        return Near(scores.ravel().tolist(), found, [k] * len(queries))
    here = rows >= 0
    return Near(scores[here].tolist(), rows[here].tolist(), here.sum(axis=1).tolist())


__all__ = ["admitted", "check_width", "nearest"]
