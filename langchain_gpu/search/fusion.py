"""Hybrid search: fuse two rankings, by ranks or by scores."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import Matrix, Metric, Rows

Fusion = Literal["rrf", "scores"]
FUSIONS: tuple[Fusion, ...] = ("rrf", "scores")
RANK = 60  # what ranks are added to: the first ranks count little more than the next
Scores = NDArray[np.floating]


class Plan(NamedTuple):
    """How two rankings become one.

    Attributes:
        by: `"rrf"` adds 1 / (60 + rank) of both; `"scores"` adds scores, scaled to [0, 1] among the
            candidates.
        weight: The share of the words; the rest is the vectors'.
        fetch_k: Candidates of each.
    """

    by: Fusion
    weight: float
    fetch_k: int


def plan(by: str, weight: float, fetch_k: int | None, k: int) -> Plan:
    """Check a plan.

    Raises:
        ValueError: There is no such fusion, or `weight` is not between 0 and 1.
    """
    if by not in FUSIONS:
        raise ValueError(f"unknown fusion {by!r}; known: {', '.join(FUSIONS)}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight, the share of the words, must lie between 0 and 1, not {weight}")
    fetch_k = max(4 * k, 50) if fetch_k is None else max(k, fetch_k)
    return Plan("rrf" if by == "rrf" else "scores", weight, fetch_k)


def fuse_ranks(vectors: Rows, words: Rows, weight: float) -> tuple[Scores, Rows]:
    """Return the rows of two rankings, best first, with twice the weighted mean of 1 / (60 + rank).

    At equal weights that is the usual sum of both. A row that is in one ranking gets nothing for
    the other; equal ones come lowest row first.
    """
    rows = np.union1d(vectors, words)
    total = np.zeros(len(rows))
    for ranking, share in ((vectors, 1 - weight), (words, weight)):
        places = np.searchsorted(rows, ranking)
        total[places] += 2 * share / (RANK + 1 + np.arange(len(ranking)))
    return _sorted(total, rows)


def nearness(query: Scores, vectors: Matrix, metric: Metric) -> Scores:
    """Return how near `vectors` [n, dimension] are to `query` [dimension]; more is nearer."""
    near: Scores = -np.square(vectors - query).sum(axis=1) if metric == "l2" else vectors @ query
    return near


def fuse_scores(rows: Rows, vectors: Scores, words: Scores, weight: float) -> tuple[Scores, Rows]:
    """Return rows, best first, with the weighted mean of both scores.

    Args:
        rows: [n], increasing: the candidates of both.
        vectors: [n], how near they are.
        words: [n], their scores by BM25.
        weight: The share of `words`.
    """
    return _sorted((1 - weight) * _scaled(vectors) + weight * _scaled(words), rows)


def _scaled(scores: Scores) -> Scores:
    if not len(scores):
        return scores
    exact = scores.astype(np.float64)
    span = np.ptp(exact)
    scaled: Scores = (exact - exact.min()) / (span or 1.0)
    return scaled


def _sorted(scores: Scores, rows: Rows) -> tuple[Scores, Rows]:
    order = np.argsort(-scores, kind="stable")
    return scores[order], rows[order]


__all__ = ["FUSIONS", "Fusion", "Plan", "fuse_ranks", "fuse_scores", "nearness", "plan"]
