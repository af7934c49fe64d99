"""An event loop on a thread of its own, where requests run as tasks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_GRACE = 5.0  # seconds that canceled requests have to end
CLOSED = "the connection is closed"
FORKED = (
    "connections do not survive a fork: build the object in the new process, or start processes "
    "with the 'spawn' method"
)


class Flight(Generic[T]):
    """A coroutine that runs on the loop. Calling it waits for it; dropping it unused cancels it."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def __call__(self, seconds: float | None = None) -> T:
        """Wait, for so many seconds at most.

        Raises:
            TimeoutError: It took longer, and goes on.
            RuntimeError: The loop was closed under way.
        """
        try:
            return self._future.result(seconds)
        except CancelledError:
            raise interrupted() from None

    def then(self, call: Callable[[BaseException | None], object]) -> None:
        """Call with the error, or None, when it has ended; at once if it has."""
        self._future.add_done_callback(
            lambda done: call(interrupted() if done.cancelled() else done.exception())
        )

    def cancel(self) -> None:
        """End it, if it is still under way."""
        self._future.cancel()

    def __del__(self) -> None:
        # Where one batch fails, nobody waits for those beside it any more.
        self.cancel()


class Loop:
    """Runs coroutines on a thread of its own, apart from the caller's thread and event loop.

    Requests in flight are tasks and not threads: closing cancels them at once, which is impossible
    for a thread that waits for a socket.

    Args:
        closing: Awaited on the loop when it closes.
    """

    def __init__(self, closing: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._closing = closing
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    def submit(self, work: Coroutine[Any, Any, T]) -> Flight[T]:
        """Start `work`.

        Raises:
            RuntimeError: The loop is closed, or this process was forked after it started.
        """
        with self._lock:
            problem = self._problem()
            if problem is None:
                loop = self._running()
                return Flight(asyncio.run_coroutine_threadsafe(work, loop))
        work.close()
        raise RuntimeError(problem)

    def close(self) -> None:
        """Cancel what is under way and end the thread. May be called again."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None or os.getpid() != self._pid:
            return
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():  # a garbage collection may run anywhere
            thread.join(2 * _GRACE)

    def _problem(self) -> str | None:
        if self._closed:
            return CLOSED
        if os.getpid() != self._pid:
            return FORKED
        return None

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._run, args=(self._loop,), name="langchain-gpu-remote", daemon=True
            )
            self._thread.start()
        return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=_GRACE))
            loop.run_until_complete(self._closing())
            # Clients leave generators half read, whose ends would be tasks that nobody runs.
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


def interrupted() -> RuntimeError:
    """Return the error that is raised in those who wait for a canceled request."""
    return RuntimeError("the connection was closed while a request was under way")
