"""The rerank benchmark's data sets, its arithmetic and its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import beir, tables
from benchmarks.bench_rerank import Pairs, enlist, latency, options, throughput
from benchmarks.corpus import Corpus
from benchmarks.rerankers import BASE, Pair, Reranker, Scores


@pytest.fixture
def data(tmp_path: Path) -> beir.DataSet:
    corpus = [{"_id": f"d{n}", "title": "", "text": "x" * n} for n in range(5)]
    corpus[1]["title"] = "A title"
    queries = [{"_id": name, "text": f"query {name}"} for name in ("q1", "q2", "unjudged")]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td4\t1\nq2\td0\t1\n"
    )
    return beir.read(tmp_path)


def test_a_folder_in_beirs_form(data: beir.DataSet) -> None:
    assert data.documents["d1"] == "A title\nx"
    assert data.queries == {"q1": "query q1", "q2": "query q2"}
    assert data.judgements == {"q1": {"d4": 1}, "q2": {"d0": 1}}


def test_quality_before_and_after(data: beir.DataSet) -> None:
    """A reranker that likes long documents puts d4 first, and d0 last of three."""
    found = {"q1": {"d1": 0.9, "d4": 0.8}, "q2": {"d0": 0.9, "d2": 0.5, "d3": 0.4}}

    def score(pairs: Sequence[Pair]) -> Scores:
        return np.array([len(text) for _, text in pairs if text is not None], np.float32)

    assert beir.ndcg(data, found) == pytest.approx((1 / log2(3) + 1) / 2)
    after = beir.reranked(data, found, Reranker("long", score))
    assert after["q2"] == {"d0": 0.0, "d2": 2.0, "d3": 3.0}
    assert after["q1"] == {"d1": 9.0, "d4": 4.0}
    assert beir.ndcg(data, after) == pytest.approx((1 / log2(3) + 1 / log2(4)) / 2)


class Words:
    """A corpus where a word is a token."""

    def __init__(self) -> None:
        self.number = 0
        self.tokens = [150.0]

    def fresh(self, queries: int, documents: int) -> list[Pair]:
        self.number += 1
        return [(f"{self.number} {q}", f"{d}") for q in range(queries) for d in range(documents)]


def test_everybody_gets_the_same_fresh_pairs_in_turn() -> None:
    seen: dict[str, list[list[Pair]]] = {BASE: [], "other": []}
    turns: list[str] = []

    def contestant(name: str, sign: int) -> Reranker:
        def score(pairs: Sequence[Pair]) -> Scores:
            seen[name].append(list(pairs))
            turns.append(name)
            return np.array([sign * int(text) for _, text in pairs], np.float32)

        return Reranker(name, score)

    here = [contestant(BASE, 1), contestant("other", -1)]
    chosen = options(["--queries", "2", "--documents", "5", "--rounds", "3"])
    words: Any = Words()
    rows = throughput(here, words, chosen, "cpu")
    assert seen[BASE] == seen["other"]
    measured = seen[BASE][1:]
    assert len({pair[0] for pairs in measured for pair in pairs}) == 6, "never the same query"
    assert turns[2:] == [BASE, "other", "other", BASE, BASE, "other"]
    assert [row["spearman"] for row in rows] == [1.0, -1.0]
    assert rows[0]["ratio"] == 1.0
    times = latency(here, words, 3, "cpu")
    assert all(row["p50"] <= row["p95"] <= row["p99"] for row in times)
    assert len(seen[BASE][-1]) == 100
    record = {
        "model": "tiny",
        "device": {"kind": "cuda", "name": "A card"},
        "versions": {"torch": "2", "sentence-transformers": "6"},
        "date": "2026-01-01",
        "rounds": 3,
        "queries": 2,
        "documents": 5,
        "calls": 3,
        "tokens_per_pair": 149.6,
        "throughput": rows,
        "latency_ms": times[:1],
        "skipped": [{"name": "third", "reason": "not here"}],
    }
    text = tables.rerank(record)
    assert "`tiny` on A card" in text
    assert "150 tokens a pair" in text
    assert f"| {BASE} |" in text
    assert "Left out of this run: third (not here)." in text
    record["quality"] = {
        "data": "d",
        "retriever": "r",
        "queries": 9,
        "candidates": 50,
        "before": 0.5,
        "rows": [{"name": "other", "ndcg10": 0.625}],
    }
    assert "0.625 |" in tables.rerank(record)
    assert "0.500 before reranking" in tables.rerank(record)


def test_an_unknown_contestant_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown contestant 'nobody'; known: CrossEncoder;"):
        enlist(options(["--peers", "nobody"]))


def test_pairs_have_the_lengths_that_were_wished(tiny_reranker: Any) -> None:
    pairs = Pairs(Path(tiny_reranker("bert")))
    pairs._corpus = Corpus(pairs._counter.words, ["the gpu and the cpu is fast " * 9] * 40)
    found = pairs.fresh(2, 5)
    assert len(found) == len(set(found)) == len(pairs.tokens) == 10
    assert len({query for query, _ in found}) == 2
    assert all(90 <= size <= 200 for size in pairs.tokens)
