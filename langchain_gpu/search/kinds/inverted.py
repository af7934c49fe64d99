"""IVF: vectors in lists around centroids, of which a search visits the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np

from langchain_gpu.search.base import Effort, Found, Matrix, Mirrored, Rows
from langchain_gpu.search.kinds.bodies import SLICE, bitmap, faiss, in_order, shape_of
from langchain_gpu.search.kinds.shapes import default_nprobe


class Inverted:
    """IVF. FAISS keeps the row numbers in the lists.

    `IndexIDMap2` around it would give removed numbers to other vectors, and a direct map costs 50
    bytes a vector: places are looked up here, and remembered until the next change.
    """

    def __init__(self, index: Any) -> None:
        """Take over a trained FAISS index."""
        self.shape = shape_of(index)
        self._index = index
        self._places: tuple[Rows, Rows, Rows] | None = None  # rows, increasing; list; offset

    @property
    def dead(self) -> int:
        """None: what is removed is gone."""
        return 0

    def __len__(self) -> int:
        """Count the vectors."""
        return int(self._index.ntotal)

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Put vectors into the lists of their nearest centroids."""
        self._places = None
        self._index.add_with_ids(vectors, rows)

    def remove(self, rows: Rows) -> bool:
        """Remove rows, all in one pass over the lists."""
        if not len(rows):
            return False
        self._places = None
        return bool(self._index.remove_ids(rows))

    def rows(self) -> Rows:
        """Return the rows, increasing."""
        return self._find_places()[0].copy()

    def vectors(self, rows: Rows) -> Matrix:
        """Return the stored vectors of `rows`."""
        known, lists, offsets = self._find_places()
        at = np.minimum(np.searchsorted(known, rows), max(len(known) - 1, 0))
        absent = known[at] != rows if len(known) else np.ones(len(rows), dtype=np.bool_)
        if absent.any():
            raise KeyError(f"row {rows[absent][0]} is not here")
        vectors = np.empty((len(rows), self._index.d), dtype=np.float32)
        for start in range(0, len(rows), SLICE):
            part = at[start : start + SLICE]
            self._decode(lists[part], offsets[part], vectors[start : start + SLICE])
        return vectors

    def search(self, queries: Matrix, k: int, allowed: Rows | None, effort: Effort) -> Found:
        """Scan the nearest lists; more of them where those hold too few that are allowed."""
        lists = self.shape.lists
        nprobe = min(effort.nprobe or default_nprobe(lists), lists)
        parameters = faiss.SearchParametersIVF(nprobe=nprobe)
        wanted = min(k, len(self))
        if allowed is not None:
            mask = np.zeros(int(allowed.max(initial=0)) + 1, dtype=np.bool_)
            mask[allowed] = True
            parameters = faiss.SearchParametersIVF(nprobe=nprobe, sel=bitmap(mask))
            wanted = min(k, len(allowed))
        scores, rows = self._index.search(queries, k, params=parameters)
        while nprobe < lists:
            short = (rows >= 0).sum(axis=1) < wanted
            if not short.any():
                break
            parameters.nprobe = nprobe = min(4 * nprobe, lists)
            scores[short], rows[short] = self._index.search(queries[short], k, params=parameters)
        return in_order(scores, rows)

    def mirrored(self) -> Mirrored:
        """Return the index: it answers in rows."""
        lists = self.shape.lists
        return Mirrored(self._index, None, default_nprobe(lists), lists)

    def written(self) -> Any:
        """Return the index."""
        return self._index

    def _find_places(self) -> tuple[Rows, Rows, Rows]:
        # Threads that search may come here together: each then finds the same.
        if (places := self._places) is not None:
            return places
        inverted = self._index.invlists
        sizes = [inverted.list_size(number) for number in range(self.shape.lists)]
        rows = np.empty(sum(sizes), dtype=np.int64)
        offsets = np.empty(len(rows), dtype=np.int64)
        start = 0
        for number, size in enumerate(sizes):
            if size:
                rows[start : start + size] = faiss.rev_swig_ptr(inverted.get_ids(number), size)
                offsets[start : start + size] = np.arange(size)
            start += size
        lists = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
        order = np.argsort(rows, kind="stable")
        self._places = rows[order], lists[order], offsets[order]
        return self._places

    def _decode(self, lists: Rows, offsets: Rows, vectors: Matrix) -> None:
        """Write the vectors at some places, list by list."""
        inverted, size = self._index.invlists, self._index.code_size
        order = np.argsort(lists, kind="stable")
        codes = np.empty((len(lists), size), dtype=np.uint8)
        start = 0
        for number, count in zip(*np.unique(lists, return_counts=True), strict=True):
            here = order[start : start + count]
            length = inverted.list_size(int(number))
            stored = faiss.rev_swig_ptr(inverted.get_codes(int(number)), length * size)
            codes[here] = stored.reshape(length, size)[offsets[here]]
            start += count
        numbers = np.ascontiguousarray(lists)
        self._index.decode_vectors(
            len(codes), faiss.swig_ptr(codes), faiss.swig_ptr(numbers), faiss.swig_ptr(vectors)
        )


__all__ = ["Inverted"]
