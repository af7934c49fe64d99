"""A lock that is fair: who came first goes first."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A mutex that is handed over in the order of arrival.

    A `threading.Lock` goes to whoever is running when it becomes free, which is the thread that
    has just released it: a long run would keep everybody else waiting.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def callers(self) -> int:
        """How many hold it or wait for it."""
        return len(self._waiting) + self._held

    def __enter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        try:
            gate.acquire()
        except BaseException:  # interrupted while waiting: whoever is next must not wait for ever
            with self._mutex:
                mine = gate not in self._waiting
                if not mine:
                    self._waiting.remove(gate)
            if mine:
                self._pass_on()
            raise

    def __exit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
