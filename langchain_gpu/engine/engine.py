"""The engine: items in, one float32 row per item out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np

from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.collector import Collector
from langchain_gpu.engine.encoder import Encoder, Tokenized, Vectors
from langchain_gpu.engine.ladder import Ladder
from langchain_gpu.engine.pipeline import FIRST_CHUNK, Pipeline, Progress, Tokenize
from langchain_gpu.engine.report import Rows, Tally
from langchain_gpu.events import Listener
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import release

ItemT = TypeVar("ItemT")


class Engine(Generic[ItemT]):
    """Runs an encoder, or one per device, over sequences of any length.

    Args:
        encoders: One per device, all of the same model.
        budgets: Computed tokens per batch, by device.
        fallback: Devices an encoder may move to when one item alone does not fit.
        on_event: Called for batches, fallbacks and budget changes.
        what: What messages call the work.

    Safe to call from several threads: `run` takes turns on each device, batch by batch, and `call`
    and `submit` merge small calls into shared batches.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        *,
        budgets: Budgets,
        fallback: Sequence[Device] = (),
        on_event: Listener | None = None,
        what: str = "embedding",
    ) -> None:
        if not encoders:
            raise ValueError("an engine needs at least one encoder")
        self._encoder = encoders[0]
        self._ladders = [Ladder(each, budgets, fallback, on_event, what) for each in encoders]
        self._collector: Collector[ItemT] = Collector(self.run, most=FIRST_CHUNK)

    @property
    def devices(self) -> list[Device]:
        """Where the forward passes run now."""
        return [ladder.encoder.device for ladder in self._ladders]

    @property
    def dimension(self) -> int:
        """Width of a row."""
        return self._encoder.dimension

    def run(
        self,
        items: Sequence[ItemT],
        options: Any = None,
        *,
        max_items: int | None = None,
        out: Vectors | None = None,
        progress: Progress | None = None,
        tokenize: Tokenize | None = None,
        tally: Tally | None = None,
    ) -> Rows:
        """Compute one row per item.

        Args:
            items: Texts, pairs or whatever the encoder takes.
            options: Passed to `Encoder.tokenize`, for example a prompt.
            max_items: Items per batch; None for no limit.
            out: A float32 buffer of shape (len(items), dimension) to write into.
            progress: Called with the number of items finished since the last call.
            tokenize: Takes the place of `Encoder.tokenize`, for items that are tokens already:
                called with items and the position of the first.
            tally: Counts this run too, even if it fails; None for a count of its own.

        Raises:
            EngineOutOfMemoryError: An item does not fit on any device the policy allows.
            TypeError: An item is not what the encoder takes.
            ValueError: An item cannot be tokenized, or `out` has another shape or type.
        """
        began = perf_counter()
        result = self._buffer(len(items), out)
        if tokenize is None:

            def tokenize(part: Sequence[Any], start: int) -> Tokenized:
                return self._encoder.tokenize(part, options, start=start)

        pipeline = Pipeline(
            self._encoder, self._ladders, max_items, tokenize, progress, tally or Tally()
        )
        earlier = [len(ladder.fallbacks) for ladder in self._ladders]
        try:
            if items:
                pipeline.run(items, result)
        finally:
            for ladder, count in zip(self._ladders, earlier, strict=True):
                pipeline.tally.fallbacks += ladder.fallbacks[count:]
        return Rows(result, pipeline.tally.report(items=len(items), seconds=perf_counter() - began))

    def call(self, items: Sequence[ItemT], options: Any = None) -> Rows:
        """Compute one row per item of a small call, together with others that wait meanwhile.

        Args:
            items: A few; a large call is better off with `run`.
            options: As in `run`.

        Returns:
            Rows whose report counts the shared run, but for items and truncated.

        Raises:
            EngineOutOfMemoryError: As in `run`. An error about an item reaches the call it belongs
                to only; any other, all those that wait for the same run.
            TypeError: As in `run`.
            ValueError: As in `run`.
        """
        return self._collector.call(items, options)

    def submit(self, items: Sequence[ItemT], options: Any = None) -> Future[Rows]:
        """Do what `call` does without waiting. Canceling the future disturbs nobody else."""
        return self._collector.submit(items, options)

    def close(self) -> None:
        """Free the models' memory, once merged calls whose callers have gone are done."""
        self._collector.when_done(self._free)

    def _free(self) -> None:
        for ladder in self._ladders:
            device = ladder.encoder.device
            ladder.encoder.close()
            release(device)

    def _buffer(self, count: int, out: Vectors | None) -> Vectors:
        shape = (count, self.dimension)
        if out is None:
            return np.empty(shape, np.float32)
        if out.shape != shape or out.dtype != np.float32:
            raise ValueError(f"out must be float32 of shape {shape}, not {out.dtype} {out.shape}")
        return out
