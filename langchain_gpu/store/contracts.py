"""What a store needs of an index, and what its searches return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.store.batch import Batch

Matrix: TypeAlias = NDArray[np.float32]  # [n, dimension]
Rows: TypeAlias = NDArray[np.int64]  # [n]
Predicate: TypeAlias = Callable[[dict[str, Any]], bool]


class SavedIndex(Protocol):
    """What saving and loading ask of an index."""

    @property
    def kind(self) -> str:
        """The kind that was asked for, for example `"auto"`."""

    @property
    def metric(self) -> str:
        """`"cosine"`, `"ip"` or `"l2"`."""

    @property
    def dimension(self) -> int:
        """Width of the vectors."""

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers the kind was given, such as `nprobe`."""

    def rows(self) -> Rows:
        """Return the rows, in any order."""

    def save(self, path: Path) -> None:
        """Write the index to `path`."""


class Index(SavedIndex, Protocol):
    """What a collection asks of an index."""

    @property
    def shape(self) -> str:
        """Its present form, as a FAISS factory string, for example `"Flat"`."""

    def improve(self, incoming: Matrix | None = None) -> Callable[[], None] | None:
        """Train or rebuild the index if it has grown enough, while searches go on.

        Args:
            incoming: [n, dimension], what will be added next.

        Returns:
            Puts the result in place, called while nobody searches; None where nothing is to do.
        """

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add vectors under new rows."""

    def remove(self, rows: Rows) -> None:
        """Remove rows; unknown ones are ignored."""

    def vectors(self, rows: Rows) -> Matrix:
        """Return the vectors of rows."""


# (index, queries, k, allowed rows or None, *how) -> (scores, rows), both [queries, k]
Search: TypeAlias = Callable[..., tuple[NDArray[np.float32], Rows]]


class Words(Protocol):
    """What a collection asks of an index of words."""

    def is_at(self, next_row: int, count: int) -> bool:
        """Say whether it holds the words of exactly these documents.

        Row numbers only increase, so the next row and the number of documents identify a state.
        """

    def follow(self, next_row: int, rows: Rows, texts: Sequence[str]) -> None:
        """Add the words of documents that are new, and drop those of documents that are gone.

        Args:
            next_row: The row that the next document gets.
            rows: [n], of all documents, increasing.
            texts: [n], the texts of these documents.
        """


# (candidates by vector, all admitted rows) -> (scores, rows), best first
Fuse: TypeAlias = Callable[[Rows, Rows | None], tuple[NDArray[np.floating], Rows]]


class Near(NamedTuple):
    """What is nearest to some queries: those of the first, best first, then those of the next."""

    scores: list[float]
    rows: list[int]
    counts: list[int]
    """How many each query has."""


class Hits(NamedTuple):
    """Documents that were found, in columns, as most of it is only handed on."""

    documents: Batch
    near: Near


__all__ = [
    "Fuse",
    "Hits",
    "Index",
    "Matrix",
    "Near",
    "Predicate",
    "Rows",
    "SavedIndex",
    "Search",
    "Words",
]
