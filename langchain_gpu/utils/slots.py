"""How many may ask an engine at the same time, whether they are threads or tasks."""

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

_LOOK = 0.25  # seconds between two looks for a place whose holder is away


class Seat:
    """A place that a thread or a task has or waits for.

    Attributes:
        away: Since when (`time.monotonic`) its holder does something else, None while it is here.
        turn: Comes when the place does; canceling it ends the wait.
        gone: Whether the place is somebody else's again.
    """

    def __init__(self) -> None:
        self.away: float | None = None
        self.turn: Future[None] | None = None
        self.gone = False

    @property
    def taken(self) -> bool:
        """Whether it has the place now."""
        turn = self.turn
        return not self.gone and turn is not None and turn.done() and not turn.cancelled()


class Places:
    """As many at a time as there are places, in the order in which they come.

    A thread that streams an answer may turn to something else between two pieces, and that may be
    another answer of the same model. Its place is given to whoever waits then: with a single
    place, it would wait for itself.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        # Reentrant: a garbage collection in here may end a stream, which leaves its place.
        self._lock = threading.RLock()
        self._count = self._free = count
        self._waiting: deque[Future[None]] = deque()
        self._seats: WeakSet[Seat] = WeakSet()

    @contextmanager
    def taken(
        self,
        seat: Seat,
        until: float = math.inf,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Have a place while the context is open.

        Args:
            seat: Tells when its holder is away.
            until: How long to wait for it, by `time.monotonic`.
            unwanted: Asked meanwhile whether the wait is given up; `seat.turn.cancel` ends it
                at once.

        Raises:
            TimeoutError: None was free in time.
            CancelledError: The wait was given up.
        """
        turn = self._ask(seat)
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
            if unwanted():  # whoever gives up gives up many: they pass the place on
                raise CancelledError
            yield
        finally:
            self._leave(seat, turn)

    @asynccontextmanager
    async def taken_async(self) -> AsyncIterator[None]:
        """Do the same in a task, which is never away."""
        seat = Seat()
        turn = self._ask(seat)
        try:
            waiting = asyncio.wrap_future(turn)
            while not (await asyncio.wait((waiting,), timeout=_LOOK))[0]:
                self._take_over()
            yield
        finally:
            self._leave(seat, turn)

    def _ask(self, seat: Seat) -> Future[None]:
        turn: Future[None] = Future()
        with self._lock:
            seat.turn = turn
            self._seats.add(seat)
            self._waiting.append(turn)
            self._call()
        return turn

    def _leave(self, seat: Seat, turn: Future[None]) -> None:
        with self._lock:
            if not turn.cancel() and not seat.gone:  # else it never came, or was given away
                seat.gone = True
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
        """Give the place of one who is away to the next who waits."""
        before = time.monotonic() - _LOOK
        with self._lock:
            taken = [seat for seat in self._seats if seat.taken]
            if self._free + len(taken) < self._count:
                self._pass_on()  # Ctrl-C came where its holder could not give it back
                return
            for seat in taken:
                if seat.away is not None and seat.away <= before:
                    seat.gone = True
                    self._pass_on()
                    return


__all__ = ["Places", "Seat"]
