"""How many tokens a batch may hold: guessed, measured, learned.

A budget that fills the device is set by speed, one that fits is set by memory; the smaller one
counts. Memory is measured where the device can tell: one forward pass at the largest shape gives
the bytes a token takes. The out-of-memory ladder corrects the rest, and what it learned is
remembered for as long as the process lives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from langchain_gpu.engine.encoder import Encoder
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release

# Computed tokens per batch that keep a device busy. On a CPU a batch's activations should stay in
# the cache; a GPU wants enough work to fill it; a server plans for itself.
DEFAULTS = {"cpu": 2048, "remote": 1 << 20}
GPU_DEFAULT = 16384
# Of the memory that is free, how much a batch may take: other processes, and fragments.
SHARE = 0.8


@runtime_checkable
class Probed(Protocol):
    """An encoder that can tell what a batch takes."""

    def peak_bytes(self, tokens: int) -> int | None:
        """Run one batch of `tokens` at the largest shape; return the bytes it took meanwhile.

        None where nobody can tell. Raises what the runtime raises when memory runs out.
        """


class Budgets:
    """Computed tokens per batch, by device, for one model.

    Args:
        model: What tells models apart, for what was learned about them.
        fixed: The user's own number, taken as it is; None for a default, measured.
        planned: What a plan gives each device, by its short name; the default is not above it.
    """

    def __init__(
        self,
        model: object,
        *,
        fixed: int | None = None,
        planned: Mapping[str, int] | None = None,
    ) -> None:
        self._model = model
        self._fixed = fixed
        self._planned = dict(planned or {})

    def first(self, encoder: Encoder) -> int:
        """Return the budget to begin with where the encoder is now."""
        key = (str(encoder.device), self._model)
        with _lock:
            learned = _learned.get(key)
        default = self._fixed or default_budget(encoder.device)
        default = min(default, self._planned.get(str(encoder.device), default))
        if learned is not None:
            return min(learned, default)
        if self._fixed is not None or not isinstance(encoder, Probed):
            return default
        fitting = _measure(encoder.peak_bytes, encoder.device, default)
        if fitting < default:
            self.learn(encoder.device, fitting)
        return fitting

    def learn(self, device: Device, tokens: int) -> None:
        """Remember that more than `tokens` did not fit."""
        with _lock:
            _learned[(str(device), self._model)] = tokens


_learned: dict[tuple[str, object], int] = {}
_lock = threading.Lock()


def default_budget(device: Device) -> int:
    """Return the computed tokens per batch that keep `device` busy."""
    return DEFAULTS.get(device.kind, GPU_DEFAULT)


def _measure(peak_bytes: Callable[[int], int | None], device: Device, wanted: int) -> int:
    """Return `wanted`, or as many tokens as fit into the free memory by measurement."""
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
    free = free_memory(device)
    if not taken or free is None:
        return tokens
    return max(1, min(tokens, int(free * SHARE * tokens / taken)))
