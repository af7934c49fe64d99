"""Maximal marginal relevance: near the query, and unlike the documents already chosen."""

from __future__ import annotations

from numbers import Real

import numpy as np

from langchain_gpu.search.base import Matrix


def select_diverse(query: Matrix, vectors: Matrix, k: int, balance: float) -> list[int]:
    """Choose up to `k` positions of `vectors`, one after the other.

    Likeness is the cosine, whatever the store's metric, as in LangChain.

    Args:
        query: [1, dimension]
        vectors: [n, dimension], the candidates.
        k: How many to choose.
        balance: 1 looks at the query only, 0 at variety only.

    Raises:
        TypeError: `balance` is not a number.
        ValueError: It is not between 0 and 1.
    """
    given: object = balance
    if not isinstance(given, Real):
        raise TypeError(f"lambda_mult must be a number, not {balance!r}")
    if not 0 <= balance <= 1:
        raise ValueError(f"lambda_mult must lie between 0 and 1, not {balance}")
    rows = _unit(vectors)
    relevance = rows @ _unit(query)[0]  # [n]
    redundancy = np.full(len(rows), -np.inf, dtype=np.float32)  # likeness to the nearest chosen
    chosen: list[int] = []
    for _ in range(min(k, len(rows))):
        # The first is the nearest to the query, even at balance 0.
        gain = balance * relevance - (1 - balance) * redundancy if chosen else relevance.copy()
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        redundancy = np.maximum(redundancy, rows @ rows[best])
    return chosen


def _unit(rows: Matrix) -> Matrix:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    lengths[lengths == 0] = 1
    unit: Matrix = np.divide(rows, lengths, dtype=np.float32)
    return unit


__all__ = ["select_diverse"]
