"""How fast pairs are scored, in the order of whom, and what it does to the order.

python -m benchmarks.bench_rerank --model FOLDER [--data FOLDER]

Every round has pairs nobody has seen; contestants take turns within it. A data set in BEIR's form
(corpus.jsonl, queries.jsonl, qrels/test.tsv) shows nDCG@10 before and after.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from transformers.utils import logging as transformers_logging

from benchmarks import beir, machine, rerankers, results, tables
from benchmarks.contestants import NotHereError
from benchmarks.corpus import Corpus, WordCounter
from benchmarks.measure import order
from benchmarks.rerankers import BASE, NAMES, Pair, Reranker
from benchmarks.weights import MINILM
from langchain_gpu import select_device
from langchain_gpu.events import TruncationWarning
from langchain_gpu.models.resolve import resolve

MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"
_QUERY_TOKENS = 12
_PAIR_TOKENS = (100, 200)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help="a name or a folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--queries", type=int, help="of a round; 200, or 4 on a CPU")
    parser.add_argument("--documents", type=int, default=50, help="for each of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, help="of 1 x 100 for latency; 100, or 10 on a CPU")
    parser.add_argument("--peers", default="all", help=f"semicolons between: {'; '.join(NAMES)}")
    parser.add_argument("--data", type=Path, help="a folder in BEIR's form")
    parser.add_argument("--data-queries", type=int, help="of it at most")
    parser.add_argument("--candidates", type=int, default=50, help="documents of a query")
    parser.add_argument("--retriever", default=MINILM, help="what finds them")
    parser.add_argument("--write", action="store_true", help="save under benchmarks/results/")
    return parser.parse_args(arguments)


def enlist(chosen: argparse.Namespace) -> tuple[list[Reranker], list[dict[str, str]]]:
    """Load who can take part; who cannot is listed with the reason.

    Raises:
        ValueError: There is no such contestant.
    """
    wanted = NAMES if chosen.peers == "all" else [each.strip() for each in chosen.peers.split(";")]
    if unknown := [name for name in wanted if name not in NAMES]:
        raise ValueError(f"unknown contestant {unknown[0]!r}; known: {'; '.join(NAMES)}")
    folder = str(resolve(chosen.model).path)
    here: list[Reranker] = []
    skipped: list[dict[str, str]] = []
    for name in NAMES:
        if name not in wanted and name != BASE:
            continue
        try:
            here.append(rerankers.load(name, folder, chosen.device))
        except NotHereError as error:
            skipped.append({"name": name, "reason": str(error)})
            print(f"left out: {name}: {error}")
    return here, skipped


class Pairs:
    """Pairs of real English that nobody has seen."""

    def __init__(self, folder: Path, corpus: Corpus | None = None) -> None:
        self._counter = WordCounter(folder, _PAIR_TOKENS[1])
        self._corpus = corpus or Corpus(self._counter.words)
        self._rng = np.random.default_rng(0)
        self.tokens: list[int] = []

    def fresh(self, queries: int, documents: int) -> list[Pair]:
        """Return the pairs of some queries, each with its own documents."""
        pairs = []
        for query in self._corpus.texts([_QUERY_TOKENS] * queries):
            sizes = self._rng.integers(*_PAIR_TOKENS, documents) - _QUERY_TOKENS
            texts = self._corpus.texts(sizes)
            pairs += [(query, text) for text in texts]
            self.tokens += [len(ids) + _QUERY_TOKENS - 1 for ids in self._counter.ids(texts)]
        return pairs


def throughput(
    here: Sequence[Reranker], pairs: Pairs, chosen: argparse.Namespace, device: str
) -> list[dict[str, Any]]:
    """Return pairs per second, ratios and rank agreements, all against `BASE` in the same round."""
    seconds: dict[str, list[float]] = {each.name: [] for each in here}
    agreement = dict.fromkeys(seconds, 1.0)
    warm = pairs.fresh(2, chosen.documents)
    for each in here:
        each.score(warm)
    count = chosen.queries * chosen.documents
    for number in range(chosen.rounds):
        fresh = pairs.fresh(chosen.queries, chosen.documents)
        scores = {}
        for place in order(len(here), number):
            began = machine.clock(device)
            scores[here[place].name] = here[place].score(fresh)
            seconds[here[place].name].append(machine.clock(device) - began)
        for name, found in scores.items():
            value = float(spearmanr(found, scores[BASE]).statistic)
            agreement[name] = min(agreement[name], value)
    return [
        {
            "name": name,
            "pairs_per_second": round(count / median(spent), 1),
            "ratio": round(median(np.divide(seconds[BASE], spent).tolist()), 2),
            "spearman": round(agreement[name], 5),
        }
        for name, spent in seconds.items()
    ]


def latency(
    here: Sequence[Reranker], pairs: Pairs, calls: int, device: str
) -> list[dict[str, Any]]:
    """Return milliseconds of one query and 100 documents."""
    spent: dict[str, list[float]] = {each.name: [] for each in here}
    for number in range(calls):
        fresh = pairs.fresh(1, 100)
        for place in order(len(here), number):
            began = machine.clock(device)
            here[place].score(fresh)
            spent[here[place].name].append((machine.clock(device) - began) * 1000)
    return [
        {"name": name}
        | {f"p{part}": round(float(np.percentile(each, part)), 1) for part in (50, 95, 99)}
        for name, each in spent.items()
        if each
    ]


def quality(here: Sequence[Reranker], chosen: argparse.Namespace) -> dict[str, Any]:
    """Return nDCG@10 of what the retriever found, in its order and in those of the rerankers."""
    data = beir.read(chosen.data, chosen.data_queries)
    found = beir.retrieve(data, chosen.retriever, chosen.device, chosen.candidates)
    return {
        "data": chosen.data.name,
        "retriever": chosen.retriever.split("/")[-1],
        "queries": len(data.queries),
        "candidates": chosen.candidates,
        "before": round(beir.ndcg(data, found), 4),
        "rows": [
            {
                "name": each.name,
                "ndcg10": round(beir.ndcg(data, beir.reranked(data, found, each)), 4),
            }
            for each in here
        ],
    }


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; return the record."""
    place = select_device(chosen.device)
    slow = place.kind == "cpu"
    chosen.queries = chosen.queries or (4 if slow else 200)
    chosen.calls = chosen.calls if chosen.calls is not None else (10 if slow else 100)
    here, skipped = enlist(chosen)
    pairs = Pairs(resolve(chosen.model).path)
    rows = throughput(here, pairs, chosen, place.torch_name)
    record: dict[str, Any] = {
        "benchmark": "rerank",
        "date": datetime.now(UTC).date().isoformat(),
        "model": Path(chosen.model).name,
        "device": machine.describe(place),
        "versions": machine.versions(),
        "rounds": chosen.rounds,
        "queries": chosen.queries,
        "documents": chosen.documents,
        "calls": chosen.calls,
        "tokens_per_pair": round(float(np.mean(pairs.tokens)), 1),
        "contestants": [{"name": each.name, "note": each.note} for each in here],
        "throughput": rows,
        "latency_ms": latency(here, pairs, chosen.calls, place.torch_name),
        "skipped": skipped,
    }
    if chosen.data is not None:
        record["quality"] = quality(here, chosen)
    return record


def main() -> None:
    """Run the benchmark; print tables and one line of JSON."""
    chosen = options()
    warnings.simplefilter("ignore", TruncationWarning)  # every contestant cuts the same texts
    transformers_logging.disable_progress_bar()
    record = run(chosen)
    print(tables.rerank(record))
    if chosen.write:
        print(f"written: {results.write(record)}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
