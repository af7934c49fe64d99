"""Readers together, a writer alone, and a writer that readers cannot starve."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType

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
    press_ctrl_c: Callable[[], None],
) -> None:
    gate, leave = Gate(), threading.Event()

    def read() -> None:
        with gate.reading():
            reading.set()
            while not gate._closed:
                threading.Event().wait(0.001)
            press_ctrl_c()
            assert leave.wait(PATIENCE)

    reading = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        assert reading.wait(PATIENCE)
        with pytest.raises(KeyboardInterrupt), gate.writing():
            pytest.fail("a reader is in")
        with gate.reading():
            leave.set()
        reader.result(PATIENCE)
    with gate.writing():
        pass


def test_a_reader_interrupted_wherever_leaves_the_gate() -> None:
    """Python looks for Ctrl-C where a function begins: none may begin between entering and leaving.

    Had it one there, the reader could stay in, and writers would wait for ever.
    """
    gate, entered = Gate(), list[str]()

    def trace(frame: FrameType, _event: str, _argument: object) -> None:
        entered.append(frame.f_code.co_name)

    found = gate.reading()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with found:
            pass
    finally:
        sys.settrace(before)
    assert entered == []


def test_a_thread_that_ended_is_forgotten() -> None:
    gate = Gate()

    def read() -> None:
        with gate.reading():
            pass

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(PATIENCE)
    gc.collect()
    assert len(gate._readers) == 0


def test_readers_and_writers_never_meet() -> None:
    gate, numbers, stop = Gate(), [0, 0], threading.Event()

    def read() -> None:
        while not stop.is_set():
            with gate.reading():
                assert numbers[0] == numbers[1]

    def write() -> None:
        for _ in range(300):
            with gate.writing():
                numbers[0] += 1
                threading.Event().wait(0)
                numbers[1] += 1

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            pool.submit(write).result(60)
        finally:
            stop.set()
        for reader in readers:
            reader.result(PATIENCE)
    assert numbers == [300, 300]
