"""An immutable segment of a BM25 index: how often which words occur in which rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Numbers = NDArray[np.int32]
Counts = NDArray[np.uint16]
Mask = NDArray[np.bool_]

_MOST = 2**16 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The words of n documents, sorted by word.

    Attributes:
        rows: [n], increasing.
        lengths: [n], words of each document, repeated ones too.
        words: [w], the numbers of the words that occur, increasing.
        starts: [w + 1], where each word's entries begin.
        positions: [entries], increasing for each word: which document of this part.
        counts: [entries], how often the word stands there; 65,535 and more are the same.
    """

    rows: Rows
    lengths: Numbers
    words: Numbers
    starts: NDArray[np.int64]
    positions: Numbers
    counts: Counts

    def __len__(self) -> int:
        """Count the documents."""
        return len(self.rows)

    def find(self, word: int) -> tuple[Numbers, Counts] | None:
        """Return the positions and counts of a word, None if it is nowhere."""
        place = int(np.searchsorted(self.words, word))
        if place == len(self.words) or self.words[place] != word:
            return None
        entries = slice(self.starts[place], self.starts[place + 1])
        return self.positions[entries], self.counts[entries]


def count(rows: Rows, texts: Iterable[Sequence[str]], numbers: Mapping[str, int]) -> Postings:
    """Count the words of documents.

    Args:
        rows: [n], increasing.
        texts: The words of each document.
        numbers: Gives each word its number, new ones too.
    """
    found: list[int] = []
    lengths = np.empty(len(rows), dtype=np.int32)
    for position, text in enumerate(texts):
        found.extend(map(numbers.__getitem__, text))
        lengths[position] = len(text)
    stream = np.array(found, dtype=np.int64)
    # One number for word and position: sorting it sorts by both.
    keys = stream * len(rows) + np.repeat(np.arange(len(rows)), lengths)
    keys, counts = np.unique(keys, return_counts=True)
    words, positions = np.divmod(keys, max(len(rows), 1))
    return _pack(rows, lengths, words.astype(np.int32), positions.astype(np.int32), counts)


def join(parts: Sequence[Postings], alive: Sequence[Mask]) -> Postings:
    """Return one part instead of several, without the documents that are not alive.

    Args:
        parts: Their rows increase from part to part.
        alive: [n] of each part.
    """
    words, positions, counts = [], [], []
    shift = 0
    for part, mask in zip(parts, alive, strict=True):
        moved = np.cumsum(mask, dtype=np.int64) - 1 + shift  # where each document comes to stand
        kept = mask[part.positions]
        words.append(np.repeat(part.words, np.diff(part.starts))[kept])
        positions.append(moved[part.positions[kept]].astype(np.int32))
        counts.append(part.counts[kept])
        shift += int(mask.sum())
    everything = np.concatenate(words)
    order = np.argsort(everything, kind="stable")  # runs that are sorted: nearly a merge
    pairs = list(zip(parts, alive, strict=True))
    return _pack(
        np.concatenate([part.rows[mask] for part, mask in pairs]),
        np.concatenate([part.lengths[mask] for part, mask in pairs]),
        everything[order],
        np.concatenate(positions)[order],
        np.concatenate(counts)[order],
    )


def _pack(
    rows: Rows, lengths: Numbers, words: Numbers, positions: Numbers, counts: NDArray[np.integer]
) -> Postings:
    first = np.flatnonzero(np.diff(words, prepend=-1))
    return Postings(
        rows=rows,
        lengths=lengths,
        words=words[first],
        starts=np.append(first, len(words)),
        positions=positions,
        counts=np.minimum(counts, _MOST).astype(np.uint16),
    )


__all__ = ["Counts", "Mask", "Numbers", "Postings", "Rows", "count", "join"]
