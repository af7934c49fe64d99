"""From a thread that pushes to a caller that pulls: order, errors, time-outs and cancellation."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from langchain_gpu.generators.pump import Stoppable, pulled_async, pushed

Sink = Callable[[int | None], bool]


class Endless:
    """Pushes numbers, at an engine's pace, until it is told to stop."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def __call__(self, sink: Sink) -> None:
        for number in count():
            time.sleep(0.001)
            if sink(number):
                self.stopped.set()
                return


def test_items_keep_their_order() -> None:
    def push(sink: Sink) -> None:
        for number in range(1000):
            assert sink(number) is False

    assert list(pushed(push, timeout=None)) == list(range(1000))


def test_an_error_comes_after_the_items_before_it() -> None:
    def push(sink: Sink) -> None:
        sink(1)
        raise KeyError("broken")

    items = pushed(push, timeout=None)
    assert next(items) == 1
    with pytest.raises(KeyError, match="broken"):
        next(items)


def test_closing_early_stops_the_pushing_side() -> None:
    endless = Endless()
    items = pushed(endless, timeout=None)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert endless.stopped.wait(30)


def test_a_silent_engine_runs_into_the_time_out_and_is_told_to_stop() -> None:
    released, told = threading.Event(), threading.Event()

    def push(sink: Sink) -> None:
        released.wait()
        if sink(1):
            told.set()

    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        list(pushed(push, timeout=0.05))
    released.set()
    assert told.wait(30)


def test_a_talkative_engine_runs_into_the_time_out_too() -> None:
    endless = Endless()
    with pytest.raises(TimeoutError):
        list(pushed(endless, timeout=0.2))
    assert endless.stopped.wait(30)


def test_a_process_with_a_running_stream_ends_by_itself() -> None:
    script = """
import time
from itertools import count
from langchain_gpu.generators.pump import pushed
items = pushed(lambda sink: next(n for n in count() if sink(n) or time.sleep(0.001)), timeout=None)
print(next(items))
"""
    done = subprocess.run(  # noqa: S603  this interpreter, the script above
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def numbers(stopped: threading.Event, error: Exception | None = None) -> Generator[int, None, None]:
    try:
        yield 0
        if error:
            raise error
        for number in count(1):
            time.sleep(0.001)
            yield number
    finally:
        stopped.set()


async def test_async_items_keep_their_order_and_leaving_closes_the_source() -> None:
    stopped = threading.Event()
    seen = []
    items = pulled_async(numbers(stopped))
    async for number in items:
        seen.append(number)
        if number == 5:
            break
    await items.aclose()
    assert seen == list(range(6))
    assert await asyncio.to_thread(stopped.wait, 30)


async def test_an_async_error_is_raised_where_it_is_awaited() -> None:
    items = pulled_async(numbers(threading.Event(), OSError("broken")))
    assert await anext(items) == 0
    with pytest.raises(OSError, match="broken"):
        await anext(items)


async def test_canceling_the_task_closes_the_source() -> None:
    stopped = threading.Event()

    async def read() -> None:
        async for _ in pulled_async(numbers(stopped)):
            await asyncio.sleep(0)

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(stopped.wait, 30)


class Elsewhere:
    """Brings some numbers from a thread of its own, and then nothing until it is stopped."""

    def __init__(self, *numbers: int, error: Exception | None = None) -> None:
        self.numbers, self.error = numbers, error
        self.begun: list[float] = []
        self.stopped = threading.Event()

    def __call__(
        self, put: Callable[[int], object], end: Callable[[BaseException | None], object]
    ) -> Callable[[], object]:
        self.begun.append(time.monotonic())

        def bring() -> None:
            for number in self.numbers:
                put(number)
            if self.error is not None or not self.numbers:
                end(self.error)
            elif self.stopped.wait(20):
                end(RuntimeError("stopped"))

        threading.Thread(target=bring, daemon=True).start()
        return self.stopped.set


def test_it_begins_with_the_first_item_that_is_wanted() -> None:
    source = Elsewhere()
    items = Stoppable(source)
    assert not source.begun
    assert list(items) == list(items) == []
    assert len(source.begun) == 1
    unread = Stoppable(source)
    unread.stop()
    unread.close()
    assert len(source.begun) == 1


def test_another_thread_may_stop_while_one_waits() -> None:
    items = Stoppable(Elsewhere(1))
    assert next(items) == 1
    threading.Timer(0.05, items.stop).start()
    with pytest.raises(RuntimeError, match="stopped"):
        next(items)


def test_what_is_stopped_before_it_begins_is_stopped_at_once() -> None:
    source = Elsewhere(1)
    items = Stoppable(source)
    items.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        list(items)
    assert source.stopped.is_set()


def test_closing_stops() -> None:
    source = Elsewhere(1)
    items = Stoppable(source)
    next(items)
    items.close()
    assert source.stopped.is_set()
    assert list(items) == []


def test_one_that_is_dropped_stops() -> None:
    source = Elsewhere(1)
    items = Stoppable(source)
    next(items)
    del items  # nothing waits for the garbage collector
    assert source.stopped.is_set()


async def test_a_task_is_woken_without_a_thread_of_its_own() -> None:
    source = Elsewhere(*range(1000), error=OSError("broken"))
    before = threading.active_count()
    items = pulled_async(Stoppable(source))
    assert await anext(items) == 0
    assert threading.active_count() <= before + 1  # the source's
    assert [await anext(items) for _ in range(999)] == list(range(1, 1000))
    with pytest.raises(OSError, match="broken"):
        await anext(items)


async def test_a_task_that_is_canceled_stops_what_hangs() -> None:
    source = Elsewhere(1)
    arrived = asyncio.Event()

    async def read() -> None:
        async for _ in pulled_async(Stoppable(source)):
            arrived.set()

    task = asyncio.create_task(read())
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.stopped.is_set()


async def test_what_begins_slowly_does_not_keep_a_loop_waiting() -> None:
    source = Elsewhere(1, error=OSError("broken"))
    ticked = threading.Event()

    def begin(*ends: Callable[..., object]) -> Callable[[], object]:
        assert ticked.wait(10)  # the loop has gone on meanwhile
        return source(*ends)

    items = pulled_async(Stoppable(begin, slow=True))
    first = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0.01)
    ticked.set()
    assert await first == 1
    with pytest.raises(OSError, match="broken"):
        await anext(items)


