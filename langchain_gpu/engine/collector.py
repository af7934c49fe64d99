"""Small calls of many threads and tasks, merged into shared runs.

A call that comes while nothing runs starts at once, in the caller's own thread. Calls that come
meanwhile wait, and are merged when it is done. So a single caller pays nothing, and sixty-four
calls at once cost a few forward passes.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Any, Generic, TypeVar

from langchain_gpu.engine.item_errors import about_items
from langchain_gpu.engine.report import Rows
from langchain_gpu.servers.errors import FailedItemError

ItemT = TypeVar("ItemT")

# Items of a group for which a server may fail, each after several attempts and pauses, before all
# remaining calls get the error.
_FAILURES = 4


@dataclass(slots=True, eq=False)
class _Call(Generic[ItemT]):
    """The items of one caller, and the future of their rows."""

    items: Sequence[ItemT]
    options: Any
    future: Future[Rows] = field(default_factory=Future)


class Collector(Generic[ItemT]):
    """Queues calls while one runs, and merges those with the same options.

    Args:
        run: Computes rows for items and options; called from one thread at a time.
        most: Items that go together at most.
    """

    def __init__(self, run: Callable[[list[ItemT], Any], Rows], most: int) -> None:
        self._compute_rows = run
        self._running: int | None = None  # the thread that computes
        self._most = most
        self._waiting: deque[_Call[ItemT]] = deque()
        self._computed: list[_Call[ItemT]] = []
        self._busy = False
        self._lock = threading.Lock()
        # Its thread lives only while there is work, and ends with the collector.
        self._worker = ThreadPoolExecutor(1, "langchain-gpu-collector")

    def call(self, items: Sequence[ItemT], options: Any) -> Rows:
        """Compute rows, on this thread if nothing runs.

        Raises:
            RuntimeError: It is called by what it runs, a listener to its events for example.
            Exception: Whatever `run` raises for these items, or for all at once.
        """
        if self._running == threading.get_ident():
            raise RuntimeError(
                "an event listener called the model that is waiting for that listener: call the "
                "model later, or from a thread that the listener does not wait for"
            )
        lead = False
        try:  # around all of it: Ctrl-C may be raised at any line, and others must not hang
            with self._lock:
                if not self._busy:
                    lead = self._busy = True
            if lead:
                return self._run(list(items), options)
        finally:
            if lead:
                with self._lock:
                    if not self._waiting:
                        lead = self._busy = False
                if lead:
                    self._go_on()  # with the calls that came meanwhile
        future = self.submit(items, options)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # interrupted: the result is not needed any more
            raise

    def submit(self, items: Sequence[ItemT], options: Any) -> Future[Rows]:
        """Queue a call and return at once."""
        call = _Call(items, options)
        start = False
        try:
            with self._lock:
                self._waiting.append(call)
                start = not self._busy
                self._busy = True
        finally:
            if start:
                self._go_on()
        return call.future

    def _run(self, items: list[ItemT], options: Any) -> Rows:
        self._running = threading.get_ident()
        try:
            return self._compute_rows(items, options)
        finally:
            self._running = None

    def when_done(self, then: Callable[[], object]) -> None:
        """Call `then` when the calls that the worker computes now have their rows.

        Their callers may be gone, as after Ctrl-C.
        """
        with self._lock:
            futures = [call.future for call in self._computed]
        under_way = next((future for future in futures if not future.done()), None)
        if under_way is None:
            then()
        else:
            under_way.add_done_callback(lambda _: self.when_done(then))

    def _go_on(self) -> None:
        """Start the worker on the waiting calls."""
        try:
            self._worker.submit(self._serve)
        except RuntimeError:  # Python shuts down, and joins threads that wait for their rows
            self._serve()

    def _serve(self) -> None:
        while group := self._take():
            self._compute(group)

    def _take(self) -> list[_Call[ItemT]]:
        """Take the oldest call, and all others that can be merged with it."""
        with self._lock:
            group: list[_Call[ItemT]] = []
            left: deque[_Call[ItemT]] = deque()
            items = 0
            for call in self._waiting:
                fits = not group or (
                    call.options == group[0].options and items + len(call.items) <= self._most
                )
                if not fits:
                    left.append(call)
                elif call.future.set_running_or_notify_cancel():
                    group.append(call)
                    items += len(call.items)
            self._waiting, self._computed = left, group
            self._busy = bool(group)
            return group

    def _compute(self, group: list[_Call[ItemT]]) -> None:
        """Compute a group. Where an item causes an error, all calls but its own get their rows."""
        parts, failures = [group], 0
        while parts:
            part = parts.pop()
            try:
                rows = self._run([item for call in part for item in call.items], part[0].options)
                results = _cut(rows, part)
            except BaseException as error:  # noqa: BLE001 - it is raised in the callers
                failures += isinstance(error, FailedItemError)
                if not about_items(error) or failures > _FAILURES:
                    # The rest would get it too, after another long wait if a server hangs.
                    part, parts = [*part, *chain.from_iterable(parts)], []
                elif isinstance(error, FailedItemError):
                    if rest := _blamed(part, error):
                        parts.append(rest)
                    continue
                elif len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                for call in part:
                    call.future.set_exception(error)
            else:
                for call, result in zip(part, results, strict=True):
                    call.future.set_result(result)


def _blamed(calls: list[_Call[ItemT]], error: FailedItemError) -> list[_Call[ItemT]]:
    """Raise the error in the call whose item caused it, by its own position; return the others.

    That call is not repeated alone: it would take as long again, and the others would wait for it.
    """
    ends = list(accumulate(len(call.items) for call in calls))
    at = bisect_right(ends, error.position)
    start = ends[at] - len(calls[at].items)
    calls[at].future.set_exception(error.at(error.position - start))
    return [*calls[:at], *calls[at + 1 :]]


def _cut(rows: Rows, calls: list[_Call[ItemT]]) -> list[Rows]:
    ends = accumulate(len(call.items) for call in calls)
    return [_part(rows, end - len(call.items), end) for call, end in zip(calls, ends, strict=True)]


def _part(rows: Rows, start: int, stop: int) -> Rows:
    """Cut one call's rows out of a shared run; a copy, which does not hold the others' memory."""
    truncated = tuple(at - start for at in rows.report.truncated if start <= at < stop)
    return Rows(
        rows.vectors[start:stop].copy(),
        replace(rows.report, items=stop - start, truncated=truncated),
    )
