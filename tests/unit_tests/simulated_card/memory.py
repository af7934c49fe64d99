"""The memory of the simulated cards: counted by storage, with an end."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch

GIB = 2**30


class Memory:
    """Bytes that tensors of a card hold.

    Args:
        index: Of the card.
        total: Its bytes.

    Attributes:
        total: Of the card.
        limit: Beyond which nothing more is given.
        allocated: Now.
        peak: The most since `reset_peak`.
    """

    def __init__(self, index: int, total: int) -> None:
        self._index = index
        self.total = self.limit = total
        self.allocated = self.peak = 0
        self._held: dict[int, list[int]] = {}  # address: tensors, bytes
        self._lock = threading.RLock()  # a tensor may be collected inside `hold`

    def hold(self, owner: Any, storage: Any) -> None:
        """Count a storage while `owner` lives.

        Raises:
            torch.OutOfMemoryError: It does not fit.
        """
        address, size = storage.data_ptr(), storage.nbytes()
        if not address:
            return
        with self._lock:
            if address not in self._held:
                if self.allocated + size > self.limit:
                    free = (self.limit - self.allocated) / 2**20
                    raise torch.OutOfMemoryError(
                        f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. "
                        f"GPU {self._index} has a total capacity of {self.total / GIB:.2f} GiB "
                        f"of which {free:.2f} MiB is free."
                    )
                self._held[address] = [0, size]
                self.allocated += size
                self.peak = max(self.peak, self.allocated)
            self._held[address][0] += 1
        weakref.finalize(owner, self._drop, address)

    @property
    def info(self) -> tuple[int, int]:
        """Bytes that are free, and all."""
        return self.limit - self.allocated, self.total

    def reset_peak(self) -> None:
        """Forget the most so far."""
        self.peak = self.allocated

    def _drop(self, address: int) -> None:
        with self._lock:
            held = self._held[address]
            held[0] -= 1
            if not held[0]:
                self.allocated -= held[1]
                del self._held[address]


MEMORIES = (Memory(0, 80 * GIB), Memory(1, 24 * GIB))
MEMORY = MEMORIES[0]
