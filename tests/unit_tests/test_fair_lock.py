from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from langchain_gpu.engine.fair_lock import FairLock


def wait_for(turns: FairLock, callers: int) -> None:
    deadline = time.monotonic() + 20
    while turns.callers != callers:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def turn_of(turns: FairLock) -> Iterator[None]:
    turn = turns.take()
    try:
        yield
    finally:
        turn.release()


def test_in_the_order_of_arrival() -> None:
    turns, order, threads = FairLock(), [], []

    def go(number: int) -> None:
        with turn_of(turns):
            order.append(number)

    with turn_of(turns):
        for number in range(8):
            threads.append(threading.Thread(target=go, args=(number,)))
            threads[-1].start()
            wait_for(turns, number + 2)
    for each in threads:
        each.join(20)
    assert order == list(range(8))
    assert turns.callers == 0


def test_whoever_holds_it_again_and_again_lets_others_in() -> None:
    turns, stop = FairLock(), threading.Event()

    def hog() -> None:
        while not stop.is_set():
            with turn_of(turns):
                pass

    thread = threading.Thread(target=hog)
    thread.start()
    for _ in range(200):
        with turn_of(turns):
            pass
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_an_error_inside_passes_it_on() -> None:
    turns = FairLock()
    with pytest.raises(ValueError, match="x"), turn_of(turns):
        raise ValueError("x")
    with turn_of(turns):
        assert turns.callers == 1


def test_who_gives_up_waiting_is_passed_over(press_ctrl_c: Callable[[], None]) -> None:
    turns, order = FairLock(), list[str]()
    go = threading.Event()

    def first() -> None:
        with turn_of(turns):
            wait_for(turns, 2)
            later.start()
            wait_for(turns, 3)
            press_ctrl_c()
            assert go.wait(20)
            order.append("first")

    def last() -> None:
        with turn_of(turns):
            order.append("last")

    earlier, later = threading.Thread(target=first), threading.Thread(target=last)
    earlier.start()
    wait_for(turns, 1)
    with pytest.raises(KeyboardInterrupt), turn_of(turns):
        order.append("the main thread")
    assert turns.callers == 2
    go.set()
    for each in (earlier, later):
        each.join(20)
    assert order == ["first", "last"]
    assert turns.callers == 0
