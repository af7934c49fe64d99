"""Readers together, a writer alone, and a writer that readers cannot starve."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from langchain_gpu.store.gate import Gate

PATIENCE = 10.0


def test_readers_are_in_at_once() -> None:
    gate, both = Gate(), threading.Barrier(2, timeout=PATIENCE)

    def read() -> None:
        with gate.reading():
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(read), pool.submit(read)]:
            done.result()


def test_a_writer_waits_for_readers_and_new_readers_wait_for_it() -> None:
    gate, order = Gate(), list[str]()
    reading, leave = threading.Event(), threading.Event()

    def first() -> None:
        with gate.reading():
            reading.set()
            leave.wait(PATIENCE)
            order.append("first reader")

    def write() -> None:
        with gate.writing():
            order.append("writer")

    def second() -> None:
        with gate.reading():
            order.append("second reader")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        assert reading.wait(PATIENCE)
        writer = pool.submit(write)
        while not gate._closed:
            threading.Event().wait(0.001)
        reader = pool.submit(second)
        assert order == []
        leave.set()
        writer.result(PATIENCE)
        reader.result(PATIENCE)
    assert order == ["first reader", "writer", "second reader"]


def test_an_error_inside_opens_the_gate_again() -> None:
    gate = Gate()
    for side in (gate.reading, gate.writing, gate.reading):
        with suppress(ZeroDivisionError), side():
            _ = 1 / 0
    with gate.writing():
        pass


def test_a_writer_interrupted_while_it_waits_opens_the_gate_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gate._changed, "wait", interrupted)
    with gate.reading(), pytest.raises(KeyboardInterrupt), gate.writing():
        pytest.fail("a reader is in")
    monkeypatch.undo()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.enter).result(PATIENCE)
