"""How fast text is written, alone and by many at once, beside what it replaces or stands on.

python -m benchmarks.bench_generate [--model NAME.gguf] [--folder SAFETENSORS]

Every answer has the same length (an end token is no end). Contestants take turns within a round;
compare their ratios, not the figures of a busy machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Barrier
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from benchmarks import machine, results
from benchmarks.generate_peers import Answer, Streamer, Writer, llama_cpp, transformers, unpack
from benchmarks.measure import order
from langchain_gpu import select_device
from langchain_gpu.models.resolve import resolve

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_PERCENTILES = (50, 95, 99)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help="a GGUF model")
    parser.add_argument("--folder", type=Path, help="its safetensors; unpacked if left out")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch and of llama.cpp")
    parser.add_argument("--write", action="store_true", help="save under benchmarks/results/")
    return parser.parse_args(arguments)


def prompts(count: int, turn: int) -> list[str]:
    """Return questions nobody has asked before, of about the same length."""
    return [f"Round {turn}: tell me what is special about number {n}." for n in range(count)]


def together(who: Streamer, texts: Sequence[str], tokens: int) -> tuple[list[Answer], float]:
    """Ask all at the same moment; return the answers and the seconds for all."""
    ready = Barrier(len(texts))

    def ask(text: str) -> Answer:
        ready.wait()
        return who.stream(text, tokens)

    with ThreadPoolExecutor(len(texts)) as pool:
        start = time.perf_counter()
        answers = list(pool.map(ask, texts))
        return answers, time.perf_counter() - start


def times(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Return percentiles in ms of the usual times of streamed answers."""
    gaps = [late - early for a in answers for early, late in pairwise(a.tokens)]
    found = {
        "ttft": [a.tokens[0] - a.start for a in answers],
        "itl": gaps,
        "tpot": [(a.tokens[-1] - a.tokens[0]) / max(1, len(a.tokens) - 1) for a in answers],
        "e2e": [a.tokens[-1] - a.start for a in answers],
    }
    return {
        name: {f"p{p}": round(float(np.percentile(seconds, p)) * 1000, 2) for p in _PERCENTILES}
        for name, seconds in found.items()
        if seconds
    }


def streamed(here: Sequence[Streamer], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure streams at every concurrency."""
    rows = []
    for number in chosen.concurrency:
        answers: list[list[Answer]] = [[] for _ in here]
        rates: list[list[float]] = [[] for _ in here]
        for turn in range(chosen.rounds + 1):  # the first warms up
            for place in order(len(here), turn):
                asked = prompts(number, turn)
                given, seconds = together(here[place], asked, chosen.tokens)
                if turn:
                    answers[place] += given
                    rates[place].append(sum(len(each.tokens) for each in given) / seconds)
        for place, who in enumerate(here):
            ratios = [mine / base for mine, base in zip(rates[place], rates[0], strict=True)]
            rows.append(
                {
                    "name": who.name,
                    "concurrency": number,
                    "tokens_per_second": round(median(rates[place]), 2),
                    "ratio": round(median(ratios), 3),
                    "ms": times(answers[place]),
                }
            )
    return rows


def written(here: Sequence[Writer], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure whole answers to as many prompts as the widest batch holds."""
    rates: list[list[float]] = [[] for _ in here]
    width = max(chosen.concurrency)
    for turn in range(chosen.rounds + 1):
        for place in order(len(here), turn):
            asked = prompts(width, turn) if turn else prompts(1, turn)
            start = time.perf_counter()
            tokens = here[place].write(asked, chosen.tokens)
            if turn:
                rates[place].append(tokens / (time.perf_counter() - start))
    return [
        {
            "name": who.name,
            "concurrency": width,
            "tokens_per_second": round(median(rates[place]), 2),
            "ratio": round(
                median(mine / base for mine, base in zip(rates[place], rates[0], strict=True)), 3
            ),
        }
        for place, who in enumerate(here)
    ]


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; return the record."""
    torch.set_num_threads(chosen.threads)
    file = resolve(chosen.model, kind="gguf").path
    width = max(chosen.concurrency)
    streamers, chat = llama_cpp(file, width, 128 + chosen.tokens, chosen.threads)
    with chat:
        rows = streamed(streamers, chosen)
    del streamers
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or unpack(file, Path(scratch))
        writers, llm = transformers(folder, width)
        with llm:
            batches = written(writers, chosen)
    return {
        "benchmark": "generate",
        "date": datetime.now(UTC).date().isoformat(),
        "model": Path(chosen.model).name,
        "device": machine.describe(select_device("cpu")),
        "versions": machine.versions(),
        "rounds": chosen.rounds,
        "tokens": chosen.tokens,
        "threads": chosen.threads,
        "llama_cpp": rows,
        "transformers": batches,
    }


def table(record: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| who | at once | tok/s | ratio | TTFT p50 | ITL p50 | TPOT p50 | E2E p50 ms |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in (*record["llama_cpp"], *record["transformers"]):
        ms = [row.get("ms", {}).get(name, {}).get("p50", "") for name in _TIMES]
        cells = [row["name"], row["concurrency"], row["tokens_per_second"], row["ratio"], *ms]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


_TIMES = ("ttft", "itl", "tpot", "e2e")


def main() -> None:
    """Run the benchmark; print a table and one line of JSON."""
    chosen = options()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    record = run(chosen)
    print(table(record))
    if chosen.write:
        print(f"written: {results.write(record)}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
