"""How alike two results of a model are."""

from __future__ import annotations

from typing import Any

import numpy as np

from langchain_gpu.engine.encoder import Vectors

LEAST_COSINE = 0.99999


def likeness(left: Vectors, right: Vectors) -> float:
    """Return how alike two results are, 1.0 for the same: the least cosine of their rows.

    A single number per row has no direction: there it is 1 less a hundredth of the largest
    difference, so that `LEAST_COSINE` means a thousandth.
    """
    if left.shape[1] > 1:
        return float(cosines(left, right).min())
    return 1.0 - float(np.abs(left.astype(np.float64) - right).max()) / 100


def cosines(left: Vectors, right: Vectors) -> Any:
    """Return the cosine of each pair of rows, shape (rows,); NaN where a row is NaN or zero."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (left * right).sum(axis=1) / norms


__all__ = ["LEAST_COSINE", "cosines", "likeness"]
