"""Places at a llama.cpp server, in the order of arrival, for callers who may give up waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How often one who waits looks whether anybody wants its answer still. Nothing here can wake it:
# those who give up do not know where it waits.
_LOOK_SECONDS = 0.2


class Places:
    """As many at a time as there are slots; who came first goes first.

    llama.cpp has a queue of its own. What stands there cannot be taken back: its prompt is read,
    for seconds, before anybody is asked whether the answer is wanted.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def taken(self, unwanted: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a place and hold it.

        Args:
            unwanted: Says that nobody wants it any more.

        Yields:
            Whether there is one; False where it was given up.
        """
        if not self._wait(unwanted):
            yield False
            return
        try:
            yield not unwanted()  # whoever gives up gives up many: they pass the place on
        finally:
            self._pass_on()

    def _wait(self, unwanted: Callable[[], bool]) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            mine = threading.Event()
            self._waiting.append(mine)
        while not mine.wait(_LOOK_SECONDS) and not unwanted():
            pass
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return False
        return True

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


__all__ = ["Places"]
