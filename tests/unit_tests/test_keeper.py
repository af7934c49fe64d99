from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from langchain_gpu.engine.keeper import Keeper


class Thing:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        assert not self.closed.is_set(), "closed twice"
        self.closed.set()


def is_loaded(keeper: Keeper[Thing]) -> bool:
    return keeper.loaded is not None


def until(condition: Callable[[], bool]) -> None:
    for _ in range(4000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come to that")


def users(keeper: Keeper[Thing]) -> int:
    return 0 if keeper._lease is None else keeper._lease.users


class Slow:
    """Loads when it is told to.

    Attributes:
        go: Lets it.
        things: What it made.
    """

    def __init__(self) -> None:
        self.go = threading.Event()
        self.things: list[Thing] = []

    def __call__(self) -> Thing:
        assert self.go.wait(20)
        self.things.append(Thing())
        return self.things[-1]


async def ask(keeper: Keeper[Thing], load: Callable[[], Thing]) -> Thing:
    async with keeper.use_async(load) as thing:
        return thing


def test_loaded_once_for_all_threads() -> None:
    keeper: Keeper[Thing] = Keeper()
    made: list[Thing] = []
    together = threading.Barrier(8)

    def load() -> Thing:
        made.append(Thing())
        return made[-1]

    def use(_: int) -> Thing:
        together.wait(20)
        with keeper.use(load) as thing:
            return thing

    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(use, range(8))))) == 1
    assert len(made) == 1


def test_closing_frees_and_the_next_use_loads_anew() -> None:
    keeper: Keeper[Thing] = Keeper()
    with keeper.use(Thing) as first:
        pass
    assert is_loaded(keeper)
    keeper.close()
    keeper.close()
    assert first.closed.is_set()
    assert not is_loaded(keeper)
    with keeper.use(Thing) as second:
        assert second is not first


def test_closing_waits_for_those_who_use_it_without_blocking() -> None:
    keeper: Keeper[Thing] = Keeper()
    with keeper.use(Thing) as first:
        with keeper.use(Thing) as same:
            assert same is first
            keeper.close()
            with keeper.use(Thing) as other:
                assert other is not first
        assert not first.closed.is_set()
    assert first.closed.is_set()
    assert not other.closed.is_set()


def test_a_failed_load_leaves_nothing_behind() -> None:
    keeper: Keeper[Thing] = Keeper()

    def fail() -> Thing:
        raise OSError("no file")

    with pytest.raises(OSError, match="no file"), keeper.use(fail):
        pass
    with keeper.use(Thing) as thing:
        assert keeper.loaded is thing


def test_idle_it_is_freed_and_loaded_again() -> None:
    keeper: Keeper[Thing] = Keeper(idle_timeout=0.05)
    with keeper.use(Thing) as first:
        assert not first.closed.wait(0.2), "freed while in use"
    assert first.closed.wait(20)
    assert keeper.loaded is None
    with keeper.use(Thing) as second:
        assert second is not first


def test_without_a_limit_no_timer_runs() -> None:
    keeper: Keeper[Thing] = Keeper()
    with keeper.use(Thing):
        pass
    assert keeper._timer is None


def test_a_timer_does_not_keep_it_alive() -> None:
    keeper: Keeper[Thing] = Keeper(idle_timeout=600)
    with keeper.use(Thing):
        pass
    timer, alive = keeper._timer, weakref.ref(keeper)
    del keeper
    gc.collect()
    assert alive() is None
    assert timer is not None
    timer.cancel()


def test_however_short_the_limit_it_is_not_freed_in_use() -> None:
    keeper: Keeper[Thing] = Keeper(idle_timeout=0)
    with keeper.use(Thing) as first:
        with keeper.use(Thing):
            pass
        assert not first.closed.wait(0.2), "freed while in use"
    assert first.closed.wait(20)


def test_those_who_wait_get_the_error_of_the_load_and_later_ones_try_anew() -> None:
    keeper: Keeper[Thing] = Keeper()
    loads: list[int] = []

    def fail() -> Thing:
        loads.append(users(keeper))
        until(lambda: users(keeper) == 8)
        raise OSError("no file")

    def use(_: int) -> None:
        with pytest.raises(OSError, match="no file"), keeper.use(fail):
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert loads == [1]
    with keeper.use(Thing) as thing:
        assert keeper.loaded is thing


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_is_told_that_the_model_stayed_behind() -> None:
    keeper: Keeper[Thing] = Keeper()

    def use() -> str:
        try:
            with keeper.use(Thing):
                return "used"
        except RuntimeError as error:
            return str(error)

    def use_in_child() -> str:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, use().encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as said:
            return said.read()

    assert use_in_child() == "used"  # nothing was loaded here yet
    assert use() == "used"
    assert f"loaded in process {os.getpid()}" in use_in_child()
    assert use() == "used"


