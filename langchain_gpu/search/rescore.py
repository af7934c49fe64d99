"""Exact scores for candidates that a device found in low precision, with proof of the order.

A device that stores float16, or multiplies in TF32, cannot order near neighbors exactly. It returns
more candidates than are asked for, and their scores are computed here in float64. Any other vector
has at most the worst candidate's rounded score, so its true score exceeds that by no more than the
bound on the rounding error. Where the k-th true score is above that, the order is proven; otherwise
the device is asked for more candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import Found, Matrix, Rows, VectorIndex

BLOCK_BYTES = 64 * 2**20  # of candidates' vectors in float64 at once

SPARE = 32  # candidates beyond k, so that most searches are proven at once

HALF = 2.0**-11  # relative error of a number rounded to float16, and to TF32
SINGLE = 2.0**-24


@dataclass(frozen=True, slots=True)
class Bound:
    """What is known of the vectors of a mirror, to bound the error of its scores.

    Attributes:
        longest: Length of the longest vector.
        moved: The farthest that rounding moved a vector.
        coarse: Whether products are rounded to 11 bits too.
    """

    longest: float
    moved: float = 0.0
    coarse: bool = False

    def of(self, queries: Matrix, *, l2: bool) -> NDArray[np.float64]:
        """Return [queries], the most a score can be wrong by (squared distances for `l2`)."""
        exact = queries.astype(np.float64)
        lengths = np.linalg.norm(exact, axis=1)
        # The sum of d products is off by d roundings at most; a coarse one rounds the query, the
        # product and the sum as well.
        relative = (queries.shape[1] + 8) * SINGLE + (3 * HALF if self.coarse else 0.0)
        slack = lengths * (self.longest * relative + self.moved)
        if self.coarse:
            with np.errstate(over="ignore", invalid="ignore"):
                change = queries.astype(np.float16).astype(np.float64) - exact
            slack += np.linalg.norm(change, axis=1) * (self.longest + self.moved) + SINGLE
        if l2:
            both = lengths + self.longest + self.moved
            slack = 2 * slack + both**2 * relative + 2 * both * self.moved
        bound: NDArray[np.float64] = slack
        return bound


def similarities(index: VectorIndex, queries: Matrix, rows: Rows) -> NDArray[np.float64]:
    """Return the true scores of rows: higher is nearer, so distances are negative.

    Args:
        index: Holds the vectors.
        queries: [q, dimension]
        rows: [q, m]; -1 stands for nothing, and gets -inf.
    """
    scores = np.full(rows.shape, -np.inf)
    step = max(1, BLOCK_BYTES // (8 * queries.shape[1] * max(rows.shape[1], 1)))
    for start in range(0, len(queries), step):
        part = rows[start : start + step]
        known, places = np.unique(part, return_inverse=True)
        if known[0] < 0:
            if len(known) == 1:
                continue
            vectors = index.vectors(known[1:])
            vectors = np.concatenate([np.zeros_like(vectors[:1]), vectors])
        else:
            vectors = index.vectors(known)
        candidates = vectors.astype(np.float64)[places.reshape(part.shape)]  # [q, m, dimension]
        query = queries[start : start + step].astype(np.float64)
        # einsum sums every row in the same order: equal vectors get equal scores, unlike by BLAS.
        if index.metric == "l2":
            candidates -= query[:, None, :]
            found = -np.einsum("qmd,qmd->qm", candidates, candidates)
        else:
            found = np.einsum("qmd,qd->qm", candidates, query)
        scores[start : start + step] = np.where(part >= 0, found, -np.inf)
    return scores


def rank(
    index: VectorIndex, queries: Matrix, rows: Rows, k: int
) -> tuple[Found, NDArray[np.float64]]:
    """Return the `k` nearest of some candidates, the lowest row of equals first.

    Args:
        index: Holds the vectors.
        queries: [q, dimension]
        rows: [q, m], -1 for nothing.
        k: How many; fewer candidates are filled up with -1.

    Returns:
        What was found, and [q], the similarity of the last.
    """
    scores = similarities(index, queries, rows)
    order = np.lexsort((rows, -scores))[:, :k]
    scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    if (missing := k - rows.shape[1]) > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
    last = scores[:, -1]
    shown = -scores if index.metric == "l2" else scores
    return Found(shown.astype(np.float32), rows), last


def prove(
    index: VectorIndex,
    queries: Matrix,
    k: int,
    *,
    count: int,
    bound: Bound,
    candidates: Callable[[Matrix, int], tuple[NDArray[np.float64], Rows]],
) -> Found:
    """Return the `k` nearest rows of each query, in their true order.

    Args:
        index: Holds the vectors.
        queries: [q, dimension]
        k: How many; -1 stands where there are fewer.
        count: How many rows there are to choose from.
        bound: On the error of the device's scores.
        candidates: Asks the device for some number of rows, at most `count`: (queries, number) ->
            similarities and rows, both [queries, number], best first.
    """
    scores = np.full((len(queries), k), np.nan, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    open_ = np.arange(len(queries) if count else 0)
    slack = bound.of(queries, l2=index.metric == "l2")
    fetch = min(k + SPARE, count)
    while len(open_):
        rough, named = candidates(queries[open_], fetch)
        found, last = rank(index, queries[open_], named, k)
        scores[open_], rows[open_] = found
        if fetch == count:
            break
        open_ = open_[~(last > rough[:, -1] + slack[open_])]  # NaN proves nothing
        fetch = min(4 * fetch, count)
    return Found(scores, rows)


__all__ = ["Bound", "prove", "rank", "similarities"]
