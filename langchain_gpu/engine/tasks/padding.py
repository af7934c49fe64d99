"""Rows of token ids that lie end to end, filled up to rectangles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = dict[str, NDArray[np.int64]]


def rectangle(
    ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    pad_id: int,
    left: bool,
    multiple_of: int = 1,
) -> tuple[Features, NDArray[np.int64]]:
    """Fill rows up to the longest of them, without a Python step per token.

    Args:
        ids: Token ids of many rows, end to end.
        offsets: Where each wanted row starts in `ids`, shape (rows,).
        lengths: How long it is, shape (rows,).
        pad_id: Token id that fills up shorter rows.
        left: Fill on the left, as decoder models want.
        multiple_of: The width is rounded up to a multiple of this.

    Returns:
        `input_ids` and `attention_mask`, both of shape (rows, width), and the place of every column
        within its row, which is negative or beyond the row's length where it is filling.
    """
    sizes = lengths[:, None]
    width = -(-int(lengths.max()) // multiple_of) * multiple_of
    places = np.broadcast_to(
        np.arange(width) - (width - sizes if left else 0), (len(lengths), width)
    )
    mask = (places >= 0) & (places < sizes)
    filled = np.full(mask.shape, pad_id, np.int64)
    filled[mask] = ids[(offsets[:, None] + places)[mask]]
    return {"input_ids": filled, "attention_mask": mask.astype(np.int64)}, places
