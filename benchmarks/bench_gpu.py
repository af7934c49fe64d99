"""Embedding speed on a GPU: one command, no model hub.

    python -m benchmarks.bench_gpu [--model FOLDER] [--minutes 7.5] [--results FOLDER]

Text to vectors, token ids to vectors, and lists, for all-MiniLM-L6-v2 (the installed package, or a
folder) and for BERT-base with random weights, beside HuggingFaceEmbeddings and a tuned
sentence-transformers; the vectors' parity; memory after `close`; pairs, beside CrossEncoder; exact
search of a million vectors, beside FAISS on the CPU; whole answers of a Qwen2.5-0.5B with random
weights, one alone and 16 together; the end of a batch that does not fit. Every contestant gets as
many texts as it embeds in `--seconds`, fresh in every round. The result goes into
benchmarks/results/ part by part, so that a run that is cut short leaves what it has measured, and
`--only` measures the rest; the last line is the same as JSON. Without a GPU the exit status is 2;
`--device cpu --quick` shows that it would run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from transformers.utils import logging as transformers_logging

from benchmarks import (
    gpu_answers,
    gpu_checks,
    gpu_rerank,
    gpu_search,
    gpu_tables,
    machine,
    results,
)
from benchmarks.contestants import Setup
from benchmarks.corpus import Corpus, WordCounter
from benchmarks.gpu_cases import CASES, QUICK, Size, case, release
from benchmarks.weights import BERT_BASE, DECODER, MINILM, RERANKER, convert_in, prepare
from benchmarks.workloads import WINDOW, WORKLOADS
from langchain_gpu import Device, select_device
from langchain_gpu.events import TruncationWarning

NO_GPU = 2  # exit status
# Minutes a part may take at most; it is not begun when fewer are left.
_CASE, _CHECK = 1.5, 0.5
# The parts, and what of the record is theirs.
PARTS = {
    "embed": ("freed", "parity", "cases"),
    "rerank": ("rerank",),
    "search": ("search",),
    "answers": ("answers",),
    "memory": ("out_of_memory",),
}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MINILM, help="MiniLM's folder, if not its package")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=7.5, help="what begins later is left out")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"of {', '.join(PARTS)}; the rest stays as the record has it",
    )
    parser.add_argument("--quick", action="store_true", help="a few texts: does it run?")
    parser.add_argument("--results", type=Path, help="where the result is written")
    return parser.parse_args(arguments)


class Run:
    """One run: parts in order, as long as there is time.

    Args:
        chosen: The command line.
        scratch: An empty folder.
        keep: Called with all there is so far, after every part.
    """

    def __init__(
        self, chosen: argparse.Namespace, scratch: Path, keep: Callable[[dict[str, Any]], object]
    ) -> None:
        self._chosen, self._scratch, self._keep = chosen, scratch, keep
        self._end = monotonic() + 60 * chosen.minutes
        self._size = QUICK if chosen.quick else Size(chosen.seconds, rounds=chosen.rounds)
        self._folders: dict[str, Path] = {}
        self.left_out: list[dict[str, str]] = []
        self._counter = WordCounter(self._setup(MINILM).folder, WINDOW)
        convert_in(scratch)
        self._corpus = Corpus(self._counter.words)

    def go(self) -> dict[str, Any]:
        """Measure everything there is time for; return the record."""
        best, today = select_device(self._chosen.device), datetime.now(UTC).date().isoformat()
        record: dict[str, Any] = {
            "benchmark": "embed-gpu",
            "date": today,
            "device": machine.describe(best),
            "versions": machine.versions() | cuda_version(),
            "rounds": self._size.rounds,
            "cases": [],
            "dates": dict.fromkeys(self._chosen.only, today),
            "left_out": self.left_out,
        }
        self._take_over(record)
        parts: dict[str, Callable[[dict[str, Any]], None]] = {
            "embed": self._embed,
            "rerank": self._rerank,
            "search": self._search,
            "answers": self._answers,
            "memory": self._memory,
        }
        for name in self._chosen.only:
            parts[name](record)
        return record

    def _take_over(self, record: dict[str, Any]) -> None:
        """Keep what an earlier record of this device has of the parts that are not measured now."""
        file = results.place(record, self._chosen.results or results.RESULTS)
        rest = [part for part in PARTS if part not in self._chosen.only]
        if not rest or not file.exists():
            return
        before = json.loads(file.read_text(encoding="utf-8"))
        record |= {key: before[key] for part in rest for key in PARTS[part] if key in before}
        record["dates"] = before.get("dates", {}) | record["dates"]
        self.left_out += [each for each in before["left_out"] if each.get("part") in rest]

    def _embed(self, record: dict[str, Any]) -> None:
        minilm = self._setup(MINILM)
        rng = np.random.default_rng(3)
        lengths = WORKLOADS["mixed"].lengths(self._size.checked, rng)
        mixed = self._corpus.texts(lengths)
        record["freed"] = self._part(
            "embed", "freed", _CHECK, lambda: gpu_checks.freed(minilm, mixed)
        )
        record["parity"] = self._part(
            "embed",
            "parity",
            _CHECK,
            lambda: gpu_checks.parity(minilm, mixed, self._counter.ids(mixed)),
        )
        gpu_checks.clean()
        self._keep(record)
        for model, workload in CASES:
            name = f"{Path(model).name}, {workload.name}"

            def measure(model: str = model, workload: Any = workload) -> dict[str, Any]:
                setup = self._setup(model)
                try:
                    return case(model, setup, workload, self._size, self._corpus)
                finally:
                    release(setup)

            found = self._part("embed", name, _CASE, measure)
            if found is not None:
                record["cases"].append(found)
                print(gpu_tables.plain_case(found), flush=True)
            gpu_checks.clean()
            self._keep(record)

    def _rerank(self, record: dict[str, Any]) -> None:
        size = self._size

        def measure() -> dict[str, Any]:
            setup = self._setup(RERANKER)
            return gpu_rerank.measure(setup, size.queries, size.singles, size.rounds, self._corpus)

        self._show(record, "rerank", measure, gpu_tables.plain_pairs)

    def _search(self, record: dict[str, Any]) -> None:
        size, setup = self._size, self._setup(MINILM)
        self._show(
            record,
            "search",
            lambda: gpu_search.measure(setup, size.vectors, size.singles, size.rounds),
            gpu_tables.plain_search,
        )

    def _answers(self, record: dict[str, Any]) -> None:
        size = self._size
        self._show(
            record,
            "answers",
            lambda: gpu_answers.measure(self._setup(DECODER), size.tokens, size.rounds),
            gpu_tables.plain_answers,
        )

    def _show(
        self,
        record: dict[str, Any],
        part: str,
        measure: Callable[[], dict[str, Any]],
        plain: Callable[[dict[str, Any]], str],
    ) -> None:
        record[part] = found = self._part(part, part, _CASE, measure)
        if found is not None:
            print(plain(found), flush=True)
        gpu_checks.clean()
        self._keep(record)

    def _memory(self, record: dict[str, Any]) -> None:
        if select_device(self._chosen.device).kind in {"cuda", "rocm"}:

            def overfill() -> dict[str, Any]:
                texts = self._corpus.texts([WINDOW] * 2048)
                return gpu_checks.out_of_memory(self._setup(BERT_BASE), texts)

            record["out_of_memory"] = self._part("memory", "out of memory", _CHECK, overfill)
        else:
            reason = "no card to fill"
            self.left_out.append({"part": "memory", "name": "out of memory", "reason": reason})
        self._keep(record)

    def _part(
        self, part: str, name: str, minutes: float, measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Run a piece of a part if there is time. If it fails, the others go on."""
        left = (self._end - monotonic()) / 60
        if left < minutes:
            reason = f"{left:.1f} minutes were left"
        else:
            try:
                return measure()
            except Exception as error:  # noqa: BLE001 - a card is rare: keep what was measured
                reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        print(f"left out: {name}: {reason}", flush=True)
        self.left_out.append({"part": part, "name": name, "reason": reason})
        gpu_checks.clean()
        return None

    def _setup(self, model: str) -> Setup:
        if model not in self._folders:
            source = self._chosen.model if model == MINILM else model
            words = self._folders.get(MINILM)  # BERT's own, in whichever folder that is
            self._folders[model] = prepare(source, self._scratch, tokenizer=words)
        return Setup(self._folders[model], self._chosen.device)


def cuda_version() -> dict[str, str]:
    """Return the version of CUDA or ROCm torch was built for."""
    import torch

    found = {"cuda": torch.version.cuda, "hip": torch.version.hip}
    return {name: said for name, said in found.items() if said}


def usable(device: Device) -> bool:
    """Say whether there is a GPU to measure."""
    return device.kind not in {"cpu", "remote"}


def main() -> int:
    """Run the benchmark; print tables and one line of JSON."""
    chosen = options()
    warnings.simplefilter("ignore", TruncationWarning)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a random head is meant
    best = select_device(chosen.device)
    if not usable(best) and not (chosen.device == "cpu" and chosen.quick):
        print(f"no GPU to measure: {best.reason}")
        return NO_GPU
    folder = chosen.results or (results.RESULTS if usable(best) else None)

    def keep(record: dict[str, Any]) -> None:
        if folder is not None:
            print(f"written: {results.write(record, folder)}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        record = Run(chosen, Path(scratch), keep).go()
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
