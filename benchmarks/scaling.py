"""Does it stay as fast with ten times the texts, and as small?

python -m benchmarks.scaling TASK.json      the stream's memory, in a process of its own
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.contestants import Setup, loaded
from benchmarks.corpus import Corpus
from benchmarks.machine import peak_memory
from benchmarks.memory import read_setup, run_apart
from benchmarks.workloads import WORKLOADS

_ROUNDS = 3
_TIMEOUT = 1800.0  # seconds


def measure(setup: Setup, corpus: Corpus, most: int) -> dict[str, Any]:
    """Embed `most` short texts beside a tenth of them, in turns; stream both and watch memory.

    Returns:
        Rates in documents/s, their ratio, and the peak memory in bytes of a process that streams.
    """
    ours = loaded(setup, "auto", "auto")[0]
    few = most // 10
    rng = np.random.default_rng(1)
    rates: dict[int, list[float]] = {few: [], most: []}
    for _ in range(_ROUNDS):
        for count, found in rates.items():
            texts = corpus.texts(WORKLOADS["short"].lengths(count, rng))
            began = perf_counter()
            ours.embed_to_array(texts)
            found.append(count / (perf_counter() - began))
    peaks = {
        count: run_apart(
            "benchmarks.scaling",
            {"setup": asdict(setup), "count": count},
            timeout=_TIMEOUT,
        )
        # Two whole chunks of a stream are the least that shows its plateau.
        for count in (max(few, 2 * 8192), most)
    }
    return {
        "texts": [few, most],
        "documents_per_second": [round(median(each), 1) for each in rates.values()],
        "ratio": round(median(np.divide(rates[most], rates[few]).tolist()), 3),
        "stream_texts": list(peaks),
        "stream_peak_memory": list(peaks.values()),
    }


def words(count: int) -> Iterator[str]:
    """Yield different texts of about ten tokens that take no memory: a number spelled out."""
    digits = "zero one two three four five six seven eight nine".split()  # noqa: SIM905 - a list of words
    for number in range(count):
        yield " ".join(digits[int(digit)] for digit in f"{number:08d}")


def main() -> None:
    """Stream texts that nobody keeps, and print the most memory that was held."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    ours = loaded(read_setup(task["setup"]), "auto", "auto")[0]
    rows = sum(len(part.vectors) for part in ours.stream(words(task["count"])))
    assert rows == task["count"]
    print(json.dumps({"bytes": peak_memory()}))


if __name__ == "__main__":
    main()
