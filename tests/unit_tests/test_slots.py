"""Places are shared by threads and tasks, and none is ever lost."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from langchain_gpu.utils.slots import Slot, SlotPool

_LONG = 30.0  # seconds that no test waits for


def soon(seconds: float = _LONG) -> float:
    return time.monotonic() + seconds


def free(pool: SlotPool, count: int) -> bool:
    """Whether so many are free, and not one more."""
    slots = [pool.taken(Slot(), soon(0.01)) for _ in range(count + 1)]
    try:
        for place in slots[:-1]:
            place.__enter__()
        with pytest.raises(TimeoutError):
            slots[-1].__enter__()
    finally:
        for place in slots[:-1]:
            place.__exit__(None, None, None)
    return True


def waiting(pool: SlotPool, count: int) -> None:
    while len(pool._waiting) < count:
        time.sleep(0.005)


def test_no_more_than_there_are() -> None:
    pool, now, most = SlotPool(3), [0], [0]
    lock = threading.Lock()

    def inside(step: int) -> None:
        with lock:
            now[0] += step
            most[0] = max(most[0], now[0])

    def thread() -> None:
        with pool.taken(Slot(), soon()):
            inside(1)
            time.sleep(0.01)
            inside(-1)

    async def task() -> None:
        async with pool.taken_async():
            inside(1)
            await asyncio.sleep(0.01)
            inside(-1)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(20)))

    with ThreadPoolExecutor(20) as threads:
        futures = [threads.submit(thread) for _ in range(20)]
        asyncio.run(tasks())
        for future in futures:
            future.result(_LONG)
    assert most[0] == 3
    assert free(pool, 3)


def test_the_first_to_come_is_the_first_to_have_it() -> None:
    pool, order = SlotPool(1), []

    def come(name: int) -> None:
        with pool.taken(Slot(), soon()):
            order.append(name)

    with ThreadPoolExecutor(5) as threads, pool.taken(Slot(), soon()):
        for name in range(5):
            threads.submit(come, name)
            waiting(pool, name + 1)
    assert order == [0, 1, 2, 3, 4]


def test_a_wait_that_ends_loses_no_place() -> None:
    pool, slot = SlotPool(1), Slot()
    with pool.taken(Slot(), soon()):
        with pytest.raises(TimeoutError), pool.taken(slot, soon(0.05)):
            pass
        given_up = Slot()

        def give_up() -> None:
            while given_up.turn is None:
                time.sleep(0.005)
            given_up.turn.cancel()

        threading.Thread(target=give_up).start()
        with pytest.raises(CancelledError), pool.taken(given_up, soon()):
            pass
    assert free(pool, 1)


def test_who_does_not_want_it_any_more_takes_none() -> None:
    pool, wanted = SlotPool(1), [True]
    with pytest.raises(CancelledError), pool.taken(Slot(), unwanted=lambda: True):
        pass
    with pool.taken(Slot()):
        threading.Timer(0.05, wanted.clear).start()
        with pytest.raises(CancelledError), pool.taken(Slot(), unwanted=lambda: not wanted):
            pass
    assert free(pool, 1)


def test_an_interrupt_loses_no_place(press_ctrl_c: Callable[[], None]) -> None:
    pool = SlotPool(1)

    def press() -> None:
        waiting(pool, 1)
        press_ctrl_c()

    with pool.taken(Slot(), soon()):
        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt), pool.taken(Slot(), soon()):
            pass
    assert free(pool, 1)


async def test_a_task_that_is_canceled_loses_no_place() -> None:
    pool = SlotPool(1)

    async def come() -> None:
        async with pool.taken_async():
            await asyncio.sleep(_LONG)

    first, second = asyncio.create_task(come()), asyncio.create_task(come())
    await asyncio.sleep(0.05)
    second.cancel()  # it waits
    await asyncio.sleep(0.05)
    first.cancel()  # it is in
    await asyncio.gather(first, second, return_exceptions=True)
    assert await asyncio.to_thread(free, pool, 1)


def test_who_is_away_makes_room() -> None:
    pool, away = SlotPool(1), Slot()
    with pool.taken(away, soon()):
        away.away = time.monotonic()
        with pool.taken(Slot(), soon()):
            assert away.gone
        assert free(pool, 1)  # it came back here, and nobody else has it
    assert free(pool, 1)  # it was not given back twice


async def test_who_is_away_makes_room_for_a_task() -> None:
    pool, away = SlotPool(1), Slot()
    with pool.taken(away, soon()):
        away.away = time.monotonic()
        async with asyncio.timeout(_LONG), pool.taken_async():
            assert away.gone


def test_who_is_here_keeps_its_place() -> None:
    pool, here = SlotPool(1), Slot()
    with pool.taken(here, soon()):
        with pytest.raises(TimeoutError), pool.taken(Slot(), soon(0.6)):
            pass
        assert not here.gone


def test_a_place_that_nobody_gave_back_is_found_again() -> None:
    """Python handles Ctrl-C at any line, also at the one that would give the place back."""
    pool = SlotPool(1)
    lost = pool.taken(Slot(), soon())
    lost.__enter__()
    pool._leave = lambda *_: None  # type: ignore[method-assign]
    del lost
    gc.collect()
    del pool._leave
    with pool.taken(Slot(), soon()):
        pass
    assert free(pool, 1)
