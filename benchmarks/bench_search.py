"""How fast vectors and documents are added, found and loaded, beside FAISS and community's store.

python -m benchmarks.bench_search [--sizes 10000,100000] [--write]

Contestants take turns within each round. Vectors are made, so no model takes part.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import faiss
import numpy as np

from benchmarks import machine, results, search_tables
from benchmarks.measure import order
from benchmarks.memory import run_apart
from benchmarks.search_peers import (
    COMMUNITY,
    IDS,
    NAMES,
    OURS,
    RAW,
    Given,
    Peer,
    Search,
    Vectors,
    build,
    make_texts,
    make_vectors,
)
from langchain_gpu import FAISSVectorStore, select_device

K = 10
RECALL = 0.95
LARGE = (
    200_000  # vectors beyond which one round must do, without community: it takes 4 GB of a million
)
Way = Callable[[Vectors, int], Any]
_EFFORTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--sizes", default="10000,100000", help="vectors; 1000000 takes minutes, and 6 GB"
    )
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256, help="queries of a batch")
    parser.add_argument("--singles", type=int, default=200, help="single queries")
    parser.add_argument("--memory", type=int, default=100_000, help="documents; 0 for none")
    parser.add_argument("--approximate", type=int, default=100_000, help="vectors; 0 for none")
    parser.add_argument("--write", action="store_true", help="save under benchmarks/results/")
    return parser.parse_args(arguments)


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    began = perf_counter()
    work()
    return perf_counter() - began


def exact(chosen: argparse.Namespace, size: int, folder: Path) -> dict[str, Any]:
    """Add, search, save and load one size."""
    vectors = make_vectors(size, chosen.dimension, 2)
    texts = make_texts(size)
    queries = make_vectors(max(chosen.batch, chosen.singles), chosen.dimension, 3)
    names = NAMES if size <= LARGE else (RAW, OURS)
    searching = (*names, IDS)
    adding: dict[str, list[float]] = {name: [] for name in names}
    batch: dict[str, list[float]] = {name: [] for name in searching}
    singles: dict[str, list[float]] = {name: [] for name in searching}
    peers: dict[str, Peer] = {}
    # Where vectors come to lie in memory changes a search's time by tenths: all is built anew.
    builds = 1 if size > LARGE else min(chosen.rounds, 3)
    for number in range(builds):
        for place in order(len(names), number):
            peers.pop(names[place], None)
            gc.collect()
            began = perf_counter()
            peers[names[place]] = build(names[place], vectors, texts)
            adding[names[place]].append(perf_counter() - began)
        ways = {name: peers[name].search for name in names}
        ways[IDS] = peers[OURS].store.similarity_search_ids_by_vectors
        rounds = 2 if size > LARGE else math.ceil(chosen.rounds / builds)
        for name, spent in _by_turns(ways, queries[: chosen.batch], rounds).items():
            batch[name] += spent
        alone = queries[: 40 if size > LARGE else chosen.singles][number::builds]
        for turn, query in enumerate(alone):
            for name, spent in _by_turns(ways, query[None], 1, first=turn, warm=not turn).items():
                singles[name] += spent
    rows = [
        {
            "name": name,
            "add_per_second": round(size / median(adding[name])) if name in adding else None,
            "batch_ms": round(1000 * median(batch[name]), 2),
            "batch_ratio": round(median(np.divide(batch[name], batch[RAW]).tolist()), 3),
            "single_us": round(1e6 * median(singles[name])),
            "single_more_us": round(
                1e6 * median(np.subtract(singles[name], singles[RAW]).tolist()), 1
            ),
        }
        for name in searching
    ]
    for name in (RAW, OURS):
        peers[name].save(folder / name)
    embedding = peers[OURS].store.embeddings
    embedding.vectors = vectors[:1].copy()  # by which the store knows it again
    peers.clear()
    del ways, vectors, texts
    gc.collect()
    return {"size": size, "rows": rows, "load_seconds": loading(embedding, folder, chosen.rounds)}


def adding(chosen: argparse.Namespace, count: int) -> dict[str, Any]:
    """Return the seconds in which documents are added whose vectors are arrays, and lists."""
    vectors, texts = make_vectors(count, chosen.dimension, 2), make_texts(count)
    found = {}
    for form, rows in (("arrays", vectors), ("lists", vectors.tolist())):
        spent: dict[str, list[float]] = {name: [] for name in (COMMUNITY, OURS)}
        for number in range(min(chosen.rounds, 3)):
            for place in order(2, number):
                name = (COMMUNITY, OURS)[place]
                gc.collect()
                add = partial(build, name, vectors, texts, rows=rows)
                spent[name].append(timed(add))
        ratio = median(np.divide(spent[COMMUNITY], spent[OURS]).tolist())
        seconds = {name: round(median(each), 3) for name, each in spent.items()}
        found[form] = {"seconds": seconds, "ratio": round(ratio, 2)}
    return {"size": count, "forms": found}


def _by_turns(
    ways: Mapping[str, Way],
    queries: Vectors,
    rounds: int,
    *,
    first: int = 0,
    warm: bool = True,
) -> dict[str, list[float]]:
    spent: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for name in names if warm else ():
        ways[name](queries, K)
    for number in range(first, first + rounds):
        for place in order(len(names), number):
            search = ways[names[place]]
            began = perf_counter()
            search(queries, K)
            spent[names[place]].append(perf_counter() - began)
    return spent


def loading(embedding: Given, folder: Path, rounds: int) -> dict[str, float]:
    """Return the seconds of loading what was just saved, from the system's cache."""
    path = str(folder / RAW / "index.faiss")
    ways: dict[str, Callable[[], Any]] = {
        RAW: lambda: faiss.read_index(path),
        f"{RAW}, mmap": lambda: faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC),
        OURS: lambda: FAISSVectorStore.load_local(folder / OURS, embedding, device="cpu"),
        f"{OURS}, mmap": lambda: FAISSVectorStore.load_local(
            folder / OURS, embedding, device="cpu", mmap=True
        ),
    }
    return {
        name: round(median(timed(way) for _ in range(min(rounds, 3))), 4)
        for name, way in ways.items()
    }