async def test_what_begins_slowly_waits_for_no_thread_of_the_loop() -> None:
    pool = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    go = threading.Event()
    pool.submit(go.wait, 20)

    def begin(
        put: Callable[[int], object], end: Callable[[BaseException | None], object]
    ) -> Callable[[], object]:
        put(1)
        raise ValueError("of the second half")

    items = pulled_async(Stoppable(begin, timeout=5, slow=True))
    try:
        assert await anext(items) == 1
        with pytest.raises(ValueError, match="of the second half"):
            await anext(items)
    finally:
        go.set()


async def test_a_task_that_is_canceled_before_it_has_begun_stops_too() -> None:
    source = Elsewhere(1)
    canceled = threading.Event()

    def begin(*ends: Callable[..., object]) -> Callable[[], object]:
        assert canceled.wait(10)
        return source(*ends)

    first = asyncio.ensure_future(anext(pulled_async(Stoppable(begin, slow=True))))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    canceled.set()
    assert await asyncio.to_thread(source.stopped.wait, 10)


async def test_what_brings_nothing_runs_into_the_time_out_and_is_stopped() -> None:
    source = Elsewhere(1)
    items = Stoppable(source, timeout=0.05)
    assert next(items) == 1
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        next(items)
    assert source.stopped.is_set()
    source = Elsewhere(1)
    pieces = pulled_async(Stoppable(source, timeout=0.05))
    assert await anext(pieces) == 1
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        await anext(pieces)
    assert source.stopped.is_set()


def test_an_engine_may_ask_whether_anybody_listens() -> None:
    """One that holds its text back has nothing to hand over, and still has to notice."""
    stopped = threading.Event()

    def push(sink: Sink) -> None:
        sink(1)
        while not sink(None):
            time.sleep(0.001)
        stopped.set()

    items = pushed(push, timeout=None)
    assert next(items) == 1
    items.close()
    assert stopped.wait(30)


def test_nobody_is_given_what_is_none() -> None:
    def push(sink: Sink) -> None:
        sink(None)
        sink(2)

    assert list(pushed(push, timeout=None)) == [2]


async def test_an_engine_hands_its_items_to_a_loop_from_its_own_thread() -> None:
    threads: set[str] = set()

    def push(sink: Sink) -> None:
        threads.add(threading.current_thread().name)
        for number in range(1000):
            assert sink(number) is False

    before = threading.active_count()
    items = pulled_async(pushed(push, timeout=None))
    assert await anext(items) == 0
    assert threading.active_count() <= before + 1
    assert [number async for number in items] == list(range(1, 1000))
    assert threads == {"langchain-gpu-stream"}


async def test_an_engine_is_told_that_a_task_is_gone() -> None:
    endless = Endless()
    items = pulled_async(pushed(endless, timeout=None))
    assert [await anext(items), await anext(items)] == [0, 1]
    await items.aclose()
    assert await asyncio.to_thread(endless.stopped.wait, 30)


async def test_the_time_out_of_an_engine_holds_for_tasks_too() -> None:
    endless = Endless()
    with pytest.raises(TimeoutError, match=r"not complete after 0\.2 s"):
        async for _ in pulled_async(pushed(endless, timeout=0.2)):
            pass
    assert await asyncio.to_thread(endless.stopped.wait, 30)


async def test_an_engines_error_comes_after_its_items() -> None:
    def push(sink: Sink) -> None:
        sink(1)
        raise TimeoutError("the engine's own")

    items = pulled_async(pushed(push, timeout=5.0))
    assert await anext(items) == 1
    with pytest.raises(TimeoutError, match="the engine's own"):
        await anext(items)
