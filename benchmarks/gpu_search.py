"""Exact search on a GPU: our store and its searchers there, beside FAISS on the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import faiss
import numpy as np

from benchmarks import machine
from benchmarks.contestants import Setup
from benchmarks.gpu_cases import gone
from benchmarks.measure import order
from benchmarks.search_peers import IDS, OURS, RAW, Given, Search, Vectors, make_vectors
from langchain_gpu import FAISSVectorStore, select_device
from langchain_gpu.search import kinds
from langchain_gpu.search.base import CannotSearch, Searcher

DIMENSION = 384
BATCH = 1024
K = 10
_FLOAT32, _FLOAT16 = 4, 2  # bytes of a number
Way = Callable[[Vectors], Any]


def measure(setup: Setup, count: int, singles: int, rounds: int) -> dict[str, Any]:
    """Search `count` vectors for the nearest 10, one query at a time and 1,024 at once.

    Args:
        setup: Where to search.
        count: Vectors.
        singles: Single queries in a round.
        rounds: In which all take turns.

    Returns:
        `rows`, whose ratios are against FAISS on the CPU in the same round. `bandwidth_share` is
        what a single query reads of the vectors in a second, of the bytes that `bandwidth` moves;
        `same` the share of FAISS's neighbors that was found. And who was `left_out`, and why.
    """
    device = setup.torch_device
    vectors = make_vectors(count, DIMENSION, 2)
    queries = make_vectors(BATCH, DIMENSION, 3)
    left_out: list[dict[str, str]] = []
    raw = faiss.IndexFlatIP(DIMENSION)
    raw.add(vectors)
    ways: dict[str, Way] = {RAW: lambda asked: raw.search(asked, K)}
    widths = {RAW: _FLOAT32}
    store = FAISSVectorStore(Given(vectors), metric="ip", index="flat", device=setup.device)
    store.add_embeddings(zip(map(str, range(count)), vectors, strict=True))
    ways[OURS] = partial(Search(store), k=K)
    ways[IDS] = partial(store.similarity_search_ids_by_vectors, k=K)
    index = kinds.get("flat").create(DIMENSION, "ip")
    index.add(np.arange(count), vectors)
    for name, width, make in _searchers(setup):
        try:
            searcher = make()
            searcher.build(index)
        except (CannotSearch, ImportError, RuntimeError) as error:
            left_out.append(gone(name, error))
            continue
        ways[name] = partial(_nearest, searcher)
        widths[name] = width
    wanted = raw.search(queries, K)[1]
    same = {
        name: round(float(np.mean(way(queries)[1] == wanted)), 4)
        for name, way in ways.items()
        if name in widths
    }
    batch, single = _by_turns(ways, queries, singles, rounds, device)
    bandwidth = machine.bandwidth(device)
    held = count * DIMENSION
    rows = [
        {
            "name": name,
            "batch_ms": round(1000 * median(batch[name]), 3),
            "batch_ratio": round(median(np.divide(batch[RAW], batch[name]).tolist()), 2),
            "single_us": round(1e6 * median(single[name]), 1),
            "single_ratio": round(median(np.divide(single[RAW], single[name]).tolist()), 2),
            "bandwidth_share": round(held * widths[name] / median(single[name]) / bandwidth, 4)
            if name in widths and name != RAW
            else None,
            "same": same.get(name),
        }
        for name in ways
    ]
    found = {
        "vectors": count,
        "dimension": DIMENSION,
        "k": K,
        "batch": BATCH,
        "cpu_threads": faiss.omp_get_max_threads(),
        "bandwidth": round(bandwidth),
        "searched_on": store.device.reason,
        "rows": rows,
        "left_out": left_out,
    }
    del ways, store, index
    gc.collect()
    return found


def _searchers(setup: Setup) -> list[tuple[str, int, Callable[[], Searcher]]]:
    """Return what could search on the device: a name, the bytes of a number there, and a maker."""
    device = select_device(setup.device)

    def by_torch() -> Searcher:
        from langchain_gpu.search.torch_flat import TorchFlat

        return TorchFlat(device)

    def by_faiss(dtype: Any) -> Searcher:
        from langchain_gpu.search.faiss_gpu import FaissGPU, has_gpu_build

        if device.kind != "cuda" or not has_gpu_build():
            raise CannotSearch("the installed FAISS is a CPU build", cause="absent")
        return FaissGPU(device.index or 0, dtype=dtype)

    return [
        ("torch", _FLOAT32 if device.kind == "cpu" else _FLOAT16, by_torch),
        ("FAISS, float32", _FLOAT32, partial(by_faiss, "float32")),
        ("FAISS, float16", _FLOAT16, partial(by_faiss, "float16")),
    ]


def _nearest(searcher: Searcher, queries: Vectors) -> tuple[Any, Any]:
    found = searcher.search(queries, K)
    return found.scores, found.rows


def _by_turns(
    ways: dict[str, Way], queries: Vectors, singles: int, rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of each batch, and of a single query in each round."""
    names = list(ways)
    batch: dict[str, list[float]] = {name: [] for name in names}
    single: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        ways[name](queries)
        ways[name](queries[:1])
    for number in range(rounds):
        for place in order(len(names), number):
            way = ways[names[place]]
            began = machine.clock(device)
            way(queries)
            batch[names[place]].append(machine.clock(device) - began)
            alone = []
            for query in queries[number * singles : (number + 1) * singles]:
                began = machine.clock(device)
                way(query[None])
                alone.append(machine.clock(device) - began)
            single[names[place]].append(median(alone))
    return batch, single


__all__ = ["measure"]
