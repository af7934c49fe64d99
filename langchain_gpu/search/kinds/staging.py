"""A buffer that becomes a FAISS index without being copied.

Vectors that come in would otherwise be there twice while they are added: as an array, and in FAISS.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from langchain_gpu.search.base import Matrix
from langchain_gpu.search.kinds.bodies import faiss


class Staged:
    """A flat FAISS index that has room for vectors, and counts none yet.

    `np.asarray` of it is that room. It must not be used any more once the index has grown, which
    may move it.
    """

    def __init__(self, index: Any, count: int) -> None:
        """Make room in an empty index.

        Args:
            index: A flat FAISS index.
            count: Vectors, at least 1.
        """
        size = 4 * count * index.d
        index.codes.resize(size)
        room = faiss.rev_swig_ptr(index.codes.data(), size)
        self.__array_interface__: dict[str, Any] = {
            **room.__array_interface__,
            "typestr": np.dtype(np.float32).str,
            "descr": [("", np.dtype(np.float32).str)],
            "shape": (count, index.d),
        }
        self._index = index
        self._count = count

    def holds(self, vectors: Matrix, metric: int) -> bool:
        """Say whether these are all of its vectors, and no index counts them yet."""
        same = vectors.ctypes.data == self.__array_interface__["data"][0]
        whole = vectors.shape == (self._count, self._index.d) and vectors.flags.c_contiguous
        return same and whole and not self._index.ntotal and self._index.metric_type == metric

    def index(self) -> Any:
        """Return the index, which counts its vectors from now on."""
        self._index.ntotal = self._count
        return self._index


def staged(vectors: Matrix, metric: int) -> Staged | None:
    """Return whose room `vectors` are, all of them; None where they are an array of numpy's own."""
    base: Any = vectors.base
    return base if isinstance(base, Staged) and base.holds(vectors, metric) else None


__all__ = ["Staged", "staged"]
