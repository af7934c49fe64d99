"""How fast everybody is on a GPU: one model and one length at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import flops, gpu_checks, machine
from benchmarks.contestants import BASE, HALF, Contestant, NotHereError, Setup, load, loaded
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
        tokens: Of an answer of a model that writes text.
        queries: To rerank in a round, with 50 documents each.
        vectors: To search.
        singles: Calls with one query, to rerank and to search with.
    """

    seconds: float = 2.0
    most: int = 65_536
    rounds: int = 3
    checked: int = 512
    tokens: int = 128
    queries: int = 200
    vectors: int = 1_000_000
    singles: int = 50


QUICK = Size(seconds=0.2, most=2, rounds=1, checked=8, tokens=2, queries=1, vectors=2000, singles=1)


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
    _shared: dict[int, tuple[list[str], list[list[int]]]] = field(default_factory=dict, init=False)

    def shared(self, count: int) -> tuple[list[str], list[list[int]]]:
        """Return that many, the same at every call: fresh ones take longer than warming up."""
        if count not in self._shared:
            self._shared[count] = self.take(count)
        return self._shared[count]

    def take(self, count: int) -> tuple[list[str], list[list[int]]]:
        """Return that many, never seen before."""
        texts = self.corpus.texts(self.workload.lengths(count, self.rng))
        return texts, self.counter.ids(texts)


def runners(setup: Setup) -> tuple[list[Runner], list[dict[str, str]]]:
    """Load everybody who takes part on a GPU.

    Returns:
        Those who do, and the names of peers that cannot, with the reasons.
    """
    found: list[Runner] = []
    left_out: list[dict[str, str]] = []
    for name in (BASE, HALF):
        try:
            peer = load(setup, name)
        except NotHereError as error:
            left_out.append(gone(name, error))
        else:
            found.append(Runner(peer.name, peer.dtype, partial(_texts_only, peer), peer.tune))
    try:
        found += own(setup)
    except Exception as error:  # noqa: BLE001 - what the peers do is worth measuring too
        left_out.append(gone("GPUEmbeddings", error))
    return found, left_out


def own(setup: Setup) -> list[Runner]:
    """Load ours, in the forms in which it takes texts and gives vectors."""
    ours = loaded(setup, "auto", "auto")[0]
    kind = ours.computed_in
    return [
        Runner("GPUEmbeddings, lists", kind, lambda texts, _: ours.embed_documents(texts)),
        Runner("GPUEmbeddings, to array", kind, lambda texts, _: ours.embed_to_array(texts)),
        Runner("GPUEmbeddings, ids to array", kind, lambda _, ids: ours.embed_tokens(ids)),
    ]


def _texts_only(peer: Contestant, texts: list[str], _: list[list[int]]) -> Any:
    return peer.documents(texts)


def gone(name: str, error: Exception) -> dict[str, str]:
    """Return what a result says of somebody who fails, and say it."""
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    print(f"left out: {name}: {reason}", flush=True)
    return {"name": name, "reason": reason}


