"""Search by FAISS on the CPU index itself, for any k and any filter."""

from __future__ import annotations

from weakref import ref

from langchain_gpu.search.base import EFFORT, Effort, Found, Matrix, Rows, VectorIndex


class FaissCPU:
    """The searcher that always answers. Threads may search at once, but not while rows change."""

    name = "cpu"
    _index: ref[VectorIndex]

    def build(self, index: VectorIndex) -> None:
        """Search `index` from now on; nothing is copied, and its owner may let it go."""
        self._index = ref(index)

    def search(
        self, queries: Matrix, k: int, allowed: Rows | None = None, effort: Effort = EFFORT
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given."""
        index = self._index()
        assert index is not None, "its owner searches it"  # noqa: S101 - for mypy
        return index.search(queries, k, allowed, effort)

    def forget(self) -> None:
        """Nothing is held."""


__all__ = ["FaissCPU"]
