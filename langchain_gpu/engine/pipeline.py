"""One run of the engine: chunks are tokenized, batches prepared and computed, rows written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import Plan
from langchain_gpu.engine.encoder import Encoder, Tokenized, Vectors
from langchain_gpu.engine.ladder import Ladder
from langchain_gpu.engine.prefetch import prefetch, submit
from langchain_gpu.engine.report import Tally
from langchain_gpu.engine.work import Finished, Work

Progress = Callable[[int], None]
Tokenize = Callable[[Sequence[Any], int], Tokenized]

# Items tokenized together. The first chunk is small so that the device starts early, later ones
# are large so that sorting has something to choose from; 8,192 texts of 512 tokens are 17 MB.
FIRST_CHUNK = 1024
LARGEST_CHUNK = 8192
# Up to this many items, threads cost more than the overlap gains.
_INLINE = 32


@dataclass(slots=True)
class _Chunk:
    """A slice of the items, tokenized.

    Attributes:
        start: Position of its first item.
        tokens: Its rows.
        vectors: Where rows are written: `result` itself, or a buffer where items have several
            windows, to be merged into `result`.
        result: Its slice of the caller's array.
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


@dataclass(slots=True)
class Pipeline:
    """One call of `Engine.run`: tokenizing, preparing and computing overlap, on threads."""

    encoder: Encoder
    ladders: list[Ladder]
    max_items: int | None
    tokenize: Tokenize
    progress: Progress | None
    tally: Tally
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, items: Sequence[Any], result: Vectors) -> None:
        """Compute every item, and write its row into `result`, shape (items, dimension)."""
        chunks = self._tokenize(items, result)
        if len(items) <= _INLINE:
            ladder = min(self.ladders, key=lambda each: each.callers)
            self._drain(ladder, self._prepare(_Feed(chunks, self.max_items), ladder))
            return
        # Closed here: after an error the traceback would keep the feeder threads alive.
        with closing(prefetch(chunks, 1)) as tokenized:
            feed = _Feed(tokenized, self.max_items)
            if len(self.ladders) == 1:
                self._pull(feed, self.ladders[0])
                return
            with ThreadPoolExecutor(len(self.ladders), "langchain-gpu-device") as pool:
                try:
                    futures = [
                        future
                        for each in self.ladders
                        if (future := submit(pool, self._share, feed, each)) is not None
                    ]
                    if not futures:
                        self._pull(feed, self.ladders[0])
                    for future in futures:
                        future.result()
                except BaseException:
                    feed.stop()  # after Ctrl-C the devices would go on to the last item
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
        """Compute batches beside other devices; the first that fails stops all of them."""
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
        else:  # items with several windows are complete when their whole chunk is
            items = len(chunk.result) if complete else 0
            if complete:
                chunk.result[:] = self.encoder.merge(chunk.tokens, chunk.vectors)
        if self.progress is not None and items:
            self.progress(items)


class _Feed:
    """A queue of chunks, from which every device takes batches of its own budget."""

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
        """Hand out no more batches."""
        with self._lock:
            self._chunks, self._current = iter(()), None


__all__ = ["FIRST_CHUNK", "LARGEST_CHUNK", "Pipeline", "Progress", "Tokenize"]
