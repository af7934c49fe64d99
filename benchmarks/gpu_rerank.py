"""Pairs of a query and a document on a GPU: ours beside sentence-transformers' cross-encoder."""

from __future__ import annotations

import argparse
import gc
from typing import Any

import numpy as np

from benchmarks import bench_rerank, rerankers
from benchmarks.contestants import Setup
from benchmarks.corpus import Corpus
from benchmarks.gpu_cases import gone
from benchmarks.rerankers import BASE, OURS

_DOCUMENTS = 50  # of a query
_NAMES = (BASE, f"{BASE}, bfloat16", OURS)


def measure(
    setup: Setup, queries: int, calls: int, rounds: int, corpus: Corpus | None = None
) -> dict[str, Any]:
    """Score queries with 50 documents each, then one query with 100.

    Args:
        setup: A folder with a cross-encoder, and where it runs.
        queries: Of a round.
        calls: Of one query with 100 documents.
        rounds: Of fresh pairs, in which all take turns.
        corpus: Where texts come from; None for one of its own.

    Returns:
        `throughput` and `latency_ms` as in `bench_rerank`, and who was `left_out`, and why.
    """
    here: list[rerankers.Reranker] = []
    left_out: list[dict[str, str]] = []
    for name in _NAMES:
        try:
            here.append(rerankers.load(name, str(setup.folder), setup.device))
        except Exception as error:
            if name == BASE:
                raise
            left_out.append(gone(name, error))
    pairs = bench_rerank.Pairs(setup.folder, corpus)
    chosen = argparse.Namespace(queries=queries, documents=_DOCUMENTS, rounds=rounds)
    device = setup.torch_device
    found = {
        "model": setup.folder.name,
        "queries": queries,
        "documents": _DOCUMENTS,
        "throughput": bench_rerank.throughput(here, pairs, chosen, device),
        "latency_ms": bench_rerank.latency(here, pairs, calls, device),
        "tokens_per_pair": round(float(np.mean(pairs.tokens)), 1),
        "notes": {each.name: each.note for each in here if each.note},
        "left_out": left_out,
    }
    here.clear()
    gc.collect()
    return found


__all__ = ["measure"]
