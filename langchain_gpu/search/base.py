"""The contracts of indexes and searchers.

The *index* is authoritative: it is in the CPU's memory, and is changed and saved there. A
*searcher* answers from it, or from a copy of it on a device. Rows are int64 ids that increase and
are never reused.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Effort(NamedTuple):
    """How far an approximate index looks; None leaves it to the index.

    Attributes:
        nprobe: Lists of an IVF index that are scanned.
        ef_search: Candidates an HNSW graph keeps while it is walked.
    """

    nprobe: int | None = None
    ef_search: int | None = None


class Mirrored(NamedTuple):
    """What a FAISS index on a GPU is copied from.

    Attributes:
        index: A FAISS index on the CPU.
        rows: [n], the row of each of its positions; None where it answers in rows itself.
        nprobe: Lists of it that a search scans unless it says how many; None where it has none.
        lists: How many it has.
    """

    index: Any
    rows: Rows | None
    nprobe: int | None = None
    lists: int = 0


EFFORT = Effort()
TEMPORARY_BYTES = 256 * 2**20
"""What FAISS keeps of a GPU to compute in, where nobody says else; its own default is 1.5 GiB."""


class VectorIndex(Protocol):
    """Vectors by row, on the CPU. `langchain_gpu.search.kinds` makes them."""

    kind: str  # what was asked for, for example "auto"
    metric: Metric
    dimension: int

    @property
    def version(self) -> int:
        """A number that grows with each change, so that a mirror knows when it is stale."""

    @property
    def parameters(self) -> dict[str, int]:
        """What the kind needs to be made again, beside its name."""

    @property
    def shape(self) -> str:
        """What it is now, as a FAISS factory string: `"Flat"`, `"IVF894,Flat"`, `"HNSW32"`."""

    @property
    def exact(self) -> bool:
        """Whether it finds the true neighbors among the vectors as they were given."""

    def __len__(self) -> int:
        """Count the vectors."""

    def improve(self, incoming: Matrix | None = None) -> Callable[[], None] | None:
        """Do the slow work beside the searches: train, move, build again.

        Nothing changes before the function that comes back is called, with no search under way.
        One thread at a time, and no other change between the two.

        Args:
            incoming: [n, dimension], what will be added next.

        Returns:
            Takes the result over; None where there is nothing to do.
        """

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add vectors under rows that are higher than any before."""

    def remove(self, rows: Rows) -> None:
        """Remove rows; unknown ones are ignored."""

    def rows(self) -> Rows:
        """Return the rows, in any order."""

    def vectors(self, rows: Rows) -> Matrix:
        """Return the stored vectors of `rows`: normalized for cosine, decoded where compressed.

        Raises:
            KeyError: A row is not here.
        """

    def search(
        self, queries: Matrix, k: int, allowed: Rows | None = None, effort: Effort = EFFORT
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given.

        Equal scores come lowest row first. If there are `k` rows, `k` are found.
        """

    @property
    def portable(self) -> bool:
        """Whether a searcher on a device can copy it: a graph (HNSW) is walked on the CPU only."""

    def mirrored(self) -> Mirrored:
        """Return what FAISS can copy to a GPU, where the index is portable."""

    def save(self, path: Path) -> None:
        """Write the index to `path`."""


class Searcher(Protocol):
    """Finds nearest rows in a `VectorIndex`, or in a mirror of it."""

    name: str

    def build(self, index: VectorIndex) -> None:
        """Get ready to search `index` as it is now."""

    def search(
        self, queries: Matrix, k: int, allowed: Rows | None = None, effort: Effort = EFFORT
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given.

        Raises:
            CannotSearch: This searcher cannot do this search; the next one can.
        """

    def forget(self) -> None:
        """Let go of the index and of what was copied of it. Nothing is searched meanwhile."""


class CannotSearch(Exception):  # noqa: N818 - no error: users never see it raised
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
    "EFFORT",
    "METRICS",
    "TEMPORARY_BYTES",
    "CannotSearch",
    "Effort",
    "Found",
    "Matrix",
    "Metric",
    "Mirrored",
    "Rows",
    "Searcher",
    "VectorError",
    "VectorIndex",
]
