"""Which items go through the device together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that share a forward pass.

    Attributes:
        rows: Positions in the planned sequence, longest item first. Shape (n,), int64.
        tokens: Sum of the items' lengths.
        width: Length of the longest item, at least 1.
    """

    rows: NDArray[np.int64]
    tokens: int
    width: int

    @property
    def padded_tokens(self) -> int:
        """Tokens computed when every item is padded to the longest."""
        return len(self.rows) * self.width


def plan_batches(
    lengths: ArrayLike, *, max_tokens: int, max_items: int | None = None
) -> list[Batch]:
    """Sort items by length and fill batches up to a budget of padded tokens.

    Sorting removes the padding, the budget keeps every batch about as much work; either one alone
    leaves much of the device unused. Longest first, so that a batch that does not fit is met at
    the start and not after an hour.

    Args:
        lengths: Tokens of each item, shape (n,).
        max_tokens: Padded tokens a batch may hold. An item longer than this is a batch of its own.
        max_items: Items a batch may hold; None for no limit.

    Returns:
        Batches that together hold every position exactly once.

    Raises:
        ValueError: A limit is smaller than 1, or a length is negative.
    """
    if max_tokens < 1 or (max_items is not None and max_items < 1):
        raise ValueError(f"limits must be >= 1, got {max_tokens=}, {max_items=}")
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
    if len(sizes) and int(sizes.min()) < 0:
        raise ValueError(f"item {int(sizes.argmin())} has the negative length {int(sizes.min())}")
    order = np.argsort(-sizes, kind="stable")
    batches: list[Batch] = []
    start = 0
    while start < len(order):
        width = max(1, int(sizes[order[start]]))
        count = max(1, max_tokens // width)
        if max_items is not None:
            count = min(count, max_items)
        rows = order[start : start + count]
        batches.append(Batch(rows, int(sizes[rows].sum()), width))
        start += count
    return batches
