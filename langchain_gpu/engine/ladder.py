"""Running out of memory is a step, not an end.

The steps, in this order: split only the batch that failed and keep every finished row; let the
halved size become the device's budget; free the device's cache, outside the `except` block because
inside it the traceback still holds the tensors; at one item, move to the next device; raise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.encoder import Encoder, Tokenized, Vectors
from langchain_gpu.events import (
    BatchDone,
    BudgetChanged,
    FellBack,
    Listener,
    emit,
    warn_fallback,
)
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release


class EngineOutOfMemoryError(MemoryError):
    """One item alone does not fit into the memory of any device the policy allows."""


class Ladder:
    """One encoder, its learned budget, and the devices it may fall back to.

    Args:
        encoder: The model on its device.
        budget_for: Padded tokens per batch to start with on a device.
        fallback: Devices to move to, in order, when one item alone does not fit.
        on_event: Called for batches, fallbacks and budget changes.

    Attributes:
        budget: Padded tokens per batch now; it only shrinks while the device stays the same.
        fallbacks: Moves so far.
    """

    def __init__(
        self,
        encoder: Encoder,
        budget_for: Callable[[Device], int],
        fallback: Sequence[Device] = (),
        on_event: Listener | None = None,
    ) -> None:
        self.encoder = encoder
        self.budget = budget_for(encoder.device)
        self.fallbacks: list[FellBack] = []
        self._budget_for = budget_for
        self._next = list(fallback)
        self._on_event = on_event
        # One batch at a time: callers on other threads wait here instead of fighting for memory.
        self._turn = threading.Lock()

    def run(
        self, tokens: Tokenized, rows: NDArray[np.int64], features: object
    ) -> Iterator[tuple[NDArray[np.int64], Vectors, BatchDone]]:
        """Compute one planned batch in as many steps as it takes.

        Args:
            tokens: What the rows are rows of.
            rows: The batch, longest row first.
            features: The batch as `encoder.prepare` built it.

        Yields:
            Finished rows, their vectors, and the facts of the forward pass.

        Raises:
            EngineOutOfMemoryError: A single item does not fit anywhere.
        """
        pending: list[tuple[NDArray[np.int64], object | None]] = [(rows, features)]
        while pending:
            part, ready = pending.pop()
            width = max(1, int(tokens.lengths[part].max()))
            if len(part) > 1 and len(part) * width > self.budget:
                # Planned before the budget shrank. Reversed: the longest piece goes first.
                pending += [(piece, None) for piece in reversed(self._cut(part, width))]
                continue
            with self._turn:
                began = perf_counter()
                vectors, problem = self._attempt(
                    self.encoder.prepare(tokens, part) if ready is None else ready
                )
                seconds = perf_counter() - began
                if vectors is None:
                    release(self.encoder.device)
                    self._step_down(tokens, part, width, problem)
                    pending.append((part, None))
                    continue
                device = str(self.encoder.device)
            fact = BatchDone(
                device=device,
                items=len(part),
                tokens=int(tokens.lengths[part].sum()),
                padded_tokens=len(part) * width,
                seconds=seconds,
            )
            emit(self._on_event, fact)
            yield part, vectors, fact

    def _attempt(self, features: object) -> tuple[Vectors | None, str]:
        try:
            return self.encoder.forward(features), ""
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            lines = str(error).strip().splitlines()
            return None, lines[0] if lines else type(error).__name__

    def _step_down(
        self, tokens: Tokenized, part: NDArray[np.int64], width: int, problem: str
    ) -> None:
        device = self.encoder.device
        if len(part) > 1:
            old, self.budget = self.budget, max(1, len(part) * width // 2)
            emit(
                self._on_event,
                BudgetChanged(device=str(device), old_tokens=old, new_tokens=self.budget),
            )
            return
        if not self._next:
            item = int(part[0]) if tokens.owners is None else int(tokens.owners[part[0]])
            raise EngineOutOfMemoryError(
                f"item {item} ({width} tokens) does not fit on {device} even alone "
                f"({free_memory(device)} bytes free): {problem}. Shorten it, lower the model's "
                f"window, or allow another device with fallback='cpu'."
            )
        target = self._next.pop(0)
        self.encoder.to(target)
        self.budget = self._budget_for(target)
        self.fallbacks.append(
            warn_fallback(
                self._on_event,
                what="embedding",
                source=str(device),
                target=str(target),
                reason=f"one item of {width} tokens does not fit: {problem}",
            )
        )

    def _cut(self, part: NDArray[np.int64], width: int) -> list[NDArray[np.int64]]:
        step = max(1, self.budget // width)
        return [part[start : start + step] for start in range(0, len(part), step)]
