"""A bound on how many threads and tasks use an engine at the same time, first come first served."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakSet

_LOOK = 0.25  # seconds between two looks for a slot whose holder is away


class Slot:
    """A slot that a thread or a task has or waits for.

    Attributes:
        away: Since when (`time.monotonic`) its holder does something else; None while it waits for
            the engine.
        turn: Done when the slot is granted; canceling it ends the wait.
        gone: Whether the slot was given to another.
    """

    def __init__(self) -> None:
        self.away: float | None = None
        self.turn: Future[None] | None = None
        self.gone = False

    @property
    def taken(self) -> bool:
        """Whether its holder has it now."""
        turn = self.turn
        return not self.gone and turn is not None and turn.done() and not turn.cancelled()


class SlotPool:
    """A semaphore for threads and tasks that grants slots in the order of arrival.

    A thread that streams an answer may do something else between two pieces, and that may be
    to ask the same model again. Its slot is then given to the next caller: with a single slot, the
    thread would wait for itself.

    Args:
        count: How many slots there are.
    """

    def __init__(self, count: int) -> None:
        # Reentrant: a garbage collection in here may end a stream, which gives its slot back.
        self._lock = threading.RLock()
        self._count = self._free = count
        self._waiting: deque[Future[None]] = deque()
        self._slots: WeakSet[Slot] = WeakSet()

    @contextmanager
    def taken(
        self,
        slot: Slot,
        until: float = math.inf,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Have a slot while the context is open.

        Args:
            slot: Says when its holder is away.
            until: How long to wait for it, by `time.monotonic`.
            unwanted: Asked meanwhile whether the wait is given up; `slot.turn.cancel` ends it
                at once.

        Raises:
            TimeoutError: None was free in time.
            CancelledError: The wait was given up.
        """
        turn = self._ask(slot)
        try:
            while not turn.done():
                try:
                    turn.result(max(0.0, min(_LOOK, until - time.monotonic())))
                except TimeoutError:
                    if time.monotonic() >= until and turn.cancel():
                        raise
                    if unwanted():
                        turn.cancel()
                    self._take_over()
            turn.result()
            if unwanted():  # a canceled group gives up many waits: each passes its slot on
                raise CancelledError
            yield
        finally:
            self._leave(slot, turn)

    @asynccontextmanager
    async def taken_async(self) -> AsyncIterator[None]:
        """Do the same in a task, which is never away."""
        slot = Slot()
        turn = self._ask(slot)
        try:
            waiting = asyncio.wrap_future(turn)
            while not (await asyncio.wait((waiting,), timeout=_LOOK))[0]:
                self._take_over()
            yield
        finally:
            self._leave(slot, turn)

    def _ask(self, slot: Slot) -> Future[None]:
        turn: Future[None] = Future()
        with self._lock:
            slot.turn = turn
            self._slots.add(slot)
            self._waiting.append(turn)
            self._call()
        return turn

    def _leave(self, slot: Slot, turn: Future[None]) -> None:
        with self._lock:
            if not turn.cancel() and not slot.gone:  # else it never came, or was given away
                slot.gone = True
                self._pass_on()

    def _pass_on(self) -> None:
        self._free += 1
        self._call()

    def _call(self) -> None:
        while self._free and self._waiting:
            turn = self._waiting.popleft()
            if turn.set_running_or_notify_cancel():
                self._free -= 1
                turn.set_result(None)

    def _take_over(self) -> None:
        """Give the slot of a holder that is away to the next in the queue."""
        before = time.monotonic() - _LOOK
        with self._lock:
            taken = [slot for slot in self._slots if slot.taken]
            if self._free + len(taken) < self._count:
                self._pass_on()  # Ctrl-C came where its holder could not give it back
                return
            for slot in taken:
                if slot.away is not None and slot.away <= before:
                    slot.gone = True
                    self._pass_on()
                    return


__all__ = ["Slot", "SlotPool"]
