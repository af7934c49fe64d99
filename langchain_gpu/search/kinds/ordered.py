"""Kinds that keep vectors in the order of rows: flat, scalar-quantized, HNSW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import Effort, Found, Matrix, Mirrored, Rows
from langchain_gpu.search.kinds.bodies import bitmap, faiss, in_order, shape_of
from langchain_gpu.search.kinds.scan import scan
from langchain_gpu.search.kinds.shapes import FLAT
from langchain_gpu.search.kinds.staging import staged

# Below this part of all vectors, looking at each that is admitted beats a walk through a graph
# most of whose nodes are not.
SCANNED = 20
# Linking takes a millisecond or less a vector, copying a graph about a microsecond: from so many
# vectors on, and from this part of the graph on, they are linked in a copy.
LINKED = 256
COPIED = 200


class Ordered:
    """Flat or scalar-quantized vectors. Positions follow rows, so a row is found by bisection.

    FAISS's own `IndexIDMap2` keeps a hash map for that, of some 50 bytes a vector, and builds it
    again at every removal; here 8 bytes do.
    """

    def __init__(self, index: Any, rows: Rows | None = None) -> None:
        """Take over a FAISS index whose positions hold `rows`, increasing.

        Raises:
            ValueError: The rows are not increasing, or not as many as the vectors.
        """
        self.shape = shape_of(index)
        self._index = index
        self._column = np.empty(0, dtype=np.int64) if rows is None else rows  # grows by doubling
        self._count = len(self._column)
        if self._count != index.ntotal or (np.diff(self._column) <= 0).any():
            raise ValueError("row numbers and vectors do not go together")

    @property
    def dead(self) -> int:
        """None: what is removed is gone."""
        return 0

    def __len__(self) -> int:
        """Count the vectors."""
        return self._count

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add vectors under rows that are higher than any before."""
        count = self._count + len(rows)
        if count > len(self._column):
            column = np.empty(max(count, 2 * self._count), dtype=np.int64)
            column[: self._count] = self._column[: self._count]
            self._column = column
        room = (
            None if self._count or self.shape != FLAT else staged(vectors, self._index.metric_type)
        )
        try:
            if room is not None:
                self._index = room.index()
            elif self._index.ntotal < count:
                self._index.add(vectors)
        finally:  # Ctrl-C is raised when FAISS has added them
            count = self._index.ntotal
            self._column[self._count : count] = rows[: count - self._count]
            self._count = count

    def remove(self, rows: Rows) -> bool:
        """Remove rows, all in one pass; the vectors behind move up."""
        gone = self._mask(rows)
        if not gone.any():
            return False
        left = self._column[: self._count][~gone]
        try:
            self._index.remove_ids(bitmap(gone))
        finally:  # Ctrl-C is raised when FAISS has removed them
            if self._index.ntotal == len(left):
                self._column, self._count = left, len(left)
        return True

    def rows(self) -> Rows:
        """Return the rows, increasing."""
        return self._column[: self._count].copy()

    def vectors(self, rows: Rows) -> Matrix:
        """Return the stored vectors of `rows`."""
        vectors: Matrix = self._index.reconstruct_batch(self._positions(rows))
        return vectors

    def search(
        self,
        queries: Matrix,
        k: int,
        allowed: Rows | None,
        effort: Effort,  # noqa: ARG002 - looks at everything
    ) -> Found:
        """Look at every vector that is allowed."""
        selector = None if allowed is None else bitmap(self._mask(allowed))
        return self._named(*self._scan(self._index, queries, k, selector))

    def mirrored(self) -> Mirrored:
        """Return the vectors, and the rows of their positions."""
        return Mirrored(self._index, self.rows())

    def written(self) -> Any:
        """Return the index under its row numbers."""
        return _numbered(self._index, self.rows())

    def _scan(
        self, index: Any, queries: Matrix, k: int, selector: Any
    ) -> tuple[NDArray[np.float32], Rows]:
        """Search for positions, the lowest of equals first, at the cut too."""
        fetch = min(k + 1, max(index.ntotal, 1))
        scores, positions = scan(index, queries, fetch, selector)
        if fetch <= k:
            scores, positions = in_order(scores, positions)
            return _padded(scores, k), _padded(positions, k)
        # Nearly always there are no equals, and none at the cut.
        if not np.count_nonzero(scores[:, 1:] == scores[:, :-1]):
            return scores[:, :k], positions[:, :k]
        scores, positions = in_order(scores, positions)
        # FAISS keeps the highest rows of equal inner products: where the cut goes through equals,
        # look at more of them.
        equal = (scores[:, k - 1] == scores[:, k]) & (positions[:, k] >= 0)
        cut = np.flatnonzero(equal) if equal.any() else ()
        while len(cut) and fetch < index.ntotal:
            fetch = min(4 * fetch, index.ntotal)
            more = in_order(*scan(index, queries[cut], fetch, selector))
            scores[cut, :k], positions[cut, :k] = more.scores[:, :k], more.rows[:, :k]
            cut = cut[more.scores[:, k - 1] == more.scores[:, -1]]
        return scores[:, :k], positions[:, :k]

    def _named(self, scores: NDArray[np.float32], positions: Rows) -> Found:
        if len(positions) == 1 and positions[0, -1] >= 0:  # what was not found stands at the end
            return Found(scores, self._column[positions])
        found = positions >= 0
        if found.all():
            return Found(scores, self._column[positions])
        if not self._count:
            return Found(scores, positions)
        return Found(scores, np.where(found, self._column[np.where(found, positions, 0)], -1))

    def _mask(self, rows: Rows) -> NDArray[np.bool_]:
        """Mark the positions of those `rows` that are here."""
        mask = np.zeros(self._count, dtype=np.bool_)
        if self._count:
            column = self._column[: self._count]
            places = np.minimum(np.searchsorted(column, rows), self._count - 1)
            mask[places[column[places] == rows]] = True
        return mask

    def _positions(self, rows: Rows) -> Rows:
        column = self._column[: self._count]
        places: Rows = np.searchsorted(column, rows)
        known = places < self._count
        known[known] = column[places[known]] == rows[known]
        if not known.all():
            raise KeyError(f"row {rows[~known][0]} is not here")
        return places


