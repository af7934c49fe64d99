"""Rounds: everybody embeds the same fresh texts, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import BASE, REFERENCE, Contestant
from benchmarks.machine import clock

Vectors = NDArray[np.float32]


def units(result: Any) -> Vectors:
    """Return vectors of any container as unit vectors. Shape (texts, dimension)."""
    vectors = np.array(result, np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def order(count: int, number: int) -> list[int]:
    """Return who comes when in a round: the turn of the first goes round."""
    return [(place + number) % count for place in range(count)]


@dataclass(slots=True)
class Score:
    """What one contestant did with one workload.

    Attributes:
        seconds: Of each round.
        cosine: The least of any text to float32.
        padding: Computed tokens per real one; None if it does not say.
    """

    seconds: list[float] = field(default_factory=list)
    cosine: float = 1.0
    padding: float | None = None


def rounds(
    names: Sequence[Contestant],
    reference: Callable[[list[str]], Any],
    fresh: Callable[[], list[str]],
    *,
    count: int,
    device: str,
) -> dict[str, Score]:
    """Let every contestant embed the texts of every round.

    Args:
        names: Contestants.
        reference: Embeds texts in float32.
        fresh: Returns texts that nobody has seen.
        count: How many rounds.
        device: As torch calls it; waited for before each look at the clock.
    """
    scores = {each.name: Score() for each in names}
    sample = fresh()
    for each in names:
        if each.tune is not None:
            each.tune(sample)
        each.documents(sample)  # shapes and kernels of this workload, outside the clock
        if each.padding is not None:
            each.padding.reset()
    for number in range(count):
        texts = fresh()
        found: dict[str, Vectors] = {}
        for place in order(len(names), number):
            each = names[place]
            began = clock(device)
            result = each.documents(texts)
            scores[each.name].seconds.append(clock(device) - began)
            sleep(each.settles)
            found[each.name] = units(result)
        exact = found[REFERENCE] if REFERENCE in found else units(reference(texts))
        for each in names:
            least = float((exact * found[each.name]).sum(axis=1).min())
            scores[each.name].cosine = min(scores[each.name].cosine, least)
    for each in names:
        if each.padding is not None:
            scores[each.name].padding = each.padding.ratio
    return scores


def rows(
    scores: dict[str, Score],
    *,
    texts: int,
    tokens: float,
    flops: float | None,
    peaks: dict[str, float],
) -> list[dict[str, Any]]:
    """Return the rows of a table.

    Args:
        scores: Of each contestant; `BASE` is what ratios are against.
        texts: Texts per round.
        tokens: Tokens per round, on average.
        flops: Floating-point operations per round; None where nobody has counted them.
        peaks: The best rate in FLOP/s of the dtype each contestant computes in, where measured.
    """
    base = scores[BASE].seconds
    table = []
    for name, score in scores.items():
        spent = median(score.seconds)
        peak = peaks.get(name)
        share = None if flops is None or peak is None else round(flops / spent / peak, 4)
        table.append(
            {
                "name": name,
                "documents_per_second": round(texts / spent, 1),
                "tokens_per_second": round(tokens / spent),
                "ratio": round(median(np.divide(base, score.seconds).tolist()), 2),
                "padding": None if score.padding is None else round(score.padding, 3),
                "peak_share": share,
                "min_cosine": round(score.cosine, 6),
            }
        )
    return table


def queries(
    names: Sequence[Contestant], questions: Sequence[str], *, device: str
) -> dict[str, dict[str, float]]:
    """Return the latency of single queries in milliseconds, by contestant: p50, p95, p99."""
    spent: dict[str, list[float]] = {each.name: [] for each in names}
    for each in names:
        each.query("warm up")
    for number, question in enumerate(questions):
        for place in order(len(names), number):
            each = names[place]
            began = clock(device)
            each.query(question)
            spent[each.name].append(clock(device) - began)
            sleep(each.settles)
    return {
        name: {
            f"p{percent}": round(1000 * float(np.percentile(seconds, percent)), 2)
            for percent in (50, 95, 99)
        }
        for name, seconds in spent.items()
    }
