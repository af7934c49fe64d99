"""How fast everybody is on a GPU: one model and one length at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import flops, gpu_checks, machine
from benchmarks.contestants import BASE, Setup, load, loaded
from benchmarks.corpus import Corpus, WordCounter
from benchmarks.measure import order
from benchmarks.weights import BERT_BASE, MINILM
from benchmarks.workloads import WINDOW, Workload

Lengths = NDArray[np.int64]
CASES = (
    (MINILM, Workload("130 tokens", 130, 0.25, WINDOW)),
    (BERT_BASE, Workload("512 tokens", WINDOW, 0.0, WINDOW)),
    (BERT_BASE, Workload("50 tokens", 50, 0.25, WINDOW)),
)


@dataclass(frozen=True, slots=True)
class Runner:
    """One way from texts, or from their ids, to vectors."""

    name: str
    dtype: str
    run: Callable[[list[str], list[list[int]]], Any]
    tune: Callable[[list[str]], None] | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done.

    Attributes:
        seconds: What a contestant gets texts for in each round.
        most: Texts per round at most.
        rounds: How many.
        checked: Texts of the parity check.
    """

    seconds: float = 2.0
    most: int = 65_536
    rounds: int = 3
    checked: int = 512


QUICK = Size(seconds=0.2, most=8, rounds=1, checked=16)


@dataclass(slots=True)
class Texts:
    """Fresh texts of a workload and their token ids.

    Attributes:
        workload: Their lengths.
        corpus: Where they come from.
        counter: The model's tokenizer.
        rng: Draws the lengths.
    """

    workload: Workload
    corpus: Corpus
    counter: WordCounter
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def take(self, count: int) -> tuple[list[str], list[list[int]]]:
        """Return that many, never seen before."""
        texts = self.corpus.texts(self.workload.lengths(count, self.rng))
        return texts, self.counter.ids(texts)


def runners(setup: Setup) -> list[Runner]:
    """Load everybody who takes part on a GPU."""
    base = load(setup, BASE)
    half = load(setup, "sentence-transformers, half")
    ours = loaded(setup, "auto", "auto")[0]
    kind = ours.computed_in
    return [
        Runner(BASE, base.dtype, lambda texts, _: base.documents(texts)),
        Runner(half.name, half.dtype, lambda texts, _: half.documents(texts), half.tune),
        Runner("GPUEmbeddings, lists", kind, lambda texts, _: ours.embed_documents(texts)),
        Runner("GPUEmbeddings, to array", kind, lambda texts, _: ours.embed_to_array(texts)),
        Runner("GPUEmbeddings, ids to array", kind, lambda _, ids: ours.embed_tokens(ids)),
    ]


def suitable(runner: Runner, texts: Texts, size: Size, device: str) -> int:
    """Warm a contestant up with more and more texts.

    Returns:
        How many texts it embeds in `size.seconds`.
    """
    count = min(128, size.most)
    if runner.tune is not None:
        runner.tune(texts.take(min(4096, size.most))[0])
    runner.run(*texts.take(count))
    while True:
        part = texts.take(count)
        began = machine.clock(device)
        runner.run(*part)
        spent = machine.clock(device) - began
        if spent > size.seconds / 4 or count * 4 > size.most:
            return int(np.clip(count * size.seconds / spent, min(128, size.most), size.most))
        count *= 4


def case(name: str, setup: Setup, workload: Workload, size: Size, corpus: Corpus) -> dict[str, Any]:
    """Measure everybody on one model and one length."""
    device = setup.torch_device
    texts = Texts(workload, corpus, WordCounter(setup.folder, WINDOW))
    names = runners(setup)
    counts = [suitable(each, texts, size, device) for each in names]
    peaks = {dtype: machine.peak_rate(device, dtype) for dtype in {each.dtype for each in names}}
    spent: list[list[float]] = [[] for _ in names]
    lengths: list[Lengths] = []
    for number in range(size.rounds):
        fresh, ids = texts.take(max(counts))
        lengths.append(np.array([len(each) for each in ids], np.int64))
        for place in order(len(names), number):
            count = counts[place]
            part = fresh[:count], ids[:count]
            began = machine.clock(device)
            names[place].run(*part)
            spent[place].append(machine.clock(device) - began)
    config = flops.read_config(setup.folder)
    everything = np.concatenate(lengths)
    tokens = int(everything.sum())
    base = counts[0] / np.array(spent[0])
    rows = [
        {
            "name": each.name,
            "dtype": each.dtype,
            "texts": count,
            **_rates(config, [sizes[:count] for sizes in lengths], seconds, peaks[each.dtype]),
            "ratio": round(median((count / np.array(seconds) / base).tolist()), 2),
        }
        for each, count, seconds in zip(names, counts, spent, strict=True)
    ]
    return {
        "model": f"{Path(name).name}{', random weights' if name == BERT_BASE else ''}",
        "workload": workload.name,
        "tokens_per_text": round(tokens / len(everything), 1),
        "mflop_per_token": round(flops.flops(config, everything) / tokens / 1e6, 1),
        "peak_flops": {dtype: round(rate) for dtype, rate in peaks.items()},
        "ours": said(setup, texts.take(max(counts))[0]),
        "rows": rows,
    }


def _rates(
    config: dict[str, Any], lengths: list[Lengths], seconds: list[float], peak: float
) -> dict[str, float]:
    """Return rates of one contestant: medians over rounds of texts of these lengths."""
    pairs = list(zip(lengths, seconds, strict=True))
    work = median([flops.flops(config, each) / spent for each, spent in pairs])
    return {
        "documents_per_second": round(median([len(each) / spent for each, spent in pairs]), 1),
        "tokens_per_second": round(median([int(each.sum()) / spent for each, spent in pairs])),
        "peak_share": round(work / peak, 4),
    }


def said(setup: Setup, texts: list[str]) -> dict[str, Any]:
    """Return how our class says it ran these texts."""
    ours = loaded(setup, "auto", "auto")[0]
    report = ours.embed_with_report(texts).report
    return {
        "backend": ours.backend_reason,
        "batches": report.batches,
        "padding": round(report.padding, 3),
        "seconds": round(report.seconds, 3),
        "tokenize_seconds": round(report.tokenize_seconds, 3),
        "forward_seconds": round(report.forward_seconds, 3),
        "fallbacks": [str(each) for each in report.fallbacks],
    }


def release(setup: Setup) -> None:
    """Close ours and give back what the peers of a case held."""
    if loaded.cache_info().currsize:  # a case that failed early, or was left out, has loaded none
        loaded(setup, "auto", "auto")[0].close()
        loaded.cache_clear()
    gpu_checks.clean()
