"""BM25 over documents that are added and removed.

Scores are those of Lucene's formula, and of the library bm25s: the sum over the question's words of

    idf * count / (count + K1 * (1 - B + B * length / mean length))
    idf = log(1 + (n - having + 0.5) / (having + 0.5))

bm25s computes them when it indexes, so a single new document means to index all again: 6.5 s of CPU
for 100,000 documents of 100 words. Here counts are kept (3.4 s, once), and scores computed for the
documents of the moment: adding costs what the new documents take, and a store that grew, shrank,
was saved and loaded answers as one that was built at once. So nothing is saved either: the first
such search of a loaded store counts its words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.postings import Mask, Postings, Rows, count, join
from langchain_gpu.search.words import split

K1 = 1.5
B = 0.75
CHUNK = 8192  # documents that are counted at once: bounds the memory of it

Scores = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class State:
    """The index of one moment. Threads may search it at once.

    Attributes:
        next_row: The row the next document gets.
        parts: Rows increase from part to part.
        alive: [n] of each part; documents that went are masked until parts are joined.
        numbers: Of words. Words that came later do no harm.
    """

    next_row: int
    parts: tuple[Postings, ...]
    alive: tuple[Mask, ...]
    numbers: dict[str, int]

    @cached_property
    def count(self) -> int:
        """Documents that are here."""
        return sum(int(mask.sum()) for mask in self.alive)

    @cached_property
    def rows(self) -> Rows:
        """[n], of everything, what is gone too."""
        return np.concatenate([np.empty(0, np.int64), *(part.rows for part in self.parts)])

    @cached_property
    def _damping(self) -> tuple[Scores, ...]:
        """[n] of each part: what a count is held against, longer texts more."""
        pairs = list(zip(self.parts, self.alive, strict=True))
        total = sum(int(part.lengths[mask].sum(dtype=np.int64)) for part, mask in pairs)
        mean = max(total / max(self.count, 1), 1e-9)
        return tuple(
            (K1 * (1 - B + B * part.lengths / mean)).astype(np.float32) for part in self.parts
        )

    def scores(self, text: str) -> Scores:
        """Return [n], the score of each of `rows`; 0 where no word is in common."""
        found = [np.zeros(len(part), dtype=np.float32) for part in self.parts]
        for word, times in Counter(split(text)).items():
            number = self.numbers.get(word)
            if number is not None:
                self._add(found, number, times)
        for scores, mask in zip(found, self.alive, strict=True):
            scores[~mask] = 0
        return np.concatenate([np.empty(0, np.float32), *found])

    def _add(self, found: list[Scores], number: int, times: int) -> None:
        entries = [part.find(number) for part in self.parts]
        having = sum(
            int(mask[entry[0]].sum())
            for entry, mask in zip(entries, self.alive, strict=True)
            if entry is not None
        )
        weight = times * np.log1p((self.count - having + 0.5) / (having + 0.5))
        for scores, entry, damping in zip(found, entries, self._damping, strict=True):
            if entry is not None:
                positions, counts = entry
                scores[positions] += np.float32(weight) * (counts / (counts + damping[positions]))


class BM25:
    """An index that follows a table of documents. Empty, and free, until it is first asked."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = Lock()
        self._state = State(0, (), (), _new_numbers())

    def is_at(self, next_row: int, count: int) -> bool:
        """Say whether it knows a table; rows only grow, so two numbers tell each moment of it."""
        state = self._state
        return (state.next_row, state.count) == (next_row, count)

    def follow(self, next_row: int, rows: Rows, texts: Sequence[str]) -> None:
        """Take over what came and went in a table.

        Args:
            next_row: The row its next document gets.
            rows: [n], increasing.
            texts: [n], the texts of these documents.
        """
        with self._lock:
            state = self._state
            stale = next_row < state.next_row
            if stale or (next_row == state.next_row and len(rows) >= state.count):
                return  # another thread was faster
            alive = tuple(np.isin(part.rows, rows, assume_unique=True) for part in state.parts)
            kept = sum(int(mask.sum()) for mask in alive)
            if 2 * kept < sum(map(len, alive)):  # so that words nobody has any more go too
                state, alive = State(0, (), (), _new_numbers()), ()
            first = int(np.searchsorted(rows, state.next_row))
            parts, masks = list(state.parts), list(alive)
            for start in range(first, len(rows), CHUNK):
                chunk = slice(start, start + CHUNK)
                parts.append(count(rows[chunk], map(split, texts[chunk]), state.numbers))
                masks.append(np.ones(len(parts[-1]), dtype=np.bool_))
                _join_small(parts, masks)
            self._state = State(next_row, tuple(parts), tuple(masks), state.numbers)

    def search(self, text: str, k: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """Return up to `k` rows with a word in common, best first; lower rows first among equals.

        Args:
            text: The question.
            k: At least 1.
            allowed: Rows that may be found, increasing; None for all.
        """
        state = self._state
        scores = state.scores(text)
        if allowed is not None:
            scores[~np.isin(state.rows, allowed, assume_unique=True)] = 0
        best = np.flatnonzero(scores)
        if len(best) > k:
            least = -np.partition(-scores[best], k - 1)[k - 1]
            best = best[scores[best] >= least]  # every equal, so that the lowest rows are kept
        best = best[np.argsort(-scores[best], kind="stable")][:k]
        return scores[best], state.rows[best]

    def scores(self, text: str, rows: Rows) -> Scores:
        """Return the scores of rows that are here."""
        state = self._state
        found: Scores = state.scores(text)[np.searchsorted(state.rows, rows)]
        return found


def _new_numbers() -> defaultdict[str, int]:
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    return numbers


def _join_small(parts: list[Postings], alive: list[Mask]) -> None:
    """Join the last parts, so that each is at least twice as large as the next."""
    while len(parts) > 1 and len(parts[-2]) < 2 * len(parts[-1]):
        parts[-2:] = [join(parts[-2:], alive[-2:])]
        alive[-2:] = [np.ones(len(parts[-1]), dtype=np.bool_)]


__all__ = ["BM25", "K1", "B"]
