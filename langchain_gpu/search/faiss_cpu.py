"""Search by FAISS on the CPU: the index itself answers, for any k and any filter."""

from __future__ import annotations

from langchain_gpu.search.base import EFFORT, Effort, Found, Matrix, Rows, VectorIndex


class FaissCPU:
    """The searcher that always answers. Threads may search at once, but not while rows change."""

    name = "cpu"
    _index: VectorIndex

    def build(self, index: VectorIndex) -> None:
        """Search `index` from now on; nothing is copied."""
        self._index = index

    def search(
        self, queries: Matrix, k: int, allowed: Rows | None = None, effort: Effort = EFFORT
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given."""
        return self._index.search(queries, k, allowed, effort)


__all__ = ["FaissCPU"]
