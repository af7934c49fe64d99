"""An encoder that runs out of memory as a GPU does, for machines without one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors, done
from langchain_gpu.hardware.devices import Device

GPU = Device(kind="cuda", index=0, name="a card", reason="the test says so", dtype="float16")
CPU = Device(kind="cpu", name="a processor", reason="the test says so")


class FakeEncoder:
    """Items are integers: item n has n tokens and the vector (n, 2n, 3n).

    Args:
        capacity: Padded tokens each device can hold; a larger batch raises the real
            `torch.OutOfMemoryError`.
        device: Where it starts.
        delay: Seconds a forward pass takes.
    """

    def __init__(
        self, capacity: dict[str, int] | None = None, device: Device = GPU, delay: float = 0.0
    ) -> None:
        self.device = device
        self.dimension = 3
        self.capacity = capacity or {}
        self.delay = delay
        self.forwards: list[tuple[str, int]] = []  # device and rows of each that finished
        self.failures = 0
        self.computed: list[int] = []  # every item whose row came back
        self.closed = False
        self.rules = BatchRules()
        self._busy = threading.Lock()

    def tokenize(self, items: Sequence[int], options: Any, *, start: int = 0) -> Tokenized:
        for index, item in enumerate(items):
            if not isinstance(item, int):
                raise TypeError(f"item {start + index} is {type(item).__name__}, not int")
        return Tokenized(np.asarray(items, np.int64), np.asarray(items))

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> Any:
        return tokens.payload[rows]

    def forward(self, features: Any) -> Pending:
        assert self._busy.acquire(blocking=False), "two forward passes on one device at once"
        try:
            time.sleep(self.delay)
            padded = len(features) * max(1, int(features.max()))
            if padded > self.capacity.get(str(self.device), 10**9):
                self.failures += 1
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {padded} tokens."
                )
            self.forwards.append((str(self.device), len(features)))
            self.computed += features.tolist()
            return done(np.outer(features, [1, 2, 3]).astype(np.float32))
        finally:
            self._busy.release()

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        raise AssertionError("items of one row each have nothing to merge")

    def to(self, device: Device) -> None:
        self.device = device

    def close(self) -> None:
        self.closed = True


class Flying(FakeEncoder):
    """Batches run on threads of their own; running out of memory shows only when they land."""

    def __init__(self, in_flight: int, capacity: dict[str, int] | None = None) -> None:
        super().__init__(capacity)
        self.rules = BatchRules(in_flight=in_flight)
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(16)

    def forward(self, features: Any) -> Pending:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        future = self._pool.submit(self._compute, features)

        def land() -> Vectors:
            try:
                return future.result()
            finally:
                with self._lock:
                    self._now -= 1

        return land

    def _compute(self, features: NDArray[np.int64]) -> Vectors:
        padded = len(features) * int(features.max())
        if padded > self.capacity.get(str(self.device), 10**9):
            self.failures += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {padded} tokens.")
        with self._lock:
            self.computed += features.tolist()
        return np.outer(features, [1, 2, 3]).astype(np.float32)


def expected(items: Sequence[int]) -> Vectors:
    return np.outer(items, [1, 2, 3]).astype(np.float32)
