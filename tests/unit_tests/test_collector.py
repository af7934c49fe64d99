from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import pytest

from langchain_gpu.engine.collector import Collector
from langchain_gpu.engine.ladder import EngineOutOfMemoryError
from langchain_gpu.engine.report import Report, Rows
from langchain_gpu.engine.tasks.embed import TextTooLongError
from langchain_gpu.llama.errors import LlamaError
from langchain_gpu.servers.errors import (
    FailedItemError,
    NotFiniteError,
    RefusedError,
    ServerError,
    ServerTimeoutError,
    ServerUnreachableError,
)


class Slow:
    """A run that waits to be let through, and counts."""

    def __init__(self) -> None:
        self.groups: list[tuple[list[int], object]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def __call__(self, items: list[int], options: object) -> Rows:
        self.groups.append((items, options))
        self.started.release()
        assert self.gate.acquire(timeout=20)
        if any(item < 0 for item in items):
            raise ValueError(f"bad among {items}")
        truncated = tuple(at for at, item in enumerate(items) if item > 100)
        vectors = np.array([[item] for item in items], np.float32)
        return Rows(vectors, Report(items=len(items), truncated=truncated))


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def values(future: Future[Rows]) -> list[float]:
    found: list[float] = future.result(20).vectors[:, 0].tolist()
    return found


def open_gate(slow: Slow, times: int = 50) -> None:
    slow.gate.release(times)


def test_a_lone_call_runs_on_its_own_thread(slow: Slow) -> None:
    threads: list[threading.Thread] = []

    def run(items: list[int], options: object) -> Rows:
        threads.append(threading.current_thread())
        return Rows(np.zeros((len(items), 1), np.float32), Report())

    Collector(run, 8).call([1], None)
    assert threads == [threading.current_thread()]


def test_what_it_runs_cannot_wait_for_it() -> None:
    refused: list[int] = []

    def run(items: list[int], options: object) -> Rows:
        with pytest.raises(RuntimeError, match="is waiting for that listener"):
            collector.call(items, options)
        refused.extend(items)
        return Rows(np.zeros((len(items), 1), np.float32), Report(items=len(items)))

    collector = Collector(run, 8)
    collector.call([1], None)
    collector.submit([2], None).result(timeout=20)
    assert refused == [1, 2]


def test_those_who_wait_go_together(slow: Slow) -> None:
    collector = Collector(slow, 100)
    first = collector.submit([0], None)
    assert slow.started.acquire(timeout=20)
    rest = [collector.submit([number, number + 1], None) for number in range(1, 20)]
    open_gate(slow)
    assert values(first) == [0]
    assert [values(each) for each in rest] == [[n, n + 1] for n in range(1, 20)]
    assert len(slow.groups) == 2


def test_other_options_go_apart_and_in_order(slow: Slow) -> None:
    collector = Collector(slow, 100)
    collector.submit([0], "a")
    assert slow.started.acquire(timeout=20)
    futures = [collector.submit([number], "ab"[number % 2]) for number in range(6)]
    open_gate(slow)
    assert [values(each) for each in futures] == [[number] for number in range(6)]
    assert [(sorted(items), options) for items, options in slow.groups[1:]] == [
        ([0, 2, 4], "a"),
        ([1, 3, 5], "b"),
    ]


def test_a_group_has_a_limit_and_a_large_call_still_runs(slow: Slow) -> None:
    collector = Collector(slow, 5)
    collector.submit([0], None)
    assert slow.started.acquire(timeout=20)
    futures = [collector.submit([number] * 2, None) for number in range(4)]
    large = collector.submit(list(range(9)), None)
    open_gate(slow)
    assert values(large) == list(range(9))
    assert [values(each) for each in futures] == [[number] * 2 for number in range(4)]
    assert max(len(items) for items, _ in slow.groups if len(items) != 9) <= 5


def test_an_error_reaches_only_the_call_it_belongs_to(slow: Slow) -> None:
    collector = Collector(slow, 100)
    collector.submit([0], None)
    assert slow.started.acquire(timeout=20)
    good, bad, also = (collector.submit([number], None) for number in (1, -1, 2))
    open_gate(slow)
    assert values(good) == [1]
    assert values(also) == [2]
    with pytest.raises(ValueError, match=r"bad among \[-1\]"):
        bad.result(20)


class Refusing(Slow):
    """Raises an error where a negative item is among those it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def __call__(self, items: list[int], options: object) -> Rows:
        rows = super().__call__([abs(item) for item in items], options)
        if min(items) < 0:
            raise self.error
        return rows


def behind_another(collector: Collector[int], slow: Slow, items: list[int]) -> list[Future[Rows]]:
    """Submit calls of one item each, which wait for a first one and go together then."""
    collector.submit([0], None)
    assert slow.started.acquire(timeout=20)
    futures = [collector.submit([item], None) for item in items]
    open_gate(slow)
    return futures


@pytest.mark.parametrize(
    "error",
    [
        TypeError("text 0 is int"),
        TextTooLongError("text 0 is longer than the window"),
        RefusedError("far answered 400", status=400, detail="no"),
        RefusedError("far answered 500", status=500, detail="maximum context length is 512"),
        NotFiniteError("far returned NaN"),
        EngineOutOfMemoryError("item 0 does not fit"),
        LlamaError({"message": "input is too large"}),
    ],
)
def test_an_error_about_an_item_is_found_by_halves(error: Exception) -> None:
    slow = Refusing(error)
    items = [*range(1, 20), -20, *range(21, 41)]
    futures = behind_another(Collector(slow, 100), slow, items)
    for item, future in zip(items, futures, strict=True):
        if item < 0:
            assert future.exception(20) is error
        else:
            assert values(future) == [item]
    assert len(slow.groups) <= 2 + 2 * 6, "about two runs per halving"


@pytest.mark.parametrize(
    "error",
    [
        ServerTimeoutError("far did not answer within 60 seconds", again=True),
        ServerUnreachableError("far cannot be reached", again=True),
        ServerError("far answered 503", status=503, again=True),
        RefusedError("far answered 401", status=401, detail="who are you?"),
        RuntimeError("device-side assert triggered"),
    ],
)
def test_an_error_about_no_item_reaches_all_at_once(error: Exception) -> None:
    slow = Refusing(error)
    futures = behind_another(Collector(slow, 100), slow, list(range(-64, 0)))
    assert [future.exception(20) for future in futures] == [error] * 64
    assert len(slow.groups) == 2, "a server that hangs is waited for once"


def test_whom_a_server_fails_at_is_told_without_another_run() -> None:
    """A run at which a server fails takes several attempts, and the others would wait for it."""
    runs: list[list[int]] = []

    class Failing(Slow):
        def __call__(self, items: list[int], options: object) -> Rows:
            runs.append(items)
            rows = super().__call__([abs(item) for item in items], options)
            for position, item in enumerate(items):
                if item < 0:
                    raise FailedItemError("text", position, ServerError("no", status=500))
            return rows

    slow = Failing()
    collector = Collector(slow, 100)
    collector.submit([0], None)
    assert slow.started.acquire(timeout=20)
    calls = [[1, 2], [3, -4, 5], [6], [-7], [8, 9]]
    futures = [collector.submit(call, None) for call in calls]
    open_gate(slow)
    for number, text in ((1, "text 1"), (3, "text 0")):
        with pytest.raises(FailedItemError, match=f"^{text} makes the server fail: no$") as caught:
            futures.pop(number - (number == 3)).result(20)
        assert caught.value.status == 500
    assert [values(future) for future in futures] == [[1, 2], [6], [8, 9]]
    assert runs == [[0], [1, 2, 3, -4, 5, 6, -7, 8, 9], [1, 2, 6, -7, 8, 9], [1, 2, 6, 8, 9]]


def test_a_server_that_dies_while_a_culprit_is_looked_for_is_waited_for_once() -> None:
    runs: list[int] = []

    class Dying(Slow):
        def __call__(self, items: list[int], options: object) -> Rows:
            runs.append(len(items))
            if len(runs) > 2:
                raise ServerTimeoutError("far did not answer within 60 seconds", again=True)
            return super().__call__(items, options)

    slow = Dying()
    futures = behind_another(Collector(slow, 100), slow, [1, -1, *range(2, 64)])
    assert {type(future.exception(20)) for future in futures} == {ServerTimeoutError}
    assert runs == [1, 64, 32]


def test_a_cancelled_call_is_left_out_and_disturbs_nobody(slow: Slow) -> None:
    collector = Collector(slow, 100)
    collector.submit([0], None)
    assert slow.started.acquire(timeout=20)
    before, gone, after = (collector.submit([number], None) for number in (1, 2, 3))
    assert gone.cancel()
    open_gate(slow)
    assert values(before) == [1]
    assert values(after) == [3]
    with pytest.raises(CancelledError):
        gone.result(20)
    assert [2] not in [items for items, _ in slow.groups]


def test_after_an_error_of_the_first_the_others_go_on(slow: Slow, pool: ThreadPoolExecutor) -> None:
    collector = Collector(slow, 100)
    first = pool.submit(collector.call, [-5], None)
    assert slow.started.acquire(timeout=20)
    second = pool.submit(collector.call, [7], None)
    while not collector._waiting:
        pass
    open_gate(slow)
    with pytest.raises(ValueError, match="bad"):
        first.result(20)
    assert second.result(20).vectors.tolist() == [[7]]
    assert collector.submit([8], None).result(20).vectors.tolist() == [[8]]


def test_truncations_are_told_to_whom_they_belong(slow: Slow) -> None:
    collector = Collector(slow, 100)
    collector.submit([0], None)
    assert slow.started.acquire(timeout=20)
    first = collector.submit([1, 500], None)
    second = collector.submit([600, 2], None)
    open_gate(slow)
    assert first.result(20).report.truncated == (1,)
    assert second.result(20).report.truncated == (0,)
    assert second.result(20).report.items == 2


def test_rows_do_not_hold_the_memory_of_others(slow: Slow) -> None:
    collector = Collector(slow, 100)
    collector.submit([0], None)
    assert slow.started.acquire(timeout=20)
    futures = [collector.submit([number], None) for number in range(3)]
    open_gate(slow)
    assert all(each.result(20).vectors.base is None for each in futures)


def test_many_threads_get_their_own(pool: ThreadPoolExecutor) -> None:
    groups = []

    def run(items: list[int], options: object) -> Rows:
        groups.append(len(items))
        return Rows(np.array(items, np.float32).reshape(-1, 1), Report())

    collector = Collector(run, 64)

    def ask(number: int) -> bool:
        items = [number * 10 + extra for extra in range(number % 4)]
        found: list[float] = collector.call(items, number % 3).vectors[:, 0].tolist()
        return found == items

    assert all(pool.map(ask, range(3000)))
    assert sum(groups) == sum(number % 4 for number in range(3000))


def test_threads_that_outlive_the_main_one_get_their_rows() -> None:
    """While Python shuts down no executor takes work, and threads that wait are waited for."""
    code = """
import os, threading, time
import numpy as np
from langchain_gpu.engine.collector import Collector
from langchain_gpu.engine.report import Report, Rows

def run(items, options):
    if 0 in items:
        while len(collector._waiting) < 3:
            time.sleep(0.001)
        while not shutting_down():
            time.sleep(0.001)
    return Rows(np.array(items, np.float32)[:, None], Report())

def shutting_down():
    from concurrent.futures import thread
    return thread._shutdown

def ask(number):
    row = collector.call([number], None).vectors[0, 0]
    os.write(1, f"{row:.0f} ".encode())  # at once: threads share the line

collector = Collector(run, 64)
threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
threads[0].start()
while not collector._busy:
    time.sleep(0.001)
for thread in threads[1:]:
    thread.start()
"""
    done = subprocess.run(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    )
    assert sorted(done.stdout.split()) == ["0", "1", "2", "3"]
