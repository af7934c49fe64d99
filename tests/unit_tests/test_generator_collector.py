"""Rows of many threads in shared batches: company, order, and errors that stay with their own."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_gpu.generators.base import Request
from langchain_gpu.generators.collector import Collector
from langchain_gpu.generators.rows import Row

END = 0


def row(name: int = 1, **settings: Any) -> Row:
    request = Request(prompt="?", **settings)
    return Row(
        request,
        [name],
        limit=100,
        ends=frozenset({END}),
        decode=lambda ids: "".join(chr(token) for token in ids if token != END),
    )


class Engine:
    """Answers every row with its own number; waits at a gate first, if it has one."""

    def __init__(self, most: int, *, gated: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.gate = threading.Event()
        if not gated:
            self.gate.set()
        self.collector = Collector(self.run, most)

    def run(self, rows: Sequence[Row]) -> None:
        self.batches.append([each.prompt[0] for each in rows])
        self.begun.set()
        assert self.gate.wait(30)
        for each in rows:
            if each.prompt[0] == 13:
                raise ValueError("thirteen")
            if each.done:
                continue
            each.add(ord("a") + each.prompt[0])
            each.add(END)


def test_a_lone_row_starts_at_once_and_the_thread_goes() -> None:
    engine = Engine(8)
    answer = row(3)
    engine.collector.submit([answer])
    assert answer.wait().text == "d"
    for _ in range(1000):
        if engine.collector._worker is None:
            break
        threading.Event().wait(0.005)
    assert engine.collector._worker is None


def test_those_who_come_meanwhile_go_together_the_oldest_first() -> None:
    engine = Engine(3, gated=True)
    rows = [row(n) for n in range(1, 6)]
    engine.collector.submit(rows[:1])
    assert engine.begun.wait(10)
    for each in rows[1:]:
        engine.collector.submit([each])
    engine.gate.set()
    assert [each.wait().text for each in rows] == ["b", "c", "d", "e", "f"]
    assert engine.batches == [[1], [2, 3, 4], [5]]


def test_announced_rows_are_waited_for_and_only_for_a_moment() -> None:
    engine = Engine(8)
    rows = [row(n) for n in range(1, 5)]
    with engine.collector.expect(4, width=4):
        for each in rows:
            engine.collector.submit([each])
        assert [each.wait().text for each in rows] == ["b", "c", "d", "e"]
    assert engine.batches == [[1, 2, 3, 4]]
    with engine.collector.expect(100, width=100):  # they never come
        late = row(5)
        engine.collector.submit([late])
        assert late.wait().text == "f"


def test_canceled_and_late_rows_never_run() -> None:
    engine = Engine(3, gated=True)
    first, canceled, late, last = row(1), row(2), row(3, timeout=0.01), row(4)
    engine.collector.submit([first])
    assert engine.begun.wait(10)
    engine.collector.submit([canceled, late, last])
    canceled.cancel()
    with pytest.raises(TimeoutError):
        late.wait()
    engine.gate.set()
    assert (first.wait().text, last.wait().text) == ("b", "e")
    assert engine.batches == [[1], [4]]


def test_an_error_reaches_the_one_at_fault() -> None:
    engine = Engine(8, gated=True)
    rows = [row(n) for n in (1, 13, 2)]
    engine.collector.submit(rows)
    engine.gate.set()
    assert (rows[0].wait().text, rows[2].wait().text) == ("b", "c")
    with pytest.raises(ValueError, match="thirteen"):
        rows[1].wait()


def test_what_is_left_for_others_goes_on_with_them() -> None:
    batches: list[list[int]] = []
    begun, gate = threading.Event(), threading.Event()

    def run(rows: Sequence[Row]) -> None:
        batches.append([each.prompt[0] for each in rows])
        for each in rows:
            each.add(ord("a"))
        begun.set()
        assert gate.wait(30)
        if not collector.crowded():
            for each in rows:
                each.add(END)

    collector = Collector(run, 2)
    rows = [row(n) for n in (1, 2, 3)]
    canceled = row(4)
    collector.submit(rows[:1])
    assert begun.wait(10)
    assert not collector.crowded()
    collector.submit([canceled])
    canceled.cancel()
    assert not collector.crowded()
    collector.submit(rows[1:])
    assert collector.crowded()
    gate.set()
    assert [each.wait().text for each in rows] == ["aa", "a", "a"]
    assert batches == [[1], [1, 2], [3]]  # a full batch is left for nobody


def test_an_engine_that_stops_early_is_an_error_and_no_endless_wait() -> None:
    collector = Collector(lambda rows: None, 4)
    answer = row()
    collector.submit([answer])
    with pytest.raises(RuntimeError, match="without saying why"):
        answer.wait()


def test_stop_cancels_what_runs_and_what_waits() -> None:
    engine = Engine(1, gated=True)
    rows = [row(1), row(2)]
    engine.collector.submit(rows)
    assert engine.begun.wait(10)
    engine.collector.stop(0.01)
    assert [each.canceled for each in rows] == [True, True]
    engine.gate.set()


def test_many_threads_get_their_own_answers() -> None:
    engine = Engine(16)

    def ask(number: int) -> bool:
        answer = row(number)
        engine.collector.submit([answer])
        return answer.wait().text == chr(ord("a") + number)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, [n for n in range(1, 400) if n != 13]))
    assert sum(map(len, engine.batches)) == 398


def test_an_idle_collector_can_be_collected() -> None:
    engine = Engine(4)
    answer = row()
    engine.collector.submit([answer])
    answer.wait()
    gone = weakref.ref(engine.collector)
    del engine
    for _ in range(200):
        gc.collect()
        if gone() is None:
            break
        threading.Event().wait(0.01)
    assert gone() is None