def unless(left_out: list[dict[str, str]], name: str, ask: Callable[[], Any]) -> Any:
    """Return what is not needed for the rows; None, with a line in `left_out`, if it fails."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - the rounds are measured: keep them
        left_out.append(gone(name, error))
    gpu_checks.clean()
    return None


def suitable(runner: Runner, texts: Texts, size: Size, device: str) -> int:
    """Warm a contestant up with more and more texts.

    Returns:
        How many texts it embeds in `size.seconds`.
    """
    count = min(128, size.most)
    if runner.tune is not None:
        runner.tune(texts.shared(min(4096, size.most))[0])
    runner.run(*texts.shared(count))
    while True:
        part = texts.shared(count)
        began = machine.clock(device)
        runner.run(*part)
        spent = machine.clock(device) - began
        if spent > size.seconds / 4 or count * 4 > size.most:
            return int(np.clip(count * size.seconds / spent, min(128, size.most), size.most))
        count *= 4


@dataclass(slots=True)
class _Rounds:
    """The rounds of one case: who takes part in them, and how long each of them took.

    Attributes:
        runners: Who takes part; one that fails is removed.
        left_out: Who does not, and why.
        counts: Texts per round, by name.
        spent: Seconds of each round, by name.
        lengths: Tokens of each text, of each round.
        fresh: The texts of the last round.
    """

    runners: list[Runner]
    left_out: list[dict[str, str]]
    counts: dict[str, int] = field(default_factory=dict)
    spent: dict[str, list[float]] = field(default_factory=dict)
    lengths: list[Lengths] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def run(self, texts: Texts, size: Size, device: str) -> None:
        """Find how many texts each runner gets, then measure all of them in every round.

        Raises:
            RuntimeError: All of them failed.
        """
        for each in list(self.runners):
            self._attempt(each, partial(self._size_up, each, texts, size, device))
        for number in range(size.rounds):
            most = max((self.counts[each.name] for each in self.runners), default=0)
            self.fresh, ids = texts.take(most)
            self.lengths.append(np.array([len(each) for each in ids], np.int64))
            turn = list(self.runners)
            for place in order(len(turn), number):
                self._attempt(turn[place], partial(self._measure, turn[place], ids, device))
        if not self.runners:
            raise RuntimeError("; ".join(f"{it['name']}: {it['reason']}" for it in self.left_out))

    def _attempt(self, runner: Runner, do: Callable[[], None]) -> None:
        """Go on without a runner that fails: a card is rare."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.left_out.append(gone(runner.name, error))
            self.runners.remove(runner)
        else:
            return
        gpu_checks.clean()

    def _size_up(self, runner: Runner, texts: Texts, size: Size, device: str) -> None:
        self.counts[runner.name] = suitable(runner, texts, size, device)

    def _measure(self, runner: Runner, ids: list[list[int]], device: str) -> None:
        count = self.counts[runner.name]
        part = self.fresh[:count], ids[:count]
        began = machine.clock(device)
        runner.run(*part)
        self.spent.setdefault(runner.name, []).append(machine.clock(device) - began)


def case(name: str, setup: Setup, workload: Workload, size: Size, corpus: Corpus) -> dict[str, Any]:
    """Measure everybody on one model and one length."""
    device = setup.torch_device
    rounds = _Rounds(*runners(setup))
    rounds.run(Texts(workload, corpus, WordCounter(setup.folder, WINDOW)), size, device)
    beside = partial(unless, rounds.left_out)
    peaks: dict[str, float | None] = {
        dtype: beside(f"peak of {dtype}", partial(machine.peak_rate, device, dtype))
        for dtype in sorted({each.dtype for each in rounds.runners})
    }
    config = flops.read_config(setup.folder)
    lengths = np.concatenate(rounds.lengths)
    tokens = int(lengths.sum())
    return {
        "model": f"{Path(name).name}{', random weights' if name == BERT_BASE else ''}",
        "workload": workload.name,
        "tokens_per_text": round(tokens / len(lengths), 1),
        "mflop_per_token": round(flops.flops(config, lengths) / tokens / 1e6, 1),
        "peak_flops": {dtype: round(rate) for dtype, rate in peaks.items() if rate},
        "ours": beside("report of GPUEmbeddings", partial(said, setup, rounds.fresh)),
        "rows": _rows(rounds, config, peaks),
        "left_out": rounds.left_out,
    }


def _rows(
    rounds: _Rounds, config: dict[str, Any], peaks: dict[str, float | None]
) -> list[dict[str, Any]]:
    """Return what a result says of each runner; ratios are to `BASE`, round by round."""
    rates = {
        each.name: rounds.counts[each.name] / np.array(rounds.spent[each.name])
        for each in rounds.runners
    }
    base = rates.get(BASE)
    rows = []
    for each in rounds.runners:
        count = rounds.counts[each.name]
        lengths = [sizes[:count] for sizes in rounds.lengths]
        ratio = None if base is None else round(median((rates[each.name] / base).tolist()), 2)
        rows.append(
            {
                "name": each.name,
                "dtype": each.dtype,
                "texts": count,
                **_rates(config, lengths, rounds.spent[each.name], peaks[each.dtype]),
                "ratio": ratio,
            }
        )
    return rows


def _rates(
    config: dict[str, Any], lengths: list[Lengths], seconds: list[float], peak: float | None
) -> dict[str, float | None]:
    """Return rates of one contestant: medians over rounds of texts of these lengths."""
    pairs = list(zip(lengths, seconds, strict=True))
    work = median([flops.flops(config, each) / spent for each, spent in pairs])
    return {
        "documents_per_second": round(median([len(each) / spent for each, spent in pairs]), 1),
        "tokens_per_second": round(median([int(each.sum()) / spent for each, spent in pairs])),
        "peak_share": round(work / peak, 4) if peak else None,
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
