"""What is embedded: four kinds of text, by their lengths in tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts of one kind. Lengths are log-normal, as those of documents are.

    Attributes:
        name: What `--workloads` calls it.
        mean: Mean length in tokens, special tokens included.
        spread: Standard deviation of the logarithm of the length.
        longest: Lengths are cut here.
    """

    name: str
    mean: int
    spread: float
    longest: int

    def lengths(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw lengths in tokens. Shape (count,)."""
        median = np.log(self.mean) - self.spread**2 / 2
        drawn = np.rint(rng.lognormal(median, self.spread, count)).astype(np.int64)
        return np.clip(drawn, 3, self.longest)

    def count(self, passages: int) -> int:
        """Return how many texts hold as many tokens as `passages` passages."""
        return max(MIN_TEXTS, round(passages * PASSAGES.mean / self.mean))


MIN_TEXTS = 16
WINDOW = 512  # every model of the benchmark reads this many tokens
PASSAGES = Workload("passages", 130, 0.25, WINDOW)
WORKLOADS = {
    each.name: each
    for each in (
        Workload("short", 10, 0.3, 32),
        PASSAGES,
        Workload("long", 400, 0.15, WINDOW),
        Workload("mixed", 135, 0.8, WINDOW),
    )
}
QUERY_TOKENS = 12  # a question


def choose(names: str) -> list[Workload]:
    """Return workloads from names with commas between; `"all"` for all.

    Raises:
        ValueError: There is no such workload.
    """
    if names == "all":
        return list(WORKLOADS.values())
    wanted = names.split(",")
    for name in wanted:
        if name not in WORKLOADS:
            known = ", ".join(WORKLOADS)
            raise ValueError(f"unknown workload {name!r}; known: all, {known}")
    return [WORKLOADS[name] for name in wanted]
