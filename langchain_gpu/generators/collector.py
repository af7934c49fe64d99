"""Chats of many threads and tasks, merged into shared batches.

A chat that arrives while nothing runs starts at once, without waiting for others that may never
come; only those that their callers have announced are waited for, for a moment. Chats that arrive
later wait until the batch is done, or until the engine interrupts it to go on with all of them.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from langchain_gpu.generators.rows import Row

# How long a batch waits for the next of the announced chats. Their threads arrive some
# milliseconds apart, or more on a busy machine; those that never come are rare (answers from a
# cache, errors before the model is asked).
_COMPANY_SECONDS = 0.2
# How long the end of the process waits for the model to notice that its rows are canceled. A
# thread that returns from native code into a finalized interpreter would abort the process.
_EXIT_SECONDS = 10.0


@dataclass(eq=False)
class _Party:
    """Chats that were announced and have not arrived yet, `width` of them at a time."""

    coming: int
    width: int


class Collector:
    """Queues rows and runs them in batches, one batch at a time.

    Args:
        run: Generates until every row it is given is done or has at least one more token; rows that
            are not done are run again with those that wait. Called from one thread at a time.
        most: Rows of one batch at most.

    Attributes:
        budget: Most tokens of a batch, counted as its rows times the longest that one may become;
            None for no bound. A single row goes whatever its length.
    """

    def __init__(self, run: Callable[[Sequence[Row]], None], most: int) -> None:
        self._run = run
        self._most = most
        self.budget: int | None = None
        self._changed = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._running: Sequence[Row] = ()
        self._parties: list[_Party] = []
        self._arrived = 0.0
        self._worker: threading.Thread | None = None
        _collectors.add(self)

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue rows and return at once; every one of them ends, with an answer or an error."""
        with self._changed:
            self._waiting.extend(rows)
            self._arrived = time.monotonic()
            left = len(rows)
            for party in self._parties:
                come = min(left, party.coming)
                party.coming -= come
                left -= come
            self._changed.notify_all()
            if self._worker is None:
                # Lives only while there is work: an idle collector holds no thread.
                self._worker = threading.Thread(
                    target=self._serve, name="langchain-gpu-generate", daemon=True
                )
                self._worker.start()

    def crowded(self) -> bool:
        """Say whether a waiting chat would fit into the batch beside those that still run."""
        if not self._waiting:
            return False
        with self._changed:
            running = [row for row in self._running if not row.done]
            first = next((row for row in self._waiting if not row.done), None)
            fits = first is not None and self._has_room(running, first)
            return fits and 0 < len(running) < self._most

    @contextmanager
    def expect(self, count: int, width: int) -> Iterator[None]:
        """Announce `count` rows, of which `width` come at a time, while the context is open."""
        party = _Party(count, width)
        with self._changed:
            self._parties.append(party)
        try:
            yield
        finally:
            with self._changed:
                self._parties.remove(party)
                self._changed.notify_all()

    def stop(self, seconds: float) -> None:
        """Cancel everything and wait for the batch that runs."""
        with self._changed:
            for row in (*self._waiting, *self._running):
                row.cancel()
            worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join(seconds)

    def _serve(self) -> None:
        while rows := self._take():
            self._compute(rows)

    def _take(self) -> list[Row]:
        """Return the oldest rows; none, and forget the worker, when nothing waits."""
        with self._changed:
            left = [row for row in self._running if not row.done]
            self._waiting.extendleft(reversed(left))
            self._running = ()
            while self._waiting and not left and (patience := self._announced_wait()) > 0:
                self._changed.wait(patience)
            rows: list[Row] = []
            while self._waiting and len(rows) < self._most:
                if not self._has_room(rows, self._waiting[0]):
                    break
                row = self._waiting.popleft()
                if not row.done:  # canceled or late before its turn
                    rows.append(row)
            self._running = rows
            if not rows:
                self._worker = None
            return rows

    def _has_room(self, rows: Sequence[Row], row: Row) -> bool:
        if not rows or row.done or self.budget is None:
            return True
        return (len(rows) + 1) * max(each.need for each in (*rows, row)) <= self.budget

    def _announced_wait(self) -> float:
        """Seconds to wait for announced chats."""
        coming = sum(min(party.coming, party.width) for party in self._parties)
        if not coming or len(self._waiting) >= self._most:
            return 0.0
        return self._arrived + _COMPANY_SECONDS - time.monotonic()

    def _compute(self, rows: Sequence[Row]) -> None:
        error: BaseException | None = None
        before = {row: len(row.tokens) for row in rows}
        try:
            self._run(rows)
        except BaseException as caught:  # noqa: BLE001  it goes to whom it belongs
            error = caught
        rows = [row for row in rows if not row.done]
        if error is None and any(len(row.tokens) == before[row] for row in rows):
            error = RuntimeError("the engine ended the answer without saying why")
        if error is None:
            return
        if len(rows) == 1 or not isinstance(error, Exception):
            for row in rows:
                row.fail(error)
            return
        for row in rows:  # one of them may be the cause: the others get their answers
            self._compute([row])


_collectors: weakref.WeakSet[Collector] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for collector in list(_collectors):
        collector.stop(_EXIT_SECONDS)


__all__ = ["Collector"]
