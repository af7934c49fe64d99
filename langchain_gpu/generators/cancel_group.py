"""A group of answers of one caller, which any thread can cancel together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import Context, ContextVar, copy_context

from langchain_gpu.generators.base import Deltas
from langchain_gpu.generators.pump import Stoppable

_current: ContextVar[CancelGroup | None] = ContextVar("langchain-gpu-cancel-group", default=None)


class CancelGroup:
    """The answers of one batch, each awaited by a thread of its own; any thread may cancel all.

    Attributes:
        canceled: Whether the group was canceled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: set[Callable[[], object]] = set()
        self.canceled = False

    def stop(self) -> None:
        """Cancel every answer; those that have not begun never begin."""
        with self._lock:
            self.canceled = True
            stops = list(self._stops)
        for stop in stops:
            stop()

    def context(self) -> Context:
        """Return a context in which this is the `current_group`."""
        context = copy_context()
        context.run(_current.set, self)
        return context

    @contextmanager
    def waiting(self, stop: Callable[[], object]) -> Iterator[None]:
        """Wait for one of the answers; canceling the group calls `stop`, from any thread.

        Raises:
            RuntimeError: The group was canceled.
        """
        with self._lock:
            self._stops.add(stop)
        try:
            self._check()
            yield
        finally:
            with self._lock:
                self._stops.discard(stop)

    @contextmanager
    def reading(self, deltas: Deltas) -> Iterator[Deltas]:
        """Read one of the answers; it is closed at the end of the context.

        Raises:
            RuntimeError: The group was canceled; raised from the stream too.
        """
        # What is not stoppable ends with its next piece.
        stop = deltas.stop if isinstance(deltas, Stoppable) else _no_stop
        with closing(deltas), self.waiting(stop):  # one that is only dropped may run on
            yield self._until_canceled(deltas)

    def _until_canceled(self, deltas: Deltas) -> Deltas:
        for delta in deltas:
            self._check()
            yield delta
        self._check()

    def _check(self) -> None:
        if self.canceled:
            raise RuntimeError("the chat was canceled")


def current_group() -> CancelGroup:
    """Return the group of this context, or a new one for a single answer."""
    return _current.get() or CancelGroup()


def _no_stop() -> None:
    pass


__all__ = ["CancelGroup", "current_group"]
