"""What happens when memory runs out: smaller batches, then another device, then an error.

The steps, in this order: split only the batch that failed and keep every finished row; let the
halved size become the device's budget, until enough batches succeed; free the device's cache,
outside the `except` block because inside it the traceback still holds the tensors; try a single
item once more, as freeing the cache may have made room for it; move to the next device; raise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter

from langchain_gpu.engine.budgets import Budget, Budgets
from langchain_gpu.engine.encoder import Encoder
from langchain_gpu.engine.fair_lock import FairLock
from langchain_gpu.engine.work import Failure, Finished, Flight, OwnerT, Work
from langchain_gpu.events import BatchDone, FellBack, Listener, emit, warn_fallback
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release
from langchain_gpu.utils.errors import first_line


class EngineOutOfMemoryError(MemoryError):
    """One item alone does not fit into the memory of any device the policy allows."""


class Ladder:
    """Runs batches on one encoder: knows its learned budget, and the devices it may fall back to.

    Args:
        encoder: The model on its device.
        budgets: Computed tokens per batch, by device; learns from what happens here.
        fallback: Other devices to move to, in order, when one item alone does not fit.
        on_event: Called for batches, fallbacks and budget changes.
        what: What messages call the work.

    Attributes:
        fallbacks: Moves so far.
    """

    def __init__(
        self,
        encoder: Encoder,
        budgets: Budgets,
        fallback: Sequence[Device] = (),
        on_event: Listener | None = None,
        what: str = "embedding",
    ) -> None:
        self.encoder = encoder
        self._what = what
        self.fallbacks: list[FellBack] = []
        self._budgets = budgets
        # A device of the same name would have no more memory.
        self._next = [each for each in fallback if str(each) != str(encoder.device)]
        self._on_event = on_event
        # One batch starts at a time: callers on other threads queue up here, batch by batch,
        # instead of fighting for memory.
        self._fair_lock = FairLock()
        self._landed = 0.0
        self._budget = self._first()

    @property
    def budget(self) -> int:
        """Computed tokens per batch now."""
        return self._budget.tokens

    @property
    def callers(self) -> int:
        """How many threads use the device or wait for it."""
        return self._fair_lock.callers

    def run(self, works: Iterable[Work[OwnerT]]) -> Iterator[Finished[OwnerT]]:
        """Compute planned batches, each in as many steps as it takes.

        As many batches are in flight as the encoder's rules allow: while the device computes one,
        the next is started.

        Yields:
            Finished rows, in the order they were started; those of a batch that ran out of memory
            come after what was under way beside it.

        Raises:
            EngineOutOfMemoryError: A single item does not fit anywhere.
        """
        flights: deque[Flight[OwnerT]] = deque()
        for work in works:
            yield from self._climb([work], flights)
        while flights:
            yield from self._land(flights)

    def _climb(
        self, todo: list[Work[OwnerT]], flights: deque[Flight[OwnerT]]
    ) -> Iterator[Finished[OwnerT]]:
        """Start everything in `todo`, the last first, in smaller pieces where it does not fit."""
        while todo:
            work = todo.pop()
            cost = self.encoder.rules.cost(work.owner.tokens.lengths[work.rows])
            if len(work.rows) > 1 and cost > self.budget:
                # Planned for another budget. Reversed: the longest piece goes first.
                todo += reversed(self._cut(work, cost))
                continue
            while len(flights) >= self.encoder.rules.in_flight:
                yield from self._land(flights)
            started = self._start(work)
            if isinstance(started, Flight):
                flights.append(started)
                if work.again:  # alone: other batches in flight may have taken the memory
                    yield from self._land(flights)
                continue
            while flights:  # batches in flight hold memory, and their rows are nearly done
                yield from self._land(flights)
            todo += reversed(self._recover(started))

    def _start(self, work: Work[OwnerT]) -> Flight[OwnerT] | Failure[OwnerT]:
        turn = self._fair_lock.take()
        try:
            began, device = perf_counter(), self.encoder.device
            features = work.features
            if features is None or work.device != device:  # it moved since, or the batch was cut
                features = self.encoder.prepare(work.owner.tokens, work.rows)
            try:
                return Flight(work, device, began, self.encoder.forward(features))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                return Failure(work, device, first_line(error))
        finally:
            turn.release()

    def _land(self, flights: deque[Flight[OwnerT]]) -> Iterator[Finished[OwnerT]]:
        """Wait for the oldest batch in flight; recompute it in pieces if it ran out of memory."""
        flight = flights.popleft()
        work = flight.work
        failure: Failure[OwnerT] | None = None
        try:
            vectors = flight.pending()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = Failure(work, flight.device, first_line(error))
        if failure is not None:
            while flights:
                yield from self._land(flights)
            yield from self._climb(self._recover(failure)[::-1], flights)
            return
        now = perf_counter()
        # Batches overlap: each second is counted for one of them only.
        began, self._landed = max(flight.began, self._landed), now
        lengths = work.owner.tokens.lengths[work.rows]
        fact = BatchDone(
            device=str(flight.device),
            items=len(work.rows),
            tokens=int(lengths.sum()),
            padded_tokens=self.encoder.rules.cost(lengths),
            seconds=max(0.0, now - began),
        )
        emit(self._on_event, fact)
        budget = self._budget
        if budget.device == fact.device and (change := budget.finished(fact.padded_tokens)):
            emit(self._on_event, change)
        yield Finished(work.owner, work.rows, vectors, fact)

    def _recover(self, failure: Failure[OwnerT]) -> list[Work[OwnerT]]:
        """Free memory, and return the batches to compute instead, longest rows first."""
        work = Work(failure.work.owner, failure.work.rows)
        turn = self._fair_lock.take()
        try:
            if str(failure.device) != str(self.encoder.device):
                return [work]  # the encoder has moved: not tried on the new device yet
            release(failure.device)
            if len(work.rows) == 1 and not failure.work.again:
                return [replace(work, again=True)]
            if len(work.rows) == 1:
                self._step_down(failure)
                return [work]
            cost = self.encoder.rules.cost(work.owner.tokens.lengths[work.rows])
            if change := self._budget.failed(cost):
                emit(self._on_event, change)
            return self._cut(work, cost)
        finally:
            turn.release()

    def _step_down(self, failure: Failure[OwnerT]) -> None:
        """Move to the next device, as a single item does not fit on this one."""
        device, owner, row = failure.device, failure.work.owner, int(failure.work.rows[0])
        length = owner.tokens.lengths[row]
        if not self._next:
            owners = owner.tokens.owners
            item = owner.start + (row if owners is None else int(owners[row]))
            if device.kind == "remote":  # lengths are estimates, and its memory is not seen here
                raise EngineOutOfMemoryError(
                    f"item {item} (about {length} tokens) does not fit on {device.name} even "
                    f"alone: {failure.problem}. Shorten it."
                )
            other = "" if device.kind == "cpu" else ", or allow another device with fallback='cpu'"
            raise EngineOutOfMemoryError(
                f"item {item} ({length} tokens) does not fit on {device} even alone "
                f"({free_memory(device)} bytes free): {failure.problem}. Shorten it, or lower the "
                f"model's window{other}."
            )
        self._move(f"one item of {length} tokens does not fit: {failure.problem}")

    def _first(self) -> Budget:
        """Return the budget to begin with; move on if the device has no room for one token."""
        try:
            return self._budgets.first(self.encoder)
        except Exception as error:
            if not self._next or not is_out_of_memory(error):
                raise
            problem = first_line(error)
        self._move(f"not even one token fits beside the model: {problem}")
        return self._budget

    def _move(self, reason: str) -> None:
        source, target = self.encoder.device, self._next.pop(0)
        self.encoder.to(target)
        release(source)  # the weights have left it, and their memory stays in the cache
        self._budget = self._first()
        self.fallbacks.append(
            warn_fallback(
                self._on_event,
                what=self._what,
                source=str(source),
                target=str(target),
                reason=until_closed(reason, source),
            )
        )

    def _cut(self, work: Work[OwnerT], cost: int) -> list[Work[OwnerT]]:
        """Cut a batch into pieces of about the budget; sorted rows are of about the same length."""
        step = max(1, min(len(work.rows) - 1, len(work.rows) * self.budget // cost))
        return [
            Work(work.owner, work.rows[start : start + step])
            for start in range(0, len(work.rows), step)
        ]


def until_closed(reason: str, device: Device) -> str:
    """Return the reason for a fallback, with how the model returns to the device."""
    return f"{reason}; after close(), the next use tries {device} again"
