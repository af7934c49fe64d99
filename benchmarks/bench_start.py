"""How long a new process takes to its first vector or score, and what it holds by then.

python -m benchmarks.bench_start --model FOLDER --reranker FOLDER

Each contestant has a process of its own, by turns. From the start of the interpreter: imports,
loading, one short text. Files are in the page cache, as each contestant ran before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks import machine, results, start_tables
from benchmarks.measure import order
from benchmarks.weights import MINILM
from langchain_gpu import select_device
from langchain_gpu.models.resolve import resolve

_TIMEOUT = 600.0  # seconds
_ROOT = Path(__file__).parents[1]
_RUN = """
import json, sys
folder = sys.argv[1]
{code}
from benchmarks.machine import peak_memory
print(json.dumps(peak_memory()))
"""


@dataclass(frozen=True, slots=True)
class Starter:
    """Who starts.

    Attributes:
        name: What tables call it.
        code: Loads the model in `folder` and asks it once.
        reranks: Whether it is held against the rerankers.
        cached: Whether it finds what an earlier process converted.
    """

    name: str
    code: str
    reranks: bool = False
    cached: bool = True


_EMBEDS = """
from langchain_gpu import GPUEmbeddings
GPUEmbeddings(model=folder, device="cpu"{more}).embed_query("the first text")
"""
_RERANKS = """
from langchain_gpu import GPURerank
GPURerank(model=folder, device="cpu").score([("a query", "a document")])
"""
# The first of each kind is the base.
STARTERS = (
    Starter(
        "HuggingFaceEmbeddings",
        """
from langchain_huggingface import HuggingFaceEmbeddings
embeddings = HuggingFaceEmbeddings(model_name=folder, model_kwargs={"device": "cpu"})
embeddings.embed_query("the first text")
""",
    ),
    Starter("GPUEmbeddings, torch", _EMBEDS.format(more=', backend="torch"')),
    Starter("GPUEmbeddings, first start ever", _EMBEDS.format(more=""), cached=False),
    Starter("GPUEmbeddings", _EMBEDS.format(more="")),
    Starter(
        "CrossEncoder",
        """
from sentence_transformers import CrossEncoder
CrossEncoder(folder, device="cpu").predict([("a query", "a document")])
""",
        reranks=True,
    ),
    Starter("GPURerank", _RERANKS, reranks=True),
)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MINILM, help="a name or a folder")
    parser.add_argument("--reranker", help="the same; without one, embedders alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="save under benchmarks/results/")
    return parser.parse_args(arguments)


def start(starter: Starter, folder: Path, cache: Path) -> tuple[float, int]:
    """Run one process; return its seconds from start to end, and the most bytes it held.

    Raises:
        RuntimeError: It failed.
    """
    program = _RUN.format(code=starter.code)
    with tempfile.TemporaryDirectory() as empty:
        place = str(cache) if starter.cached else empty
        began = perf_counter()
        done = subprocess.run(  # noqa: S603 - our own interpreter, our own program
            [sys.executable, "-c", program, str(folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
            cwd=_ROOT,
            env={**os.environ, "XDG_CACHE_HOME": place, "PYTHONWARNINGS": "ignore"},
        )
        spent = perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{starter.name}: {done.stderr.strip().splitlines()[-1]}")
    return spent, json.loads(done.stdout.strip().splitlines()[-1])


def measure(starters: Sequence[Starter], folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Return seconds, the ratio to the first, and memory of each; medians over rounds."""
    seconds: dict[str, list[float]] = {each.name: [] for each in starters}
    held: dict[str, list[int]] = {each.name: [] for each in starters}
    with tempfile.TemporaryDirectory() as cache:
        for each in starters:  # converts, and brings the files into the page cache
            start(each, folder, Path(cache))
        for number in range(rounds):
            for place in order(len(starters), number):
                spent, most = start(starters[place], folder, Path(cache))
                seconds[starters[place].name].append(spent)
                held[starters[place].name].append(most)
    base = seconds[starters[0].name]
    return [
        {
            "name": name,
            "seconds": round(median(spent), 2),
            "ratio": round(median(b / s for b, s in zip(base, spent, strict=True)), 2),
            "peak_memory": {"bytes": int(median(held[name]))},
        }
        for name, spent in seconds.items()
    ]


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everybody; return the record."""
    record: dict[str, Any] = {
        "benchmark": "start",
        "date": datetime.now(UTC).date().isoformat(),
        "model": chosen.model if chosen.model == MINILM else Path(chosen.model).name,
        "device": machine.describe(select_device("cpu")),
        "versions": machine.versions(),
        "rounds": chosen.rounds,
    }
    embedders = [each for each in STARTERS if not each.reranks]
    record["embedders"] = measure(embedders, resolve(chosen.model).path, chosen.rounds)
    record["rerankers"] = []
    if chosen.reranker:
        rerankers = [each for each in STARTERS if each.reranks]
        record["reranker"] = Path(chosen.reranker).name
        record["rerankers"] = measure(rerankers, resolve(chosen.reranker).path, chosen.rounds)
    return record


def main() -> None:
    """Run the benchmark; print a table and one line of JSON."""
    chosen = options()
    record = run(chosen)
    print(start_tables.section(record))
    if chosen.write:
        print(f"written: {results.write(record)}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
