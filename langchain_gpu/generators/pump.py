"""Adapters from engines that push tokens to a callback to callers that iterate."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Sink = Callable[[T | None], bool]
"""Takes an item, or None to only ask; returns True once the stream was canceled."""

# How long the end of the process waits for engines to notice that their streams are canceled. A
# thread that returns from native code into a finalized interpreter would abort the process.
_EXIT_SECONDS = 10.0
_running: dict[threading.Thread, threading.Event] = {}


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


_Begin = Callable[
    [Callable[[T], object], Callable[[BaseException | None], object]], Callable[[], object]
]


class Stoppable(Generator[T, None, None]):
    """A generator of items that other threads produce, which any thread may stop.

    It begins when the first item is asked for, and has no thread of its own: a task that reads it
    is woken by the producer.

    Args:
        begin: Called once with two callbacks, one for items and one for the end (an error, or
            None), which may be called from any thread. It must not block, and returns a function
            that cancels the production; that may be called repeatedly, and leads to the end.
        timeout: Seconds from there to the end; None waits.
        slow: Whether `begin` computes something first: for a task, a thread then calls it.
        here: A generator that makes the items in the reading thread, in place of `begin`, and a
            function that cancels it from any thread; None where only `begin` can make them.

    Raises:
        TimeoutError: The next item was not there in time. It is stopped.
        BaseException: What `begin` raised, or what came with the end.
    """

    def __init__(
        self,
        begin: _Begin[T],
        *,
        timeout: float | None = None,
        slow: bool = False,
        here: tuple[Generator[T, None, None], Callable[[], object]] | None = None,
    ) -> None:
        self.timeout = timeout
        self._slow = slow
        self._source = _Source(begin)
        self._halt: Callable[[], object] | None
        self._items, self._halt = here or (_brought(self._source, timeout), None)

    def send(self, _: None) -> T:
        """Return the next item."""
        return next(self._items)

    def throw(self, *error: Any) -> T:
        """Raise inside the generator."""
        return self._items.throw(*error)

    def close(self) -> None:
        """Stop, from the thread that iterates."""
        self.stop()
        self._items.close()

    def stop(self) -> None:
        """Stop, from any thread: a reader that waits for the next item gets an error."""
        if self._halt is not None:
            self._halt()
        self._source.stop()

    def hand_to(self, put: Callable[[T | _End], object]) -> None:
        """Begin, and pass all items and the end to `put`, in place of iteration.

        Does not block: where `begin` is slow, its errors are passed to `put` too.
        """
        if not self._slow:
            self._source.hand_to(put)
            return

        def begin() -> None:
            try:
                self._source.hand_to(put)
            except BaseException as error:  # noqa: BLE001  it is raised where the item is awaited
                put(_End(error))

        # Of its own: the loop's pool may be full of callers who wait for this answer.
        _spawn(begin, "langchain-gpu-begin", threading.Event())


class _Source(Generic[T]):
    """The production behind a `Stoppable`; apart, so that its generator does not refer to it."""

    def __init__(self, begin: _Begin[T]) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._halt: Callable[[], object] | None = None
        self._stopped = False

    def hand_to(self, put: Callable[[T | _End], object]) -> None:
        halt = self._begin(put, lambda error: put(_End(error)))
        with self._lock:
            self._halt, stopped = halt, self._stopped
        if stopped:
            halt()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            halt = self._halt
        if halt is not None:
            halt()


def _brought(source: _Source[T], timeout: float | None) -> Generator[T, None, None]:
    # Without a bound: an answer is never longer than the model's window, and an engine in native
    # code would not wait for a slow reader anyway.
    items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    source.hand_to(items.put)
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                item = items.get(timeout=left)
            except queue.Empty:
                raise _late(timeout) from None
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return
    finally:
        source.stop()


def pushed(push: Callable[[Sink[T]], None], *, timeout: float | None = None) -> Stoppable[T]:
    """Return a stream of what an engine pushes, in a thread that starts with the first item.

    Args:
        push: Called with a sink. It passes every item to the sink, or None to only ask, and returns
            soon after the sink has returned True, as the stream is then canceled. Its errors are
            raised from the stream.
        timeout: Seconds from the first item asked for to the end; None waits.
    """

    def begin(
        put: Callable[[T], object], end: Callable[[BaseException | None], object]
    ) -> Callable[[], object]:
        cancelled = threading.Event()

        def sink(item: T | None) -> bool:
            if item is not None:
                put(item)
            return cancelled.is_set()

        def work() -> None:
            try:
                push(sink)
            except BaseException as error:  # noqa: BLE001  it is raised where the item is awaited
                end(error)
            else:
                end(None)

        _spawn(work, "langchain-gpu-stream", cancelled)
        return cancelled.set

    return Stoppable(begin, timeout=timeout)


async def pulled_async(items: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Yield what a blocking generator yields.

    A `Stoppable` is read without a further thread; any other generator runs in a thread of its own.
    Closing this early, or canceling the task, stops the first at once, and closes the second when
    its next item comes.

    Raises:
        BaseException: Whatever the generator raised.
    """
    source = items if isinstance(items, Stoppable) else pushed(partial(_push_all, items))
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[T | _End] = asyncio.Queue()

    def put(item: T | _End) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    try:
        source.hand_to(put)
        deadline = None if source.timeout is None else loop.time() + source.timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await arrived.get()
            except TimeoutError:
                raise _late(source.timeout) from None
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return
    finally:
        source.stop()


def _push_all(items: Generator[T, None, None], sink: Sink[T]) -> None:
    with contextlib.closing(items):
        for item in items:
            if sink(item):
                return


def _spawn(work: Callable[[], object], name: str, cancelled: threading.Event) -> None:
    """Run `work` in a thread that the end of the process cancels and waits for."""

    def run() -> None:
        try:
            work()
        finally:
            _running.pop(threading.current_thread(), None)

    thread = threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True)
    _running[thread] = cancelled
    thread.start()


def _late(timeout: float | None) -> TimeoutError:
    return TimeoutError(f"the answer was not complete after {timeout} s")


@atexit.register
def _stop_all() -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    for thread, cancelled in list(_running.items()):
        cancelled.set()
        with contextlib.suppress(RuntimeError):  # it was registered and not yet started
            thread.join(max(0.0, deadline - time.monotonic()))


__all__ = ["Sink", "Stoppable", "pulled_async", "pushed"]
