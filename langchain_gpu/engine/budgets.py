"""How many tokens a batch may hold: a default, then measured, then corrected by failures.

The budget is the smaller of two: the tokens that keep the device busy, and those that fit into its
memory. Where memory can be measured, one forward pass at the largest shape gives the bytes per
token, and the free memory then gives the first budget. It grows when other processes free memory,
and the out-of-memory ladder halves it when a batch fails. Later engines of this process start with
what was learned, and may grow beyond it: another process may have had the memory meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

from langchain_gpu.engine.encoder import Encoder
from langchain_gpu.events import BudgetChanged
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release
from langchain_gpu.utils.backoff import Backoff

# Computed tokens per batch that keep a device busy. On a CPU a batch's activations should stay in
# the cache; a GPU wants enough work to fill it; a server plans for itself.
DEFAULTS = {"cpu": 2048, "remote": 1 << 20}
GPU_DEFAULT = 16384
# Of the memory that is free, how much a batch may take: other processes, and fragments.
SHARE = 0.8


@runtime_checkable
class Probed(Protocol):
    """An encoder that can measure the memory of a batch."""

    def peak_bytes(self, tokens: int) -> int | None:
        """Run one batch of `tokens` at the largest shape; return the peak bytes it took.

        None where that cannot be measured. Raises what the runtime raises when memory runs out.
        """


class Budget:
    """Computed tokens per batch on one device: down when memory runs out, up with `Backoff`.

    Args:
        device: Its short name.
        tokens: To begin with.
        most: What it never goes above.
        learn: Called with a budget that later engines should begin with.
        room: Returns the tokens that fit into the memory that is free when it is called; None where
            free memory cannot be measured.

    Attributes:
        tokens: The budget now.
    """

    def __init__(
        self,
        device: str,
        tokens: int,
        most: int,
        learn: Callable[[int], None] | None = None,
        room: Callable[[], int] | None = None,
    ) -> None:
        self.device = device
        self.tokens = tokens
        self._most = most
        self._learn = learn
        self._room = room
        self._believed = tokens  # assumed to fit while no other process takes the memory
        self._backoff = Backoff()
        self._lock = threading.Lock()  # batches land on the threads of their callers

    def failed(self, cost: int) -> BudgetChanged | None:
        """Go down to half of a batch of several items that did not fit.

        A batch that was larger than the present budget changes nothing. Where a batch fails that is
        less than half of what was assumed to fit, another process has the memory: later engines do
        not learn from that.
        """
        half = max(1, cost // 2)
        with self._lock:
            if half >= self.tokens:
                return None
            if 2 * cost > self._believed:
                self._believed = half
                if self._learn is not None:
                    self._learn(half)
            self._backoff.failed()
            return self._set(half)

    def finished(self, cost: int) -> BudgetChanged | None:
        """Count a batch that succeeded, if it was a full one; grow after enough of them."""
        with self._lock:
            if self.tokens >= self._most or 2 * cost <= self.tokens:
                return None
            if not self._backoff.succeeded():
                return None
            more = min(self._most, 2 * self.tokens)
            if self._room is not None:
                worth = min(more, self.tokens + max(1, self.tokens // 4))
                more = min(more, self._room())
                if more < worth:  # free memory fluctuates: a small gain is none
                    return None
            self._believed = max(self._believed, more)
            return self._set(more)

    def _set(self, tokens: int) -> BudgetChanged:
        old, self.tokens = self.tokens, tokens
        return BudgetChanged(device=self.device, old_tokens=old, new_tokens=tokens)


class Budgets:
    """Computed tokens per batch, by device, for one model.

    Args:
        model: Identifies the model, for what was learned about it.
        fixed: The user's own number, taken as it is; None for a default, measured.
        planned: What a plan gives each device, by its short name; an upper bound of the default.
        firm: Whether the plan has given the rest of the memory to other models. Otherwise it is an
            estimate, and the budget may grow beyond it where free memory can be measured.
    """

    def __init__(
        self,
        model: object,
        *,
        fixed: int | None = None,
        planned: Mapping[str, int] | None = None,
        firm: bool = False,
    ) -> None:
        self._model = model
        self._fixed = fixed
        self._planned = dict(planned or {})
        self._firm = firm

    def first(self, encoder: Encoder) -> Budget:
        """Return the budget to begin with where the encoder is now.

        Raises:
            Exception: What the runtime raises when there is no memory for one token.
        """
        device = encoder.device
        wanted = self._fixed or default_budget(device)
        planned = min(wanted, self._planned.get(str(device), wanted))
        tokens, room = planned, None
        if self._fixed is None and isinstance(encoder, Probed):
            tokens, room = _measure(encoder.peak_bytes, device, planned)
        most = tokens if room is None else planned if self._firm else wanted
        with _lock:
            tokens = min(tokens, _learned.get((str(device), self._model), tokens))
        return Budget(str(device), tokens, most, partial(self.learn, device), room)

    def learn(self, device: Device, tokens: int) -> None:
        """Remember that more than `tokens` did not fit; the remembered number only decreases."""
        key = (str(device), self._model)
        with _lock:
            _learned[key] = min(tokens, _learned.get(key, tokens))


_learned: dict[tuple[str, object], int] = {}
_lock = threading.Lock()


def default_budget(device: Device) -> int:
    """Return the computed tokens per batch that keep `device` busy."""
    return DEFAULTS.get(device.kind, GPU_DEFAULT)


def _measure(
    peak_bytes: Callable[[int], int | None], device: Device, wanted: int
) -> tuple[int, Callable[[], int] | None]:
    """Return `wanted`, or as many tokens as fit into the free memory by measurement.

    The second value is a function that returns how many fit when it is called; None where the
    device's memory cannot be measured.
    """
    tokens = wanted
    while True:
        try:
            taken = peak_bytes(tokens)
        except Exception as error:
            if not is_out_of_memory(error) or tokens == 1:
                raise
            taken = -1
        release(device)  # outside the except block, where the traceback held the tensors
        if taken != -1:
            break
        tokens //= 2
    if not taken or free_memory(device) is None:
        return tokens, None
    share = SHARE * tokens / taken

    def room() -> int:
        return max(1, int((free_memory(device) or 0) * share))

    return min(tokens, room()), room
