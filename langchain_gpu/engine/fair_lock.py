"""A lock that is fair: who came first goes first."""

from __future__ import annotations

import threading


class _Turn:
    """One who holds the lock, or waits for the one before.

    Attributes:
        lock: Locked until the turn is over, or given up.
        before: Whom it waits for; None once it has come.
    """

    __slots__ = ("before", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.before: _Turn | None = None


class FairLock:
    """A mutex that is handed over in the order of arrival.

    A `threading.Lock` goes to whoever is running when it becomes free, which is the thread that
    has just released it: a long run would keep everybody else waiting.
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
        """Wait for this thread's turn, and return what is to be released at its end.

        Release it in a `finally`, and not by a function around it: Ctrl-C may come at the first
        line of any function, but not before a call into C.
        """
        mine = _Turn()
        mine.lock.acquire()
        try:
            with self._mutex:
                mine.before, self._last = self._last, mine
            while (before := mine.before) is not None:
                with before.lock:
                    pass
                mine.before = before.before  # of one who gave up: still somebody
        except BaseException:  # Ctrl-C: whoever is next goes on waiting for those before
            mine.lock.release()
            raise
        return mine.lock
