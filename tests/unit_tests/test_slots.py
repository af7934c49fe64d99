"""Places are shared by threads and tasks, and none is ever lost."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from langchain_gpu.utils.slots import Places, Seat

_LONG = 30.0  # seconds that no test waits for


def soon(seconds: float = _LONG) -> float:
    return time.monotonic() + seconds


def free(places: Places, count: int) -> bool:
    """Whether so many are free, and not one more."""
    seats = [places.taken(Seat(), soon(0.01)) for _ in range(count + 1)]
    try:
        for place in seats[:-1]:
            place.__enter__()
        with pytest.raises(TimeoutError):
            seats[-1].__enter__()
    finally:
        for place in seats[:-1]:
            place.__exit__(None, None, None)
    return True


def waiting(places: Places, count: int) -> None:
    while len(places._waiting) < count:
        time.sleep(0.005)


def test_no_more_than_there_are() -> None:
    places, now, most = Places(3), [0], [0]
    lock = threading.Lock()

    def inside(step: int) -> None:
        with lock:
            now[0] += step
            most[0] = max(most[0], now[0])

    def thread() -> None:
        with places.taken(Seat(), soon()):
            inside(1)
            time.sleep(0.01)
            inside(-1)

    async def task() -> None:
        async with places.taken_async():
            inside(1)
            await asyncio.sleep(0.01)
            inside(-1)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(20)))

    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(thread) for _ in range(20)]
        asyncio.run(tasks())
        for future in futures:
            future.result(_LONG)
    assert most[0] == 3
    assert free(places, 3)


def test_the_first_to_come_is_the_first_to_have_it() -> None:
    places, order = Places(1), []

    def come(name: int) -> None:
        with places.taken(Seat(), soon()):
            order.append(name)

    with ThreadPoolExecutor(5) as pool, places.taken(Seat(), soon()):
        for name in range(5):
            pool.submit(come, name)
            waiting(places, name + 1)
    assert order == [0, 1, 2, 3, 4]


def test_a_wait_that_ends_loses_no_place() -> None:
    places, seat = Places(1), Seat()
    with places.taken(Seat(), soon()):
        with pytest.raises(TimeoutError), places.taken(seat, soon(0.05)):
            pass
        given_up = Seat()

        def give_up() -> None:
            while given_up.turn is None:
                time.sleep(0.005)
            given_up.turn.cancel()

        threading.Thread(target=give_up).start()
        with pytest.raises(CancelledError), places.taken(given_up, soon()):
            pass
    assert free(places, 1)


def test_who_does_not_want_it_any_more_takes_none() -> None:
    places, wanted = Places(1), [True]
    with pytest.raises(CancelledError), places.taken(Seat(), unwanted=lambda: True):
        pass
    with places.taken(Seat()):
        threading.Timer(0.05, wanted.clear).start()
        with pytest.raises(CancelledError), places.taken(Seat(), unwanted=lambda: not wanted):
            pass
    assert free(places, 1)


def test_an_interrupt_loses_no_place(press_ctrl_c: Callable[[], None]) -> None:
    places = Places(1)

    def press() -> None:
        waiting(places, 1)
        press_ctrl_c()

    with places.taken(Seat(), soon()):
        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt), places.taken(Seat(), soon()):
            pass
    assert free(places, 1)


async def test_a_task_that_is_canceled_loses_no_place() -> None:
    places = Places(1)

    async def come() -> None:
        async with places.taken_async():
            await asyncio.sleep(_LONG)

    first, second = asyncio.create_task(come()), asyncio.create_task(come())
    await asyncio.sleep(0.05)
    second.cancel()  # it waits
    await asyncio.sleep(0.05)
    first.cancel()  # it is in
    await asyncio.gather(first, second, return_exceptions=True)
    assert await asyncio.to_thread(free, places, 1)


def test_who_is_away_makes_room() -> None:
    places, away = Places(1), Seat()
    with places.taken(away, soon()):
        away.away = time.monotonic()
        with places.taken(Seat(), soon()):
            assert away.gone
        assert free(places, 1)  # it came back here, and nobody else has it
    assert free(places, 1)  # it was not given back twice


async def test_who_is_away_makes_room_for_a_task() -> None:
    places, away = Places(1), Seat()
    with places.taken(away, soon()):
        away.away = time.monotonic()
        async with asyncio.timeout(_LONG), places.taken_async():
            assert away.gone


def test_who_is_here_keeps_its_place() -> None:
    places, here = Places(1), Seat()
    with places.taken(here, soon()):
        with pytest.raises(TimeoutError), places.taken(Seat(), soon(0.6)):
            pass
        assert not here.gone


def test_a_place_that_nobody_gave_back_is_found_again() -> None:
    """Python handles Ctrl-C at any line, also at the one that would give the place back."""
    places = Places(1)
    lost = places.taken(Seat(), soon())
    lost.__enter__()
    places._leave = lambda *_: None  # type: ignore[method-assign]
    del lost
    gc.collect()
    del places._leave
    with places.taken(Seat(), soon()):
        pass
    assert free(places, 1)
