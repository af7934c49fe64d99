"""Embedding speed, beside the classes people use now.

    python -m benchmarks.bench_embed [--workloads all] [--texts 256] [--rounds 3] [--write]

Every round takes texts that nobody has seen, and every contestant embeds the same ones, one after
the other, so that a busy machine disturbs all alike. The figures are medians over the rounds; what
is to be compared is the ratio. The last line is JSON; `--write` also puts it into
benchmarks/results/, from where README quotes. NOTES.md says how to read it.

`--texts` is for passages; the other workloads take as many tokens. With the defaults a run takes
under 10 minutes on two quiet cores, half of it for the slowest peer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from transformers.utils import logging as transformers_logging

from benchmarks import flops, machine, memory, results, scaling, tables
from benchmarks.contestants import AUTO, BASE, LOADERS, REFERENCE, Contestant, NotHereError, Setup
from benchmarks.contestants import load as load_contestant
from benchmarks.corpus import Corpus, WordCounter
from benchmarks.measure import queries, rounds, rows
from benchmarks.peers import make_gguf
from benchmarks.weights import MINILM, convert_in, prepare
from benchmarks.workloads import PASSAGES, QUERY_TOKENS, WINDOW, Workload, choose
from langchain_gpu import select_device
from langchain_gpu.events import TruncationWarning

_MEASURED = ("float32", "bfloat16", "float16")
LIGHT = "import numpy, pydantic; from langchain_core.embeddings import Embeddings"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MINILM, help="a name, a folder, or bert-base")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workloads", default="all", help="short,passages,long,mixed")
    parser.add_argument("--texts", type=int, default=256, help="passages per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=120, help="single queries; 0 for none")
    parser.add_argument(
        "--peers",
        default="all",
        help=f"names with semicolons between, or none: {'; '.join(LOADERS)}. {BASE} always runs",
    )
    parser.add_argument("--gguf", type=Path, help="the model for llama.cpp")
    parser.add_argument("--vllm-url", help="a vLLM server that has the model")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--scaling", action="store_true", help="100,000 texts beside 10,000")
    parser.add_argument("--scaling-texts", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help="save under benchmarks/results/")
    return parser.parse_args(arguments)


def wanted(peers: str) -> list[str]:
    """Return the names of contestants: ours, the base, and the peers asked for.

    Raises:
        ValueError: There is no such peer.
    """
    named = [] if peers in ("all", "none") else [each.strip() for each in peers.split(";")]
    for name in named:
        if name not in LOADERS:
            raise ValueError(f"unknown contestant {name!r}; known: {'; '.join(LOADERS)}")
    return [
        name
        for name in LOADERS
        if peers == "all" or name == BASE or name in named or name.startswith(AUTO)
    ]


def enlist(setup: Setup, names: Sequence[str]) -> tuple[list[Contestant], list[dict[str, str]]]:
    """Load who can take part; who cannot is listed with the reason."""
    here: list[Contestant] = []
    skipped: list[dict[str, str]] = []
    for name in names:
        try:
            here.append(load_contestant(setup, name))
        except NotHereError as error:
            skipped.append({"name": name, "reason": str(error)})
            print(f"left out: {name}: {error}")
    return here, skipped


def cpu_seconds_of_import(code: str) -> float:
    """Return the CPU time of a fresh interpreter that runs `code`, median of 5."""
    script = f"{code}\nimport resource; u = resource.getrusage(resource.RUSAGE_SELF)"
    script += "; print(u.ru_utime + u.ru_stime)"
    times = [
        float(
            subprocess.run(  # noqa: S603 - our own interpreter, our own code
                [sys.executable, "-c", script], capture_output=True, check=True
            ).stdout
        )
        for _ in range(5)
    ]
    return median(times)


class Bench:
    """One run: a model, its contestants, and texts nobody has seen.

    Args:
        setup: What the contestants share.
        chosen: The command line.
    """

    def __init__(self, setup: Setup, chosen: argparse.Namespace) -> None:
        self._setup, self._chosen = setup, chosen
        self._counter = WordCounter(setup.folder, WINDOW)
        self._corpus = Corpus(self._counter.words)
        self._rng = np.random.default_rng(0)
        self._loaders = wanted(chosen.peers)
        self._here, self._skipped = enlist(setup, self._loaders)
        self._config = flops.read_config(setup.folder)
        self._peaks: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Measure everything; return the record."""
        chosen, device = self._chosen, self._setup.torch_device
        workloads = [self._workload(each) for each in choose(chosen.workloads)]
        asked = self._corpus.texts([QUERY_TOKENS] * chosen.queries)
        latency = queries(self._here, asked, device=device) if asked else {}
        taken = {} if chosen.no_memory else self._memory()
        light = cpu_seconds_of_import(LIGHT)
        whole = cpu_seconds_of_import(f"{LIGHT}; import langchain_gpu; langchain_gpu.GPUEmbeddings")
        record: dict[str, Any] = {
            "benchmark": "embed",
            "date": datetime.now(UTC).date().isoformat(),
            "model": chosen.model,
            "window": WINDOW,
            "rounds": chosen.rounds,
            "device": machine.describe(select_device(chosen.device)),
            "versions": machine.versions(),
            "peak_flops": {name: round(rate) for name, rate in self._peaks.items()},
            "import_cpu_seconds": {"base": round(light, 3), "more": round(whole - light, 3)},
            "contestants": [
                {
                    "name": each.name,
                    "dtype": each.dtype,
                    "note": each.note,
                    "query_ms": latency.get(each.name),
                    "peak_memory": taken.get(each.name),
                }
                for each in self._here
            ],
            "workloads": workloads,
            "skipped": self._skipped,
        }
        if chosen.scaling:
            record["scaling"] = scaling.measure(
                replace(self._setup, gguf=None), self._corpus, chosen.scaling_texts
            )
        return record

    def _workload(self, workload: Workload) -> dict[str, Any]:
        self._look_at_peaks()
        count = workload.count(self._chosen.texts)
        lengths: list[np.ndarray[Any, Any]] = []

        def fresh() -> list[str]:
            texts = self._corpus.texts(workload.lengths(count, self._rng))
            lengths.append(self._counter.lengths(texts))
            return texts

        scores = rounds(
            self._here,
            self._reference,
            fresh,
            count=self._chosen.rounds,
            device=self._setup.torch_device,
        )
        self._look_at_peaks()
        measured = lengths[1:]  # the first were for warming up
        tokens = float(np.mean([each.sum() for each in measured]))
        try:
            work = float(np.mean([flops.flops(self._config, each) for each in measured]))
        except ValueError as error:
            print(f"no share of the peak: {error}")
            work = None
        peaks = {
            each.name: self._peaks[dtype]
            for each in self._here
            if (dtype := self._peak_of(each.dtype)) is not None
        }
        table = rows(scores, texts=count, tokens=tokens, flops=work, peaks=peaks)
        found = {
            "name": workload.name,
            "texts": count,
            "tokens_per_text": round(tokens / count, 1),
            "mflop_per_token": None if work is None else round(work / tokens / 1e6, 1),
            "rows": table,
        }
        print(tables.plain(found))
        return found

    def _look_at_peaks(self) -> None:
        """Measure the machine again: it may be busy at times, and its best is what counts."""
        for dtype in {self._peak_of(each.dtype) for each in self._here} - {None}:
            assert dtype is not None
            rate = machine.peak_rate(self._setup.torch_device, dtype)
            self._peaks[dtype] = max(rate, self._peaks.get(dtype, 0.0))

    def _peak_of(self, dtype: str) -> str | None:
        """Return the dtype whose matrix rate is the measure; int8 is held against the half one."""
        if dtype == "int8":
            return self._setup.half
        return dtype if dtype in _MEASURED else None

    @cached_property
    def _exact(self) -> Contestant:
        return load_contestant(self._setup, REFERENCE)

    def _reference(self, texts: list[str]) -> Any:
        """Embed texts in float32 where that contestant does not take part."""
        return self._exact.documents(texts)

    def _memory(self) -> dict[str, dict[str, Any]]:
        """Return what each contestant takes alone; a server is another process, so it has none."""
        texts = self._corpus.texts(
            PASSAGES.lengths(PASSAGES.count(min(self._chosen.texts, 256)), self._rng)
        )
        left_out = {each["name"] for each in self._skipped}
        loaders = [name for name in self._loaders if name not in left_out]
        found = {}
        for name, each in zip(loaders, self._here, strict=True):
            if name != "vLLM":
                found[each.name] = memory.measure(self._setup, name, texts)
        return found


def main() -> None:
    """Run the benchmark; print tables and one line of JSON."""
    chosen = options()
    warnings.simplefilter("ignore", TruncationWarning)  # every contestant cuts the same texts
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare(chosen.model, Path(scratch))
        gguf, reason = chosen.gguf, ""
        if gguf is None:
            gguf, reason = make_gguf(folder, Path(scratch) / "model.gguf")
        convert_in(Path(scratch))
        bench = Bench(Setup(folder, chosen.device, gguf, chosen.vllm_url, reason), chosen)
        record = bench.run()
    print(tables.plain_contestants(record))
    if chosen.write:
        print(f"written: {results.write(record)}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
