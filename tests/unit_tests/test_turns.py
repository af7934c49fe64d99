from __future__ import annotations

import threading
import time

import pytest

from langchain_gpu.engine.turns import Turns


def wait_for(turns: Turns, callers: int) -> None:
    deadline = time.monotonic() + 20
    while turns.callers != callers:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_in_the_order_of_arrival() -> None:
    turns, order, threads = Turns(), [], []

    def go(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(8):
            threads.append(threading.Thread(target=go, args=(number,)))
            threads[-1].start()
            wait_for(turns, number + 2)
    for each in threads:
        each.join(20)
    assert order == list(range(8))
    assert turns.callers == 0


def test_whoever_holds_it_again_and_again_lets_others_in() -> None:
    turns, stop = Turns(), threading.Event()

    def hog() -> None:
        while not stop.is_set():
            with turns:
                pass

    thread = threading.Thread(target=hog)
    thread.start()
    for _ in range(200):
        with turns:
            pass
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_an_error_inside_passes_it_on() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="x"), turns:
        raise ValueError("x")
    with turns:
        assert turns.callers == 1
