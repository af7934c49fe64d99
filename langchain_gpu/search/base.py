"""What the store asks of an index and of a searcher.

The *index* is the truth: it lies on the CPU, is changed and saved. A *searcher* answers from it, or
from a mirror of it on a device. Rows are int64 ids that only grow and are never used twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Metric = Literal["cosine", "ip", "l2"]
METRICS: tuple[Metric, ...] = ("cosine", "ip", "l2")

Matrix = NDArray[np.float32]  # [n, dimension], C-contiguous
Rows = NDArray[np.int64]  # [n]


class VectorError(ValueError):
    """A vector cannot be stored or searched with; the message names it."""


class Found(NamedTuple):
    """Nearest rows, best first.

    Attributes:
        scores: [queries, k]; similarity (cosine, ip: higher is nearer) or squared distance (l2).
        rows: [queries, k]; -1 where fewer than k rows were found.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


class VectorIndex(Protocol):
    """Vectors by row, on the CPU. One file in `search/kinds` implements each kind."""

    kind: str
    metric: Metric
    dimension: int
    version: int  # grows with each change, so that a mirror knows when it is stale

    @property
    def faiss(self) -> Any:
        """The FAISS index: answers in rows."""

    @property
    def flat(self) -> Any:
        """The FAISS index under the row ids: answers in positions of `rows()`."""

    def __len__(self) -> int:
        """Count the vectors."""

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add vectors under rows that were never used before."""

    def remove(self, rows: Rows) -> None:
        """Remove rows; unknown ones are ignored."""

    def rows(self) -> Rows:
        """Return the rows in the order of their positions."""

    def vectors(self, rows: Rows) -> Matrix:
        """Return the stored vectors of `rows` (normalized ones for cosine)."""

    def search_parameters(self, allowed: Rows) -> Any:
        """Build FAISS search parameters that admit only `allowed`."""

    def save(self, path: Path) -> None:
        """Write the index to `path`."""


class Searcher(Protocol):
    """Finds nearest rows in a `VectorIndex`, or in a mirror of it."""

    name: str

    def build(self, index: VectorIndex) -> None:
        """Get ready to search `index` as it is now."""

    def search(self, queries: Matrix, k: int, allowed: Rows | None = None) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given.

        Raises:
            CannotSearch: This searcher cannot do this search; the next one can.
        """


class CannotSearch(Exception):  # noqa: N818 - a turn in the road; users never see it raised
    """A searcher hands a search on to the next one.

    Attributes:
        cause: What stood in the way, in one word: each is reported once.
        lasting: Whether it cannot answer later searches either.
    """

    def __init__(self, reason: str, *, cause: str, lasting: bool = False) -> None:
        """Keep the reason, a clause that can follow a colon."""
        super().__init__(reason)
        self.cause = cause
        self.lasting = lasting


__all__ = [
    "METRICS",
    "CannotSearch",
    "Found",
    "Matrix",
    "Metric",
    "Rows",
    "Searcher",
    "VectorError",
    "VectorIndex",
]
