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

from langchain_gpu.store.rwlock import ReadWriteLock

PATIENCE = 10.0


def test_readers_are_in_at_once() -> None:
    rwlock, both = ReadWriteLock(), threading.Barrier(2, timeout=PATIENCE)

    def read() -> None:
        with rwlock.reading():
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(read), pool.submit(read)]:
            done.result()


def test_a_writer_waits_for_readers_and_new_readers_wait_for_it() -> None:
    rwlock, order = ReadWriteLock(), list[str]()
    reading, leave = threading.Event(), threading.Event()

    def first() -> None:
        with rwlock.reading():
            reading.set()
            leave.wait(PATIENCE)
            order.append("first reader")

    def write() -> None:
        with rwlock.writing():
            order.append("writer")

    def second() -> None:
        with rwlock.reading():
            order.append("second reader")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        assert reading.wait(PATIENCE)
        writer = pool.submit(write)
        while not rwlock._closed:
            threading.Event().wait(0.001)
        reader = pool.submit(second)
        assert order == []
        leave.set()
        writer.result(PATIENCE)
        reader.result(PATIENCE)
    assert order == ["first reader", "writer", "second reader"]


def test_an_error_inside_opens_the_gate_again() -> None:
    rwlock = ReadWriteLock()
    for side in (rwlock.reading, rwlock.writing, rwlock.reading):
        with suppress(ZeroDivisionError), side():
            _ = 1 / 0
    with rwlock.writing():
        pass


def test_a_writer_interrupted_while_it_waits_opens_the_gate_again(
    press_ctrl_c: Callable[[], None],
) -> None:
    rwlock, leave = ReadWriteLock(), threading.Event()

    def read() -> None:
        with rwlock.reading():
            reading.set()
            while not rwlock._closed:
                threading.Event().wait(0.001)
            press_ctrl_c()
            assert leave.wait(PATIENCE)

    reading = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        assert reading.wait(PATIENCE)
        with pytest.raises(KeyboardInterrupt), rwlock.writing():
            pytest.fail("a reader is in")
        with rwlock.reading():
            leave.set()
        reader.result(PATIENCE)
    with rwlock.writing():
        pass


def test_a_reader_interrupted_wherever_leaves_the_lock() -> None:
    """Python looks for Ctrl-C where a function begins: none may begin between entering and leaving.

    Had it one there, the reader could stay in, and writers would wait forever.
    """
    rwlock, entered = ReadWriteLock(), list[str]()

    def trace(frame: FrameType, _event: str, _argument: object) -> None:
        entered.append(frame.f_code.co_name)

    found = rwlock.reading()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with found:
            pass
    finally:
        sys.settrace(before)
    assert entered == []


def test_a_thread_that_ended_is_forgotten() -> None:
    rwlock = ReadWriteLock()

    def read() -> None:
        with rwlock.reading():
            pass

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(PATIENCE)
    gc.collect()
    assert len(rwlock._readers) == 0


def test_readers_and_writers_never_meet() -> None:
    rwlock, numbers, stop = ReadWriteLock(), [0, 0], threading.Event()

    def read() -> None:
        while not stop.is_set():
            with rwlock.reading():
                assert numbers[0] == numbers[1]

    def write() -> None:
        for _ in range(300):
            with rwlock.writing():
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
