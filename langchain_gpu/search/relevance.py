"""Scores to relevance in [0, 1]: higher is nearer for every metric."""

from __future__ import annotations

from collections.abc import Callable

from langchain_gpu.search.base import Metric


def _cosine(score: float) -> float:
    # The cosine itself, so that thresholds mean what they mean elsewhere; opposite is irrelevant.
    return min(max(score, 0.0), 1.0)


def _inner_product(score: float) -> float:
    # Any number, squeezed into (0, 1) with its order kept: the length of vectors is not known.
    return 0.5 + 0.5 * score / (1.0 + abs(score))


def _squared_distance(score: float) -> float:
    return 1.0 / (1.0 + max(score, 0.0))


RELEVANCE: dict[Metric, Callable[[float], float]] = {
    "cosine": _cosine,
    "ip": _inner_product,
    "l2": _squared_distance,
}

__all__ = ["RELEVANCE"]
