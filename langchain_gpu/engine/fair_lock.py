"""A lock that is granted in the order of arrival."""

from __future__ import annotations

import threading


class _Turn:
    """A caller in the queue: it holds the lock, or waits for the caller before it.

    Attributes:
        lock: Locked until the caller releases the `FairLock`, or gives up waiting.
        before: The caller it waits for; None once it holds the `FairLock`.
    """

    __slots__ = ("before", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.before: _Turn | None = None


class FairLock:
    """A mutex that is granted in the order of arrival.

    A `threading.Lock` is usually taken again by the thread that has just released it, as that one
    is running: one long run would keep all other threads waiting.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._last: _Turn | None = None

    @property
    def callers(self) -> int:
        """How many hold it or wait for it."""
        count, turn = 0, self._last
        while turn is not None:
            count += turn.lock.locked()
            turn = turn.before
        return count

    def take(self) -> threading.Lock:
        """Wait for the lock, and return a `threading.Lock` whose release gives it up.

        Call `release` directly in a `finally`, not through a function of Python: Ctrl-C may be
        raised at the first line of such a function, but not before a call into C.
        """
        mine = _Turn()
        mine.lock.acquire()
        try:
            with self._mutex:
                mine.before, self._last = self._last, mine
            while (before := mine.before) is not None:
                with before.lock:
                    pass
                mine.before = before.before  # it may have given up, with another still before it
        except BaseException:  # Ctrl-C: the next caller then waits for those before this one
            mine.lock.release()
            raise
        return mine.lock
