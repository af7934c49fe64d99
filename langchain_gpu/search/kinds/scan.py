"""A flat search of one query, by all threads.

FAISS shares a batch among its threads query by query, so one query is one thread's work while the
others wait for it, spinning. Here each thread takes a slice of the vectors, and the next one where
others are late: FAISS looks through all of them, and the best of all slices are put in order.
Searches of few vectors, or with a filter, take one thread, and no other is woken.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock, Thread
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
    left = deque(pairwise(count * number // slices for number in range(slices + 1)))

    def look() -> list[tuple[NDArray[np.float32], Rows]]:
        """Look through slices until none is left."""
        found = []
        while left:
            try:
                start, stop = left.popleft()
            except IndexError:  # another thread was faster
                break
            scores, positions = faiss.knn(queries, vectors[start:stop], k, metric)
            positions[positions >= 0] += start
            found.append((scores[0], positions[0]))
        return found

    helpers = _HELPERS.ask(look, slices - 1)
    try:
        found = look()
    finally:
        left.clear()  # where this fails, no other slice is begun
        busy = [helper for helper in helpers if not helper.cancel()]
        for helper in busy:
            helper.exception()  # waits: once the search is over, the vectors may change
    for helper in busy:
        found += helper.result()
    scores = np.concatenate([scores for scores, _ in found])
    positions = np.concatenate([positions for _, positions in found])
    order = np.lexsort((positions, scores if metric == faiss.METRIC_L2 else -scores))[:k]
    return scores[None, order], positions[None, order]


class _Helpers:
    """Threads that look through slices, made when they are first needed.

    They end with the process and not before: an executor takes no work while Python shuts down, and
    threads that are not the main one, or functions of `atexit`, may search until it did. Nobody
    depends on them: what no helper begins, the thread that asked does itself.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start again: after a fork the child has none of its parent's threads."""
        self._lock = Lock()
        self._count = 0
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def ask(self, work: Callable[[], Any], count: int) -> list[Future[Any]]:
        """Have up to `count` threads do the same work."""
        with self._lock:
            while self._count < count:
                helper = Thread(
                    target=_help, args=(self._tasks,), name="langchain-gpu-scan", daemon=True
                )
                try:
                    helper.start()
                except RuntimeError:  # the system gives no more, or Python shuts down
                    count = self._count
                else:
                    self._count += 1
        asked: list[Future[Any]] = [Future() for _ in range(count)]
        for future in asked:
            self._tasks.put((future, work))
        return asked


def _help(tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]]) -> None:
    faiss.omp_set_num_threads(1)  # for regions that this thread opens
    while True:
        future, work = tasks.get()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is read
                future.set_exception(error)
        del future, work  # they hold the vectors


_HELPERS = _Helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELPERS.forget)


__all__ = ["SLICE_BYTES", "scan"]
