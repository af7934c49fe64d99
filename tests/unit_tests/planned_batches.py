"""All batches of a plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import PADDED, Batch, BatchRules, Plan


def plan_batches(
    lengths: Sequence[int] | NDArray[np.int64],
    *,
    max_tokens: int,
    max_items: int | None = None,
    rules: BatchRules = PADDED,
) -> list[Batch]:
    """Take batches until none is left."""
    plan = Plan(lengths)
    batches: list[Batch] = []
    while (batch := plan.take(max_tokens, max_items=max_items, rules=rules)) is not None:
        batches.append(batch)
    return batches
