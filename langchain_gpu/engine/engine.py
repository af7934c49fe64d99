"""Items to rows: tokenize, plan, prepare, forward, write, all at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import Plan
from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.collector import Collector
from langchain_gpu.engine.encoder import Encoder, Tokenized, Vectors
from langchain_gpu.engine.ladder import Finished, Ladder, Work
from langchain_gpu.engine.prefetch import prefetch
from langchain_gpu.engine.report import Rows, Tally
from langchain_gpu.events import FellBack, Listener
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import release

ItemT = TypeVar("ItemT")
Progress = Callable[[int], None]
Tokenize = Callable[[Sequence[Any], int], Tokenized]

# Items tokenized together. The first chunk is small so that the device starts early, later ones
# are large so that sorting has something to choose from; 8,192 texts of 512 tokens are 17 MB.
FIRST_CHUNK = 1024
LARGEST_CHUNK = 8192
# Below this many items the threads cost more than they hide.
_INLINE = 32


@dataclass(slots=True)
class _Chunk:
    """A slice of the items on its way.

    Attributes:
        start: Position of its first item.
        tokens: Its rows.
        vectors: Where rows are written: the result itself, or a buffer of windows to fold.
        result: Its slice of what the caller gets.
        missing: Rows that are not written yet.
    """

    start: int
    tokens: Tokenized
    vectors: Vectors
    result: Vectors
    missing: int

    @classmethod
    def of(cls, start: int, tokens: Tokenized, result: Vectors) -> _Chunk:
        rows = len(tokens.lengths)
        windows = np.empty((rows, result.shape[1]), np.float32)
        return cls(start, tokens, result if tokens.owners is None else windows, result, rows)


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

    @property
    def fallbacks(self) -> list[FellBack]:
        """Every move to another device since the engine was built."""
        return [move for ladder in self._ladders for move in ladder.fallbacks]

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

        run = _Run(self._encoder, self._ladders, max_items, tokenize, progress, tally or Tally())
        moves = len(self.fallbacks)
        try:
            if items:
                run.go(items, result)
        finally:
            run.tally.fallbacks += self.fallbacks[moves:]
        return Rows(result, run.tally.report(items=len(items), seconds=perf_counter() - began))

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
        """Do what `call` does without waiting. Cancelling the future disturbs nobody else."""
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


@dataclass(slots=True)
class _Run:
    """One call of `Engine.run`: what its threads share."""

    encoder: Encoder
    ladders: list[Ladder]
    max_items: int | None
    tokenize: Tokenize
    progress: Progress | None
    tally: Tally
    lock: threading.Lock = field(default_factory=threading.Lock)

    def go(self, items: Sequence[Any], result: Vectors) -> None:
        chunks = self._tokenize(items, result)
        if len(items) <= _INLINE:
            ladder = min(self.ladders, key=lambda each: each.callers)
            self._drain(ladder, self._prepare(_Feed(chunks, self.max_items), ladder))
            return
        # Closed here: after an error the traceback would keep the feeders alive.
        with closing(prefetch(chunks, 1)) as tokenized:
            feed = _Feed(tokenized, self.max_items)
            if len(self.ladders) == 1:
                self._pull(feed, self.ladders[0])
                return
            with ThreadPoolExecutor(len(self.ladders), "langchain-gpu-device") as pool:
                try:
                    futures = [pool.submit(self._share, feed, each) for each in self.ladders]
                    for future in futures:
                        future.result()
                except BaseException:
                    feed.stop()  # an interrupt comes here: the devices would go on to the last item
                    raise

    def _tokenize(self, items: Sequence[Any], result: Vectors) -> Iterator[_Chunk]:
        start, size = 0, FIRST_CHUNK
        while start < len(items):
            stop = min(len(items), start + size)
            began = perf_counter()
            tokens = self.tokenize(items[start:stop], start)
            with self.lock:
                self.tally.tokenize_seconds += perf_counter() - began
                self.tally.truncated += (tokens.truncated + start).tolist()
            yield _Chunk.of(start, tokens, result[start:stop])
            start, size = stop, min(size * 2, LARGEST_CHUNK)

    def _prepare(self, feed: _Feed, ladder: Ladder) -> Iterator[Work[_Chunk]]:
        while (taken := feed.take(ladder)) is not None:
            chunk, rows = taken
            device = ladder.encoder.device  # read first: it may move while the batch is built
            yield Work(chunk, rows, ladder.encoder.prepare(chunk.tokens, rows), device)

    def _share(self, feed: _Feed, ladder: Ladder) -> None:
        """Take work beside other devices; the first one that fails ends the work of all."""
        try:
            self._pull(feed, ladder)
        except BaseException:
            feed.stop()
            raise

    def _pull(self, feed: _Feed, ladder: Ladder) -> None:
        with closing(prefetch(self._prepare(feed, ladder), 2)) as works:
            self._drain(ladder, works)

    def _drain(self, ladder: Ladder, works: Iterable[Work[_Chunk]]) -> None:
        for finished in ladder.run(works):
            self._write(finished)

    def _write(self, finished: Finished[_Chunk]) -> None:
        chunk, rows = finished.owner, finished.rows
        chunk.vectors[rows] = finished.vectors
        with self.lock:
            self.tally.add(finished.fact)
            chunk.missing -= len(rows)
            complete = chunk.missing == 0
        if chunk.tokens.owners is None:
            items = len(rows)
        else:  # windows count when their chunk is whole and they are folded into items
            items = len(chunk.result) if complete else 0
            if complete:
                chunk.result[:] = self.encoder.merge(chunk.tokens, chunk.vectors)
        if self.progress is not None and items:
            self.progress(items)


class _Feed:
    """Chunks, of which every device takes batches of the size that suits it."""

    def __init__(self, chunks: Iterator[_Chunk], max_items: int | None) -> None:
        self._chunks = chunks
        self._max_items = max_items
        self._current: tuple[_Chunk, Plan] | None = None
        self._lock = threading.Lock()

    def take(self, ladder: Ladder) -> tuple[_Chunk, NDArray[np.int64]] | None:
        """Return the rows of one batch and their chunk, None when there are no more."""
        with self._lock:
            while True:
                if self._current is not None:
                    chunk, plan = self._current
                    batch = plan.take(
                        ladder.budget, max_items=self._max_items, rules=ladder.encoder.rules
                    )
                    if batch is not None:
                        return chunk, batch.rows
                following = next(self._chunks, None)
                if following is None:
                    self._current = None
                    return None
                self._current = following, Plan(following.tokens.lengths)

    def stop(self) -> None:
        """Give nothing more to anybody."""
        with self._lock:
            self._chunks, self._current = iter(()), None
