"""Padding: rows of token ids that lie end to end, as rectangles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.encoder import Tokenized

Features = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Packed:
    """Token ids of many rows, end to end.

    Attributes:
        ids: All ids, shape (sum of lengths,), int32.
        offsets: Where each row starts in `ids`, shape (rows,).
        prompt: The prompt that every row starts with.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    prompt: str = ""


def laid_out(rows: Sequence[Sequence[int]], prompt: str = "") -> tuple[Packed, NDArray[np.int64]]:
    """Lay rows of ids end to end; return their lengths too, shape (rows,)."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    ids = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
    return Packed(ids, np.cumsum(lengths) - lengths, prompt), lengths


@dataclass(frozen=True, slots=True)
class Padding:
    """How shorter rows are filled up.

    Attributes:
        token: The id they are filled with.
        left: Fill on the left, as decoder models want.
    """

    token: int
    left: bool

    def fill(
        self, tokens: Tokenized, rows: NDArray[np.int64], rules: BatchRules
    ) -> tuple[Features, NDArray[np.int64]]:
        """Fill rows up to the longest of them, without a Python step per token.

        Args:
            tokens: Rows whose payload is a `Packed`.
            rows: Which of them.
            rules: How wide a batch is made.

        Returns:
            `input_ids` and `attention_mask`, both of shape (rows, width), and the place of every
            column within its row, which is negative or beyond the row's length where it is filling.
        """
        packed: Packed = tokens.payload
        lengths = tokens.lengths[rows][:, None]
        width = rules.width(int(lengths.max()))
        places = np.broadcast_to(
            np.arange(width) - (width - lengths if self.left else 0), (len(rows), width)
        )
        mask = (places >= 0) & (places < lengths)
        filled = np.full(mask.shape, self.token, np.int64)
        filled[mask] = packed.ids[(packed.offsets[rows][:, None] + places)[mask]]
        return {"input_ids": filled, "attention_mask": mask.astype(np.int64)}, places
