"""Which items go through the device together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRules:
    """What a back end wants its batches to look like.

    Attributes:
        padded: Rows are filled up to the longest, so that a batch costs rows x width tokens; False
            where rows lie end to end and a batch costs the tokens it has.
        multiple_of: Widths are rounded up to a multiple of this, for kernels that work in tiles
            and for runtimes that prepare themselves for every new shape.
        fine: Narrow rows are rounded in finer steps, so that at most a quarter of them is filling.
        max_items: Rows a batch may hold; None for no limit.
        in_flight: Batches that may be on their way at the same time.
    """

    padded: bool = True
    multiple_of: int = 1
    fine: bool = False
    max_items: int | None = None
    in_flight: int = 1

    def width(self, longest: int) -> int:
        """Return the columns of a padded batch whose longest row has `longest` tokens."""
        width, step = max(1, longest), self.multiple_of
        if self.fine:
            step = min(step, 1 << max(0, (width // 4).bit_length() - 1))
        return -(-width // step) * step

    def cost(self, lengths: NDArray[np.int64]) -> int:
        """Return the tokens that are computed for rows of these lengths, at least 1."""
        if self.padded:
            return len(lengths) * self.width(int(lengths.max()))
        return max(1, int(lengths.sum()))


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that share a forward pass.

    Attributes:
        rows: Positions in the planned sequence, longest item first. Shape (n,), int64.
        tokens: Sum of the items' lengths.
        width: Length of the longest item, rounded as the rules say, at least 1.
        padded_tokens: Tokens computed, padding included.
    """

    rows: NDArray[np.int64]
    tokens: int
    width: int
    padded_tokens: int


PADDED = BatchRules()


class Plan:
    """Items sorted by length, from which batches are taken up to a budget of computed tokens.

    Sorting removes the padding, the budget keeps every batch about as much work; either one alone
    leaves much of the device unused. Longest first, so that a batch that does not fit is met at
    the start and not after an hour. Batches are cut when they are taken: each device takes what
    suits it now.

    Args:
        lengths: Tokens of each item, shape (n,).

    Raises:
        ValueError: A length is negative.
    """

    def __init__(self, lengths: ArrayLike) -> None:
        sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
        if len(sizes) and int(sizes.min()) < 0:
            raise ValueError(
                f"item {int(sizes.argmin())} has the negative length {int(sizes.min())}"
            )
        self._order = np.argsort(-sizes, kind="stable")
        self._sizes = sizes[self._order]
        self._ends = np.concatenate([[0], np.cumsum(self._sizes)])
        self._start = 0

    def take(
        self, max_tokens: int, *, max_items: int | None = None, rules: BatchRules = PADDED
    ) -> Batch | None:
        """Return the next batch, None when all items are taken.

        Args:
            max_tokens: Computed tokens a batch may hold. An item longer than this is a batch of
                its own.
            max_items: Items a batch may hold; None for no limit. The rules may have a lower one.
            rules: What the back end wants.

        Raises:
            ValueError: A limit is smaller than 1.
        """
        if max_tokens < 1 or (max_items is not None and max_items < 1):
            raise ValueError(f"limits must be >= 1, got {max_tokens=}, {max_items=}")
        start = self._start
        if start >= len(self._order):
            return None
        width = rules.width(int(self._sizes[start]))
        if rules.padded:
            count = max_tokens // width
        else:
            end = self._ends[start] + max_tokens
            count = int(np.searchsorted(self._ends, end, "right")) - 1 - start
        limits = [limit for limit in (max_items, rules.max_items) if limit is not None]
        self._start = stop = start + max(1, min(count, *limits, len(self._order)))
        part = self._sizes[start:stop]
        return Batch(self._order[start:stop], int(part.sum()), width, rules.cost(part))
