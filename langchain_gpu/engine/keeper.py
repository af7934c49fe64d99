"""A resource that is loaded at its first use, shared, and freed when nobody uses it."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Generic, Protocol, TypeVar

from langchain_gpu.utils.async_contexts import nested_context
from langchain_gpu.utils.forking import check_process


class Closable(Protocol):
    """A resource that can be freed."""

    def close(self) -> None:
        """Free it; it cannot be used after that."""


T = TypeVar("T", bound=Closable)


class _Lease(Generic[T]):
    """A resource, loaded or being loaded, and the number of its users and waiters."""

    def __init__(self) -> None:
        self.thing: T | None = None
        self.coming: Future[T] = Future()
        self.coming.set_running_or_notify_cancel()  # a canceled task must not cancel the load
        self.users = 0
        self.process = os.getpid()
        self.last_used = monotonic()
        self.retired = False

    def arrive(self, thing: T) -> None:
        self.thing = thing
        self.coming.set_result(thing)

    def take(self) -> T | None:
        """Take out the resource to close it, None if it was never loaded. It has no user left."""
        thing, self.thing = self.thing, None
        # Breaks a cycle: an error in it holds the frames of the waiters, and they hold this.
        self.coming = Future()
        return thing


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """A resource in use.

    Attributes:
        thing: The resource, which is not freed meanwhile.
        again: Returns a context that uses the same resource once more, even if it was closed
            meanwhile. It must be entered before this use ends.
    """

    thing: T
    again: Callable[[], AbstractContextManager[T]]


class Keeper(Generic[T]):
    """Loads a resource at its first use and shares it among all users.

    Users that come during a load wait for it, and get its error if it fails; a later user loads
    again. `close` does not interrupt users: those that use the resource or wait for it finish, the
    last one frees it, and a later user loads again.

    Args:
        idle_timeout: Seconds without use after which it is freed; None for never.
    """

    def __init__(self, idle_timeout: float | None = None) -> None:
        self.idle_timeout = idle_timeout
        self._lease: _Lease[T] | None = None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._expected = 0

    @property
    def loaded(self) -> T | None:
        """The resource, if it is loaded now."""
        lease = self._lease
        return None if lease is None else lease.thing

    @contextmanager
    def use(self, load: Callable[[], T]) -> Iterator[T]:
        """Use the resource while the context is open, loaded with `load` if necessary.

        Raises:
            BaseException: The error of the `load` that this call began or waited for.
        """
        lease = self._add_user(lambda lease: lease.arrive(load()))
        try:
            yield lease.coming.result()
        finally:
            with self._lock:  # inline: Ctrl-C may be raised at the first line of a function
                lease.users -= 1
            self._close_if_unused(lease)

    @nested_context
    async def use_async(self, load: Callable[[], T]) -> AsyncIterator[T]:
        """Do the same as `use` without blocking: one thread loads, and tasks wait without any."""
        async with self.hold_async(load) as held:
            yield held.thing

    @nested_context
    async def hold_async(self, load: Callable[[], T]) -> AsyncIterator[Held[T]]:
        """Do the same as `use_async`, for work that outlives the task; see `Held.again`."""
        lease = self._add_user(partial(self._load_in_thread, load))
        try:
            thing = lease.thing
            if thing is None:
                thing = await asyncio.wrap_future(lease.coming)
            yield Held(thing, partial(self._hold_again, lease, thing))
        finally:
            with self._lock:
                lease.users -= 1
            if (last := self._to_close(lease)) is not None:
                # Not a task: the end of the loop would cancel it before its thread has begun.
                closing = asyncio.get_running_loop().run_in_executor(None, last.close)
                await asyncio.shield(closing)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Suspend the idle timeout while the context is open: more uses will follow."""
        with self._lock:
            self._expected += 1
        try:
            yield
        finally:
            with self._lock:
                self._expected -= 1
                self._watch_idle()

    @contextmanager
    def _hold_again(self, lease: _Lease[T], thing: T) -> Iterator[T]:
        with self._lock:
            lease.users += 1
        try:
            yield thing
        finally:
            with self._lock:  # as in `use`
                lease.users -= 1
            self._close_if_unused(lease)

    def close(self) -> None:
        """Free it, as soon as nobody uses it."""
        with self._lock:
            lease, self._lease = self._lease, None
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            if lease is None or lease.process != os.getpid():  # the parent of a fork frees it
                return
            lease.retired = True
            thing = None if lease.users else lease.take()
        if thing is not None:
            thing.close()

    def _add_user(self, begin: Callable[[_Lease[T]], object]) -> _Lease[T]:
        """Count one more user; the first one calls `begin` to load, and raises its error."""
        lease: _Lease[T] | None = None
        first = False
        try:  # around all of it: Ctrl-C may be raised at any line
            with self._lock:
                first = self._lease is None
                there = self._lease or _Lease()
                check_process(there.process)
                there.users += 1
                lease = self._lease = there
            if first:
                begin(lease)
        except BaseException as error:
            if lease is not None and first:
                self._fail(lease, error)
            elif lease is not None:
                self._drop_user(lease)
            raise
        return lease

    def _load_in_thread(self, load: Callable[[], T], lease: _Lease[T]) -> None:
        with self._lock:
            lease.users += 1  # the thread itself, as all waiters may give up
        # Not in a pool, which may be full of callers that wait for this load.
        thread = threading.Thread(
            target=copy_context().run, args=(self._load, load, lease), name="langchain-gpu-load"
        )
        thread.start()

    def _load(self, load: Callable[[], T], lease: _Lease[T]) -> None:
        try:
            thing = load()
        except BaseException as error:  # noqa: BLE001 - it is raised in the waiters
            self._fail(lease, error)
            return
        lease.thing, coming = thing, lease.coming
        self._drop_user(lease)  # first: a waiter that closes it must not find another user
        coming.set_result(thing)

    def _fail(self, lease: _Lease[T], error: BaseException) -> None:
        """Raise the error in all waiters, and drop this user."""
        with self._lock:
            lease.retired = True
            if self._lease is lease:
                self._lease = None
        if not lease.coming.done():
            # Ctrl-C is raised in one thread only, not in all waiters.
            shared = isinstance(error, Exception)
            lease.coming.set_exception(error if shared else RuntimeError("loading was interrupted"))
        self._drop_user(lease)

    def _drop_user(self, lease: _Lease[T]) -> None:
        with self._lock:
            lease.users -= 1
        self._close_if_unused(lease)

    def _close_if_unused(self, lease: _Lease[T]) -> None:
        if (thing := self._to_close(lease)) is not None:
            thing.close()

    def _to_close(self, lease: _Lease[T]) -> T | None:
        """Return the resource if it is to be closed, as its last user has left."""
        with self._lock:
            lease.last_used = monotonic()
            self._watch_idle()
            return lease.take() if lease.retired and not lease.users else None

    def _watch_idle(self) -> None:
        """Start the idle timer, if the resource has no user."""
        lease, limit = self._lease, self.idle_timeout
        idle = lease is not None and not lease.users and not self._expected
        if idle and limit is not None and self._timer is None:
            self._start_timer(limit)

    def _start_timer(self, seconds: float) -> None:
        # One timer at a time, which checks the clock when it fires: a timer per use would be a
        # thread per use. Its reference is weak, so that an unused keeper can be collected.
        self._timer = threading.Timer(seconds, _on_timer, [weakref.ref(self)])
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            self._timer = None
            lease, limit = self._lease, self.idle_timeout
            if lease is None or limit is None or lease.users or self._expected:
                return  # the last user, or the end of `expected`, starts the next timer
            remaining = lease.last_used + limit - monotonic()
            if remaining > 0:
                self._start_timer(remaining)
                return
            self._lease = None
            lease.retired = True
            thing = lease.take()
        if thing is not None:
            thing.close()


def _on_timer(keeper: weakref.ref[Keeper[T]]) -> None:
    found = keeper()
    if found is not None:
        found._expire()  # noqa: SLF001 - the same module
