"""Something large that is loaded when it is needed, and freed when nobody uses it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What can be freed."""

    def close(self) -> None:
        """Free it; it cannot be used after that."""


T = TypeVar("T", bound=Closable)


class _Lease(Generic[T]):
    """One loaded thing, and how many use it."""

    def __init__(self, thing: T) -> None:
        self.thing = thing
        self.users = 0
        self.left = monotonic()
        self.retired = False


class Keeper(Generic[T]):
    """Loads a thing at its first use and shares it among all who use it.

    `close` never pulls it away from under somebody: those who use it finish, the last one frees
    it, and who comes later loads anew.

    Args:
        idle_timeout: Seconds without use after which it is freed; None for never.
    """

    def __init__(self, idle_timeout: float | None = None) -> None:
        self.idle_timeout = idle_timeout
        self._lease: _Lease[T] | None = None
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    @property
    def loaded(self) -> T | None:
        """The thing, if it is loaded now."""
        lease = self._lease
        return None if lease is None else lease.thing

    @contextmanager
    def use(self, load: Callable[[], T]) -> Iterator[T]:
        """Hold the thing, loaded with `load` if it is not there."""
        lease = self._enter(load)
        try:
            yield lease.thing
        finally:
            self._leave(lease)

    def close(self) -> None:
        """Free it, as soon as nobody uses it."""
        with self._lock:
            lease, self._lease = self._lease, None
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            if lease is None:
                return
            lease.retired = True
            busy = lease.users > 0
        if not busy:
            lease.thing.close()

    def _enter(self, load: Callable[[], T]) -> _Lease[T]:
        with self._loading:  # one loads, the others wait for it
            with self._lock:
                lease = self._lease
                if lease is not None:
                    lease.users += 1
                    return lease
            lease = _Lease(load())
            with self._lock:
                lease.users = 1
                self._lease = lease
            return lease

    def _leave(self, lease: _Lease[T]) -> None:
        with self._lock:
            lease.users -= 1
            lease.left = monotonic()
            last = lease.retired and lease.users == 0
            if not lease.retired and self.idle_timeout is not None and self._timer is None:
                self._arm(self.idle_timeout)
        if last:
            lease.thing.close()

    def _arm(self, seconds: float) -> None:
        # One timer at a time, which looks at the clock when it rings: a timer per use would be a
        # thread per use. It holds no reference, so that a keeper nobody has can be collected.
        self._timer = threading.Timer(seconds, _ring, [weakref.ref(self)])
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            self._timer = None
            lease, limit = self._lease, self.idle_timeout
            if lease is None or limit is None or lease.users:
                return  # who leaves sets the next one
            rest = lease.left + limit - monotonic()
            if rest > 0:
                self._arm(rest)
                return
            self._lease = None
            lease.retired = True
        lease.thing.close()


def _ring(keeper: weakref.ref[Keeper[T]]) -> None:
    found = keeper()
    if found is not None:
        found._expire()  # noqa: SLF001 - the same module
