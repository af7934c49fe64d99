"""Many readers or one writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Condition, Lock


class Gate:
    """Readers pass together; a writer waits until they are out, and new readers wait for it.

    One writer at a time: its callers hold a lock of their own. A reader must not pass twice in one
    thread, so no code of users runs behind the gate.
    """

    def __init__(self) -> None:
        """Start open."""
        self._mutex = Lock()
        self._changed = Condition(self._mutex)
        self._readers = 0
        self._closed = False
        self._pass = _Pass(self)

    def reading(self) -> AbstractContextManager[None]:
        """Hold writers off."""
        return self._pass

    def enter(self) -> None:
        """Let a reader in."""
        with self._mutex:
            while self._closed:
                self._changed.wait()
            self._readers += 1

    def leave(self) -> None:
        """Let a reader out."""
        with self._mutex:
            self._readers -= 1
            if self._closed and not self._readers:
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold readers off."""
        try:  # from the start: Ctrl-C ends the wait too
            with self._changed:
                self._closed = True
                while self._readers:
                    self._changed.wait()
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class _Pass:
    """Reading, as a context: every search passes, and a generator would cost it microseconds."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        self._gate.enter()

    def __exit__(self, *_: object) -> None:
        self._gate.leave()


__all__ = ["Gate"]
