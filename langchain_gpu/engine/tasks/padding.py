"""Rows of token ids that lie end to end, filled up to rectangles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import PADDED, BatchRules

Features = dict[str, NDArray[np.int64]]


def rectangle(
    ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    pad_id: int,
    left: bool,
    rules: BatchRules = PADDED,
) -> tuple[Features, NDArray[np.int64]]:
    """Fill rows up to the longest of them, without a Python step per token.

    Args:
        ids: Token ids of many rows, end to end.
        offsets: Where each wanted row starts in `ids`, shape (rows,).
        lengths: How long it is, shape (rows,).
        pad_id: Token id that fills up shorter rows.
        left: Fill on the left, as decoder models want.
        rules: How wide a batch is made.

    Returns:
        `input_ids` and `attention_mask`, both of shape (rows, width), and the place of every column
        within its row, which is negative or beyond the row's length where it is filling.
    """
    sizes = lengths[:, None]
    width = rules.width(int(lengths.max()))
    places = np.broadcast_to(
        np.arange(width) - (width - sizes if left else 0), (len(lengths), width)
    )
    mask = (places >= 0) & (places < sizes)
    filled = np.full(mask.shape, pad_id, np.int64)
    filled[mask] = ids[(offsets[:, None] + places)[mask]]
    return {"input_ids": filled, "attention_mask": mask.astype(np.int64)}, places