class Graph(Ordered):
    """HNSW. It cannot remove, so rows that go are marked and never found again.

    A mark is kept in the file as the complement of the row number, which is negative.
    """

    def __init__(self, index: Any, numbers: Rows | None = None) -> None:
        """Take over a FAISS index whose positions hold `numbers`, complemented where removed."""
        rows = None if numbers is None else np.where(numbers < 0, ~numbers, numbers)
        super().__init__(index, rows)
        self._storage = faiss.downcast_index(index.storage)
        self._gone = np.zeros(0, np.bool_) if numbers is None else numbers < 0  # grows with _column
        self._dead = int(self._gone.sum())
        self._linked: tuple[Matrix, Any] | None = None

    @property
    def dead(self) -> int:
        """Marked vectors."""
        return self._dead

    def __len__(self) -> int:
        """Count the vectors that are not marked."""
        return self._count - self._dead

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add vectors, linked to their neighbors."""
        linked, self._linked = self._linked, None
        if linked is not None and linked[0] is vectors:
            self._index = linked[1]
            self._storage = faiss.downcast_index(self._index.storage)
        try:
            super().add(rows, vectors)
        finally:
            if len(self._gone) < len(self._column):
                gone = np.zeros(len(self._column), dtype=np.bool_)
                gone[: len(self._gone)] = self._gone
                self._gone = gone

    def link(self, vectors: Matrix) -> Callable[[], None] | None:
        """Link vectors in a copy of the graph, beside the searches.

        What comes back has the next `add` of these vectors take the copy over. None where they are
        so few that copying would cost more than linking.
        """
        if len(vectors) < max(LINKED, self._count // COPIED):
            return None
        copy = faiss.clone_index(self._index)
        copy.add(vectors)

        def take_over() -> None:
            self._linked = vectors, copy

        return take_over

    def remove(self, rows: Rows) -> bool:
        """Mark rows."""
        gone = self._mask(rows)
        self._gone[: self._count] |= gone
        self._dead += int(gone.sum())
        return bool(gone.any())

    def rows(self) -> Rows:
        """Return the rows that are not marked, increasing."""
        return self._column[: self._count][~self._gone[: self._count]]

    def search(self, queries: Matrix, k: int, allowed: Rows | None, effort: Effort) -> Found:
        """Walk the graph; scan instead where few are allowed, or where the walk found too few."""
        admitted = len(self)
        selector = mask = None
        if allowed is not None:
            mask = self._mask(allowed)
            admitted = int(mask.sum())
        elif self._dead:
            mask = ~self._gone[: self._count]
        if mask is not None:
            selector = bitmap(mask)
        if admitted * SCANNED < self._count:
            return self._named(*self._scan(self._storage, queries, k, selector))
        parameters = faiss.SearchParametersHNSW()
        parameters.efSearch = effort.ef_search or max(EF_SEARCH, k)
        if selector is not None:
            parameters.sel = selector
        found = in_order(*self._index.search(queries, k, params=parameters))
        short = found.rows[:, min(k, admitted) - 1] < 0  # what was not found stands at the end
        if short.any():
            scores, positions = self._scan(self._storage, queries[short], k, selector)
            found.scores[short], found.rows[short] = scores, positions
        return self._named(*found)

    def written(self) -> Any:
        """Return the index under its row numbers, complemented where marked."""
        column, gone = self._column[: self._count], self._gone[: self._count]
        return _numbered(self._index, np.where(gone, ~column, column))

    def _mask(self, rows: Rows) -> NDArray[np.bool_]:
        return super()._mask(rows) & ~self._gone[: self._count]

    def _positions(self, rows: Rows) -> Rows:
        places = super()._positions(rows)
        if self._gone[places].any():
            raise KeyError(f"row {rows[self._gone[places]][0]} is not here")
        return places


EF_SEARCH = 64


def _padded(values: Any, k: int) -> Any:
    """Widen [queries, n] to [queries, k] with what stands for nothing."""
    if values.shape[1] == k:
        return values
    fill = -1 if values.dtype == np.int64 else np.float32(np.nan)
    return np.pad(values, ((0, 0), (0, k - values.shape[1])), constant_values=fill)


def _numbered(index: Any, numbers: Rows) -> Any:
    """Put row numbers on an index; FAISS's constructor takes an empty one only."""
    numbered = faiss.IndexIDMap(faiss.IndexFlat(index.d, index.metric_type))
    numbered.index = index
    numbered.ntotal = index.ntotal
    numbered.referenced_objects = [index]
    faiss.copy_array_to_vector(numbers, numbered.id_map)
    return numbered


__all__ = ["EF_SEARCH", "Graph", "Ordered"]
