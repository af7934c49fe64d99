"""One query over flat vectors, by all threads.

FAISS shares a batch among its threads query by query, so one query is one thread's work while the
others wait for it, spinning. Here each thread takes a slice of the vectors: FAISS looks through all
of them, and the best of all slices are put in order. Searches of few vectors take one thread, and
no other is woken.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import Matrix, Rows
from langchain_gpu.search.kinds.bodies import faiss

SLICE_BYTES = 8 * 2**20  # of vectors, at least: a millisecond's work, and a handover takes a tenth


def scan(
    index: Any, queries: Matrix, k: int, selector: Any = None
) -> tuple[NDArray[np.float32], Rows]:
    """Search a flat or scalar-quantized FAISS index.

    Args:
        index: The index.
        queries: [q, dimension]
        k: At least 1.
        selector: Admits positions. None admits all.

    Returns:
        Scores and positions, both [q, k], best first and -1 where there are fewer, as FAISS's own
        search has them but for the order of equal scores.
    """
    parameters = None if selector is None else faiss.SearchParameters(sel=selector)
    found: tuple[NDArray[np.float32], Rows]
    if len(queries) != 1 or not isinstance(index, faiss.IndexFlat):
        found = index.search(queries, k, params=parameters)
        return found
    threads = faiss.omp_get_max_threads()
    slices = min(threads, index.ntotal * index.code_size // SLICE_BYTES, index.ntotal // k)
    faiss.omp_set_num_threads(1)  # for regions that this thread opens
    try:
        if selector is None and slices > 1:
            found = _sliced(index, queries, k, slices)
        else:
            found = index.search(queries, k, params=parameters)
    finally:
        faiss.omp_set_num_threads(threads)
    return found


def _sliced(index: Any, queries: Matrix, k: int, slices: int) -> tuple[NDArray[np.float32], Rows]:
    count, metric = index.ntotal, index.metric_type
    vectors = faiss.rev_swig_ptr(index.get_xb(), count * index.d).reshape(count, index.d)
    bounds = [count * number // slices for number in range(slices + 1)]

    def look(number: int) -> tuple[NDArray[np.float32], Rows]:
        start = bounds[number]
        scores, positions = faiss.knn(queries, vectors[start : bounds[number + 1]], k, metric)
        return scores[0], positions[0] + start

    others = [_POOL.get(slices - 1).submit(look, number) for number in range(1, slices)]
    found = [look(0), *(other.result() for other in others)]
    scores = np.concatenate([scores for scores, _ in found])
    positions = np.concatenate([positions for _, positions in found])
    order = np.lexsort((positions, scores if metric == faiss.METRIC_L2 else -scores))[:k]
    return scores[None, order], positions[None, order]


class _Pool:
    """Threads that look through slices, made when they are first needed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew: after a fork the child has none of its parent's threads."""
        self._lock = Lock()
        self._size = 0
        self._threads: ThreadPoolExecutor | None = None

    def get(self, size: int) -> ThreadPoolExecutor:
        """Return at least `size` threads."""
        with self._lock:
            if self._threads is None or self._size < size:
                # What waits in a smaller pool is still done there; then its threads end.
                self._threads = ThreadPoolExecutor(
                    size, "langchain-gpu-scan", faiss.omp_set_num_threads, (1,)
                )
                self._size = size
            return self._threads


_POOL = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget)


__all__ = ["SLICE_BYTES", "scan"]
