"""Where rows sorted by length are best cut into batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BatchPrice:
    """How long a padded batch takes, with that of a token in a very short row as the unit.

    Attributes:
        start: A batch beside its tokens.
        attention: What a token costs more for every token of its row, as a share.
    """

    start: float
    attention: float

    def __call__(self, rows: int, width: int) -> float:
        """Return what a batch of `rows` x `width` tokens costs."""
        return self.start + rows * width * (1 + self.attention * width)


def cheapest_cuts(
    widths: NDArray[np.int64], *, max_tokens: int, max_items: int, price: BatchPrice
) -> list[int]:
    """Return where batches end, so that all of them together cost the least.

    Filling every batch pads rows up to much longer ones when there are few rows to choose from; one
    more batch costs its start. This is the shortest path over batches that are full, or to one or
    two thirds: ends of any other kind would gain 1% more at the most, and bring new shapes in every
    call, for each of which a program prepares itself.

    Args:
        widths: What each row would be padded to, widest first, shape (n,).
        max_tokens: Computed tokens a batch may hold, at least 1; one row always fits.
        max_items: Rows it may hold, at least 1.
        price: What a batch costs.

    Returns:
        Positions behind the last row of each batch, ascending; the last is n.
    """
    padded, count = widths.tolist(), len(widths)
    cost, before = {0: 0.0}, {0: 0}
    waiting = [0]
    while (at := heappop(waiting)) < count:  # ascending, so nothing cheaper leads here any more
        width = padded[at]
        full = max(1, min(max_tokens // width, max_items))
        alike = padded[min(count, at + full) - 1] == width
        third = -(-full // 3)
        for size in {full} if alike else {third, min(2 * third, full), full}:
            end = min(count, at + size)
            total = cost[at] + price(end - at, width)
            if end not in cost:
                heappush(waiting, end)
            if total < cost.get(end, math.inf):
                cost[end], before[end] = total, at
    ends = [count]
    while (start := before[ends[-1]]) > 0:
        ends.append(start)
    return ends[::-1]
