from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from langchain_gpu.engine.prefetch import prefetch


def test_order_is_kept() -> None:
    assert list(prefetch(range(100), 3)) == list(range(100))


def test_the_source_runs_ahead_but_no_further_than_asked() -> None:
    seen: list[int] = []
    reached = threading.Event()

    def source() -> Iterator[int]:
        for number in range(10):
            seen.append(number)
            if number == 2:
                reached.set()
            yield number

    iterator = prefetch(source(), 2)
    assert next(iterator) == 0
    assert reached.wait(5), "the source waits for the consumer"
    assert max(seen) <= 2
    assert list(iterator) == list(range(1, 10))


def test_an_error_reaches_the_consumer_after_the_good_items() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken source")

    iterator = prefetch(source(), 2)
    assert next(iterator) == 1
    with pytest.raises(ValueError, match="broken source"):
        next(iterator)


def test_leaving_early_closes_the_source() -> None:
    ran: list[int] = []

    def source() -> Iterator[int]:
        ran.append(threading.get_ident())
        try:
            yield from range(1000)
        finally:
            ran.append(threading.get_ident())

    held = source()  # nor is it closed by being forgotten
    iterator = prefetch(held, 1)
    next(iterator)
    iterator.close()
    started, closed = ran
    assert started == closed != threading.get_ident()


def test_no_thread_stays() -> None:
    before = threading.active_count()
    assert sum(prefetch(range(10), 2)) == 45
    assert threading.active_count() == before


PROGRAM = """
import threading
from langchain_gpu.engine.prefetch import prefetch

main, closed = threading.main_thread(), []

def source():
    try:
        yield from range(20)
    finally:
        closed.append(True)

def work():
    early = prefetch(source(), 2)
    got = [next(early)]
    main.join()  # no executor takes work from here on
    got += early
    held = source()
    abandoned = prefetch(held, 2)
    next(abandoned)
    abandoned.close()
    print(got == list(range(20)), list(prefetch(source(), 2)) == list(range(20)), len(closed))

threading.Thread(target=work).start()
"""


def test_a_thread_that_outlives_the_main_one_goes_on() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)  # noqa: S603 - our own program
    assert (done.stdout, done.stderr) == ("True True 3\n", "")
