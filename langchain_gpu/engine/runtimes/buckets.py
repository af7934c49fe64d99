"""Shapes to which batches are padded, so that recorded or compiled programs are reused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from langchain_gpu.engine.runtimes.packed import PackedBatch

# Steps of a third or a half, and room beyond the round numbers that budgets are: a batch that fills
# its budget wastes little, and at least one token is always left to fill up.
_ROOM = 64
TOKENS = tuple(step * 2**power + _ROOM for power in range(6, 14) for step in (2, 3))
_FEWEST_ROWS = 8
_SHORTEST = 32

Features = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shape of a recorded batch.

    Attributes:
        tokens: All tokens.
        rows: Texts, those that only fill it up included.
        longest: Tokens a row may have.
    """

    tokens: int
    rows: int
    longest: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A packed batch that was filled up to a bucket, in host memory.

    Attributes:
        bucket: Its shape.
        batch: As it was, without what fills it up: views of the same memory.
        features: Filled up.
    """

    bucket: Bucket
    batch: PackedBatch
    features: Features


def bucket_for(batch: PackedBatch) -> Bucket | None:
    """Return the smallest bucket that holds a batch; None if none does."""
    tokens = next((size for size in TOKENS if size > batch.tokens), None)
    if tokens is None or "prompt_length" in batch.features:  # prompts are cut by a mask: it waits
        return None
    fillers = -(-(tokens - batch.tokens) // batch.longest)
    rows = max(_FEWEST_ROWS, _power_of_two(batch.rows + fillers))
    return Bucket(tokens, rows, max(_SHORTEST, _power_of_two(batch.longest)))


def fill(batch: PackedBatch, bucket: Bucket, pad_id: int) -> Filled:
    """Fill a batch up with rows of no token, and then with rows as long as its longest.

    In this order, so that the first and the last token of every row are tokens of the batch:
    a pooling that takes one of them may not reach beyond the end, which a card does not survive.

    Args:
        batch: A packed batch.
        bucket: What `bucket_for` returned for it.
        pad_id: Any token the model knows; nobody sees what comes of it.
    """
    rest, step = bucket.tokens - batch.tokens, batch.longest
    fillers = -(-rest // step)
    empty = bucket.rows - batch.rows - fillers
    # Positions begin where the model's own do: at 0, or behind the padding id.
    first = int(batch.features["position_ids"][0, 0])
    tails = {
        "input_ids": np.full(rest, pad_id),
        "position_ids": np.arange(rest) % step + first,
        "seq_idx": np.arange(rest) // step + batch.rows + empty,
    }
    filled = dict(batch.features) | {"max_length_q": bucket.longest}
    for name, value in batch.features.items():
        if isinstance(value, torch.Tensor) and name != "cu_seq_lens_q":  # shape [1, tokens]
            tail = torch.from_numpy(tails.get(name, np.zeros(rest, np.int64)))
            filled[name] = torch.cat([value, tail[None]], dim=1)
    ends = np.full(empty + fillers, batch.tokens, np.int32)
    ends[empty:] = np.minimum(batch.tokens + step * np.arange(1, fillers + 1), bucket.tokens)
    filled["cu_seq_lens_q"] = torch.cat([batch.features["cu_seq_lens_q"], torch.from_numpy(ends)])
    return view(bucket, batch, filled)


def view(bucket: Bucket, batch: PackedBatch, features: Features) -> Filled:
    """Return a filled batch whose unfilled part looks at the same memory.

    Args:
        bucket: Its shape.
        batch: Any batch of the same rows.
        features: Filled up.
    """
    own = dict(features) | {"max_length_q": batch.longest}
    for name, value in features.items():
        if name == "cu_seq_lens_q":
            own[name] = value[: batch.rows + 1]
        elif isinstance(value, torch.Tensor):
            own[name] = value[:, : batch.tokens]
    return Filled(bucket, batch.with_features(own), features)


def _power_of_two(count: int) -> int:
    """Return the smallest power of two that is not less than `count`."""
    return 1 << max(0, count - 1).bit_length()