def approximate(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Return queries/s at a recall of 0.95 for HNSW and IVF, ours beside FAISS on one index."""
    count = chosen.approximate
    vectors = make_vectors(count, chosen.dimension, 2)
    queries = make_vectors(chosen.batch, chosen.dimension, 3)
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]
    found = []
    for factory, knob, attribute in (
        ("HNSW32", "ef_search", "efSearch"),
        (f"IVF{max(int(4 * count**0.5) // 8, 16)},Flat", "nprobe", "nprobe"),
    ):
        raw: Any = faiss.index_factory(chosen.dimension, factory, faiss.METRIC_INNER_PRODUCT)
        if knob == "ef_search":
            raw.hnsw.efConstruction = 100
        raw.train(vectors)
        raw.add(vectors)
        size = None if knob == "ef_search" else count  # trained at once
        ours = FAISSVectorStore(Given(vectors), index=factory, device="cpu", train_size=size)
        numbers = list(map(str, range(count)))
        ours.add_embeddings(zip(numbers, vectors, strict=True), ids=numbers)
        ways = {RAW: raw, OURS: Search(ours), IDS: ours.similarity_search_ids_by_vectors}
        rows: list[dict[str, Any]] = []
        for name, way in ways.items():
            for effort in _EFFORTS:
                ask = _asker(way, queries, knob, attribute, effort)
                recall = _recall(_NUMBERS[name](ask()), truth)
                if recall >= RECALL:
                    rows.append(
                        {"name": name, knob: effort, "recall": round(recall, 3), "ask": ask}
                    )
                    break
        spent: dict[str, list[float]] = {row["name"]: [] for row in rows}
        for number in range(chosen.rounds):
            for place in order(len(rows), number):
                spent[rows[place]["name"]].append(timed(rows[place]["ask"]))
        for row in rows:
            del row["ask"]
            row["queries_per_second"] = round(len(queries) / median(spent[row["name"]]))
        found.append({"index": factory, "size": count, "rows": rows})
    return found


def _asker(way: Any, queries: Vectors, knob: str, attribute: str, effort: int) -> Callable[[], Any]:
    if callable(way):
        return partial(way, queries, K, **{knob: effort})
    made: Any = faiss
    kind = made.SearchParametersHNSW if knob == "ef_search" else made.SearchParametersIVF
    return partial(way.search, queries, K, params=kind(**{attribute: effort}))


# What was found, as numbers.
_NUMBERS: dict[str, Callable[[Any], list[list[int]]]] = {
    RAW: lambda found: found[1].tolist(),
    OURS: lambda found: [[int(document.id) for document, _ in hits] for hits in found],
    IDS: lambda found: [[int(id_) for id_, _ in hits] for hits in found],
}


def _recall(found: list[list[int]], truth: np.ndarray[Any, Any]) -> float:
    pairs = zip(found, truth.tolist(), strict=True)
    return float(np.mean([len(set(got) & set(true)) / K for got, true in pairs]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; print tables and one line of JSON."""
    chosen = options(arguments)
    sizes = [int(size) for size in chosen.sizes.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        measured = [exact(chosen, size, Path(scratch) / str(size)) for size in sizes]
    memory = {}
    if chosen.memory:
        for name in NAMES:
            task = {"name": name, "count": chosen.memory, "dimension": chosen.dimension}
            memory[name] = run_apart("benchmarks.search_memory", task)
        made = {"name": OURS, "count": chosen.memory, "dimension": chosen.dimension, "made": True}
        memory[f"{OURS}.add_texts"] = run_apart("benchmarks.search_memory", made)
    record: dict[str, Any] = {
        "benchmark": "search",
        "date": datetime.now(UTC).date().isoformat(),
        "dimension": chosen.dimension,
        "rounds": chosen.rounds,
        "batch": chosen.batch,
        "k": K,
        "device": machine.describe(select_device("cpu")),
        "versions": machine.versions() | {"langchain-community": version("langchain-community")},
        "exact": measured,
        "adding": adding(chosen, min(max(sizes), 100_000)),
        "memory": {"documents": chosen.memory, "rows": memory} if memory else None,
        "approximate": approximate(chosen) if chosen.approximate else [],
    }
    print(search_tables.section(record))
    if chosen.write:
        print(f"written: {results.write(record)}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
