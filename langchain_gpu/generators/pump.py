"""Between engines, which push tokens into a callback, and callers, who pull from an iterator."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# How long the end of the process waits for engines to notice that nobody listens any more. A thread
# that comes back from native code into a dead interpreter would abort the process.
_EXIT_SECONDS = 10.0
_running: dict[threading.Thread, threading.Event] = {}


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class Stoppable(Generator[T, None, None]):
    """A generator that another thread may stop while one waits for its next item.

    Args:
        items: The generator.
        stop: Ends at once what the next item is waited for; may be called again, from any thread.
    """

    def __init__(self, items: Generator[T, None, None], stop: Callable[[], object]) -> None:
        self._items = items
        self._stop = stop

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
        """Stop, from any thread: whoever waits for the next item gets an error."""
        self._stop()


def pulled(
    push: Callable[[Callable[[T], bool]], None], *, timeout: float | None
) -> Generator[T, None, None]:
    """Run `push` in a thread and yield what it pushes.

    The queue has no bound of its own: a stream is never longer than the model's window, and an
    engine in native code would not wait for a slow reader anyway.

    Args:
        push: Called with a sink. It hands every item to the sink and returns soon after the sink
            has returned True, which means that nobody listens any more.
        timeout: Seconds from the first item asked for to the end; None waits.

    Raises:
        TimeoutError: The next item was not there in time. The thread is told to stop.
        BaseException: Whatever `push` raised.
    """
    items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    cancelled = threading.Event()

    def sink(item: T) -> bool:
        items.put(item)
        return cancelled.is_set()

    def work() -> None:
        try:
            push(sink)
        except BaseException as error:  # noqa: BLE001  it is raised where the answer is awaited
            items.put(_End(error))
        else:
            items.put(_End(None))
        finally:
            _running.pop(threading.current_thread(), None)

    deadline = None if timeout is None else time.monotonic() + timeout
    thread = threading.Thread(target=work, name="langchain-gpu-stream", daemon=True)
    _running[thread] = cancelled
    thread.start()
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                item = items.get(timeout=left)
            except queue.Empty:
                raise TimeoutError(f"the answer was not complete after {timeout} s") from None
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return
    finally:
        cancelled.set()


async def pulled_async(items: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Run a blocking generator in a thread of its own and yield what it yields.

    Leaving early, or being canceled, closes the generator when its next item comes; at once where
    it is `Stoppable`.

    Raises:
        BaseException: Whatever the generator raised.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[T | _End] = asyncio.Queue()
    cancelled = threading.Event()

    def tell(item: T | _End) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    def work() -> None:
        error: BaseException | None = None
        try:
            with contextlib.closing(items):
                for item in items:
                    if cancelled.is_set():
                        break
                    tell(item)
        except BaseException as caught:  # noqa: BLE001  it is raised where the item is awaited
            error = caught
        finally:
            _running.pop(threading.current_thread(), None)
        tell(_End(error))

    thread = threading.Thread(target=work, name="langchain-gpu-async", daemon=True)
    _running[thread] = cancelled
    thread.start()
    try:
        while True:
            item = await arrived.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return
    finally:
        cancelled.set()
        if isinstance(items, Stoppable):
            items.stop()


@atexit.register
def _stop_all() -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    for thread, cancelled in list(_running.items()):
        cancelled.set()
        with contextlib.suppress(RuntimeError):  # it was registered and not yet started
            thread.join(max(0.0, deadline - time.monotonic()))


__all__ = ["Stoppable", "pulled", "pulled_async"]
