"""A lock for many readers or one writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock, local
from weakref import WeakSet


class ReadWriteLock:
    """Readers pass together; a writer waits until they are out, and new readers wait for it.

    Each thread that reads has a lock of its own, and a writer takes them all. So readers do not
    meet, and leaving is a call into C, which Ctrl-C does not come before: a reader that stayed in
    would keep writers out for ever. A reader must not pass twice in one thread, so no code of users
    runs under it.
    """

    def __init__(self) -> None:
        """Start open."""
        self._mutex = Lock()
        self._closed = False
        self._mine = local()
        self._readers: WeakSet[Lock] = WeakSet()  # those of threads that ended are gone

    def reading(self) -> AbstractContextManager[object]:
        """Hold writers off."""
        lock: Lock | None = getattr(self._mine, "lock", None)
        if lock is None or self._closed:
            with self._mutex:  # behind the writer, who would have to wait for ever else
                if lock is None:
                    lock = Lock()
                    self._readers.add(lock)
                    self._mine.lock = lock
        return lock

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold readers off. One writer at a time."""
        with self._mutex, ExitStack() as readers:
            try:
                self._closed = True
                for lock in list(self._readers):
                    readers.enter_context(lock)
                yield
            finally:
                self._closed = False


__all__ = ["ReadWriteLock"]
