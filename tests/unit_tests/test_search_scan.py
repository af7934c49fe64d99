"""One query over many vectors, slice by slice: what FAISS finds alone, and in its order."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search import kinds
from langchain_gpu.search.base import EFFORT, Metric
from langchain_gpu.search.kinds import scan as scanning

METRICS: list[Metric] = ["ip", "l2"]
COUNT, WIDTH = 400, 8
THREADS = 3


@pytest.fixture(autouse=True)
def sliced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Have few vectors looked through in slices; the list says by how many threads."""
    seen: list[int] = []
    whole = scanning._sliced

    def noted(index: Any, queries: Any, k: int, slices: int) -> Any:
        seen.append(slices)
        return whole(index, queries, k, slices)

    monkeypatch.setattr(scanning, "SLICE_BYTES", 4 * WIDTH * 10)
    monkeypatch.setattr(scanning, "_sliced", noted)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(THREADS)
    yield seen
    faiss.omp_set_num_threads(before)


def made(rows: NDArray[np.float32], metric: Metric) -> Any:
    index = kinds.get("flat").create(rows.shape[1], metric)
    index.add(np.arange(len(rows)), rows)
    return index


def nearest(rows: NDArray[np.float32], query: NDArray[np.float32], metric: Metric) -> list[int]:
    """All rows in float64, the nearest first, the lowest of equals first."""
    exact, point = rows.astype(np.float64), query.astype(np.float64)
    away = ((exact - point) ** 2).sum(axis=1) if metric == "l2" else -(exact @ point)
    order: list[int] = np.lexsort((np.arange(len(rows)), away)).tolist()
    return order


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 132, 133, 134, 399, 400])
def test_it_is_what_brute_force_finds(metric: Metric, k: int, sliced: list[int]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((COUNT, WIDTH), dtype=np.float32)
    index = made(rows, metric)
    for query in rng.standard_normal((20, WIDTH), dtype=np.float32):
        found = index.search(query[None], k)
        assert found.rows[0].tolist() == nearest(rows, query, metric)[:k]
        alone = index._body._index.search(query[None], k)[0]
        assert found.scores.tolist() == alone.tolist()
    assert set(sliced) == ({min(THREADS, COUNT // (k + 1))} if COUNT // (k + 1) > 1 else set())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("distinct", [1, 2, 7])
def test_of_equals_the_lowest_come_first(metric: Metric, distinct: int) -> None:
    """Equals lie in all slices, and on both sides of the cut."""
    rng = np.random.default_rng(distinct)
    few = rng.standard_normal((distinct, WIDTH), dtype=np.float32)
    rows = few[rng.integers(0, distinct, COUNT)]
    index = made(rows, metric)
    for query in rng.standard_normal((5, WIDTH), dtype=np.float32):
        for k in (1, 5, 50):
            found = index.search(query[None], k).rows[0].tolist()
            assert found == nearest(rows, query, metric)[:k]


def test_a_batch_and_a_filter_are_left_to_faiss(sliced: list[int]) -> None:
    rows = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
    index = made(rows, "ip")
    index.search(rows[:2], 5)
    allowed = np.arange(0, COUNT, 2)
    found = index.search(rows[:1], 5, allowed, EFFORT).rows[0].tolist()
    assert found == [row for row in nearest(rows, rows[0], "ip") if row % 2 == 0][:5]
    assert not sliced


def test_threads_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
    index = made(rows, "ip")
    index.search(rows[:1], 5)
    assert faiss.omp_get_max_threads() == THREADS
    monkeypatch.setattr(scanning, "_sliced", None)  # what comes next cannot work
    with pytest.raises(TypeError):
        index.search(rows[:1], 5)
    monkeypatch.undo()
    assert faiss.omp_get_max_threads() == THREADS


def test_many_threads_search_at_once(sliced: list[int]) -> None:
    rows = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
    index = made(rows, "l2")
    # Each has OpenMP's number of threads for itself, and the environment may say one.
    with ThreadPoolExecutor(8, "", faiss.omp_set_num_threads, (THREADS,)) as threads:
        found = list(threads.map(lambda n: index.search(rows[n : n + 1], 3), range(COUNT)))
    assert [each.rows[0, 0] for each in found] == list(range(COUNT))
    assert len(sliced) == COUNT


def test_a_store_in_a_file_is_looked_through_in_slices(tmp_path: Path, sliced: list[int]) -> None:
    class Line:
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            numbers = (float(text) if text[0].isdecimal() else 0.0 for text in texts)
            return [[number, *[1.0] * (WIDTH - 1)] for number in numbers]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    line: Any = Line()
    FAISSVectorStore.from_texts(list(map(str, range(COUNT))), line, metric="l2").save_local(
        tmp_path
    )
    mapped = FAISSVectorStore.load_local(tmp_path, line, mmap=True, device="cpu")
    assert [each.page_content for each in mapped.similarity_search("123.4", k=3)] == [
        "123",
        "124",
        "122",
    ]
    assert sliced == [THREADS]


def test_what_is_too_far_for_float32_is_not_found() -> None:
    """Slices in which there is nothing to be found add no row."""
    rows = np.full((COUNT, WIDTH), 4e18, dtype=np.float32)
    rows[0] = rows[COUNT - 1] = 0
    index = made(rows, "l2")
    found = index.search(np.zeros((1, WIDTH), dtype=np.float32) - np.float32(4e18), 5)
    assert found.rows.tolist() == [[0, COUNT - 1, -1, -1, -1]]


class _NoThread(threading.Thread):
    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_where_no_thread_can_be_had_one_does_it_all(
    monkeypatch: pytest.MonkeyPatch, sliced: list[int]
) -> None:
    rows = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
    index = made(rows, "l2")
    monkeypatch.setattr(scanning, "_HELPERS", scanning._Helpers())
    monkeypatch.setattr(scanning, "Thread", _NoThread)
    assert index.search(rows[7:8], 5).rows[0].tolist() == nearest(rows, rows[7], "l2")[:5]
    assert sliced == [THREADS]


@pytest.mark.parametrize("failing", ["caller", "helper"])
def test_an_error_is_raised_when_nobody_looks_any_more(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a search the vectors may change or go, so no thread may be at them still."""
    rows = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
    index = made(rows, "l2")
    real, caller = faiss.knn, threading.current_thread()
    both, ended = threading.Barrier(2), []

    def knn(*arguments: Any) -> Any:
        both.wait(60)
        mine = threading.current_thread() is caller
        if mine is (failing == "caller"):
            raise MemoryError(failing)
        time.sleep(0.2)
        ended.append(mine)
        return real(*arguments)

    monkeypatch.setattr(faiss, "knn", knn)
    faiss.omp_set_num_threads(2)
    with pytest.raises(MemoryError, match=failing):
        index.search(rows[:1], 5)
    assert ended == [failing == "helper"]
    monkeypatch.undo()
    assert index.search(rows[:1], 1).rows.tolist() == [[0]]


_AT_THE_END = """
import atexit, threading
import faiss, numpy as np
from langchain_gpu.search import kinds
from langchain_gpu.search.kinds import scan

scan.SLICE_BYTES = 320
index = kinds.get("flat").create(8, "l2")
rows = np.arange(3200, dtype=np.float32).reshape(400, 8)
index.add(np.arange(400), rows)

def search(number):
    faiss.omp_set_num_threads(3)
    print(index.search(rows[number : number + 1], 1).rows[0, 0], flush=True)

def later():
    threading.main_thread().join()
    search(1)

if {before}:
    search(0)
threading.Thread(target=later).start()
atexit.register(search, 2)
"""


@pytest.mark.parametrize("before", [["0"], []])
def test_threads_search_on_while_python_shuts_down(before: list[str]) -> None:
    script = _AT_THE_END.format(before=bool(before))
    done = subprocess.run(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == ([*before, "1", "2"], "")


def _search_in_a_child(queries: NDArray[np.float32], index: Any, answer: Any) -> None:
    """Search on the thread that is there after the fork, and on another."""

    def search() -> None:
        answer.put(index.search(queries, 3).rows.tolist())

    search()
    other = threading.Thread(target=search)
    other.start()
    other.join()


@pytest.mark.skipif(sys.platform != "linux", reason="a fork is needed")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("count", [1, 5, 64])
def test_a_forked_child_needs_none_of_its_parents_threads(sliced: list[int], count: int) -> None:
    rows = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
    index = made(rows, "l2")
    index.search(rows[:64], 3)  # now OpenMP has threads in this process
    expected = index.search(rows[:count], 3).rows.tolist()
    assert bool(sliced) == (count == 1)
    forks = multiprocessing.get_context("fork")
    answer = forks.Queue()
    child = forks.Process(target=_search_in_a_child, args=(rows[:count], index, answer))
    child.start()
    try:
        assert answer.get(timeout=30) == expected
        assert answer.get(timeout=30) == expected
    finally:
        child.kill()
        child.join()