def test_an_interrupt_is_meant_for_one_thread() -> None:
    keeper: Keeper[Thing] = Keeper()

    def interrupted() -> Thing:
        until(lambda: users(keeper) == 2)
        raise KeyboardInterrupt

    def use() -> None:
        until(lambda: users(keeper) == 1)
        with keeper.use(Thing):
            pass

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(use)
        with pytest.raises(KeyboardInterrupt), keeper.use(interrupted):
            pass
        with pytest.raises(RuntimeError, match="interrupted"):
            other.result()


def test_what_a_failed_load_held_goes_with_its_error() -> None:
    keeper: Keeper[Thing] = Keeper()
    held: list[weakref.ref[Thing]] = []

    def fail() -> Thing:
        part = Thing()
        held.append(weakref.ref(part))
        until(lambda: users(keeper) == 2)
        raise MemoryError

    def use() -> None:
        with suppress(MemoryError), keeper.use(fail):
            pass

    gc.disable()  # a circle would keep it until some later collection
    try:
        threads = [threading.Thread(target=use) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [each() for each in held] == [None]
    finally:
        gc.enable()


async def test_tasks_wait_for_a_load_without_a_thread_each() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    keeper: Keeper[Thing] = Keeper()
    slow = Slow()
    tasks = [asyncio.create_task(ask(keeper, slow)) for _ in range(5)]
    await asyncio.sleep(0)
    assert await asyncio.wait_for(asyncio.to_thread(users, keeper), 20) == 6
    slow.go.set()
    assert set(await asyncio.gather(*tasks)) == set(slow.things)
    assert len(slow.things) == 1
    assert await ask(keeper, slow) is slow.things[0]


async def test_tasks_get_the_error_of_the_load_too() -> None:
    keeper: Keeper[Thing] = Keeper()
    loads: list[int] = []

    def fail() -> Thing:
        loads.append(1)
        until(lambda: users(keeper) == 6)  # and the loader
        raise OSError("no file")

    found = await asyncio.gather(*(ask(keeper, fail) for _ in range(5)), return_exceptions=True)
    assert [str(each) for each in found] == ["no file"] * 5
    assert len(loads) == 1
    assert not (await ask(keeper, Thing)).closed.is_set()


async def test_a_task_that_gives_up_cancels_no_load() -> None:
    keeper: Keeper[Thing] = Keeper()
    slow = Slow()
    gone, stays = (asyncio.create_task(ask(keeper, slow)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    slow.go.set()
    assert await stays is slow.things[0]
    assert users(keeper) == 0


def test_it_is_not_idle_while_more_uses_are_expected() -> None:
    keeper: Keeper[Thing] = Keeper(idle_timeout=0)
    with keeper.expected():
        with keeper.use(Thing) as first:
            pass
        assert not first.closed.wait(0.2)
        with keeper.use(Thing) as second:
            assert second is first
    assert first.closed.wait(20)


def test_closing_while_it_loads_frees_it_after_those_who_asked() -> None:
    keeper: Keeper[Thing] = Keeper()

    def load() -> Thing:
        keeper.close()
        return Thing()

    with keeper.use(load) as first:
        assert not first.closed.is_set()
        with keeper.use(Thing) as second:
            assert second is not first
    assert first.closed.is_set()
    assert not second.closed.is_set()


async def test_what_all_tasks_gave_up_is_freed_once_it_is_loaded() -> None:
    keeper: Keeper[Thing] = Keeper()
    slow = Slow()
    gone = asyncio.create_task(ask(keeper, slow))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    keeper.close()
    slow.go.set()
    until(lambda: bool(slow.things) and slow.things[0].closed.is_set())


async def test_the_last_task_to_leave_does_not_keep_the_loop_waiting() -> None:
    keeper: Keeper[Thing] = Keeper()
    freeing, free = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Large(Thing):
        def close(self) -> None:
            loop.call_soon_threadsafe(freeing.set)
            assert free.wait(10), "the loop stood still"
            super().close()

    async def use() -> Thing:
        async with keeper.use_async(Large) as thing:
            keeper.close()
            return thing

    task = asyncio.create_task(use())
    await asyncio.wait_for(freeing.wait(), 20)
    free.set()
    assert (await task).closed.is_set()
