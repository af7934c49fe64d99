"""A lock for many readers or one writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock, local
from weakref import WeakSet


class ReadWriteLock:
    """Readers run together; a writer waits until they are done, and new readers wait for it.

    Each reading thread has a lock of its own, and a writer takes all of them. So readers do not
    contend with one another, and releasing is a call into C, before which Ctrl-C is not raised: a
    lock that a reader failed to release would block writers forever. A thread must not read twice
    at a time, so no callers' code runs under it.
    """

    def __init__(self) -> None:
        """Start unlocked."""
        self._mutex = Lock()
        self._closed = False
        self._mine = local()
        self._readers: WeakSet[Lock] = WeakSet()  # those of threads that ended are gone

    def reading(self) -> AbstractContextManager[object]:
        """Return a context that blocks writers."""
        lock: Lock | None = getattr(self._mine, "lock", None)
        if lock is None or self._closed:
            with self._mutex:  # after the writer: it might never find all readers' locks free else
                if lock is None:
                    lock = Lock()
                    self._readers.add(lock)
                    self._mine.lock = lock
        return lock

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Block readers while the context is open. One writer at a time."""
        with self._mutex, ExitStack() as readers:
            try:
                self._closed = True
                for lock in list(self._readers):
                    readers.enter_context(lock)
                yield
            finally:
                self._closed = False


__all__ = ["ReadWriteLock"]
