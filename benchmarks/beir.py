"""Data sets in BEIR's form, and what a reranker does to the order of what was retrieved."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import nDCG

from benchmarks.rerankers import Reranker
from langchain_gpu import GPUEmbeddings

Run = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class DataSet:
    """Documents, questions, and which answer which.

    Attributes:
        documents: Texts by id.
        queries: Texts by id, those with judgements only.
        judgements: Grades of documents, by query.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]


def read(folder: Path, limit: int | None = None) -> DataSet:
    """Read corpus.jsonl, queries.jsonl and qrels/test.tsv.

    Args:
        folder: Where they are.
        limit: Queries at most; None for all.
    """
    documents = {
        row["_id"]: f"{row.get('title', '')}\n{row['text']}".strip()
        for row in _lines(folder / "corpus.jsonl")
    }
    texts = {row["_id"]: row["text"] for row in _lines(folder / "queries.jsonl")}
    judgements: dict[str, dict[str, int]] = {}
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judgements.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    kept = sorted(judgements)[:limit]
    return DataSet(
        documents, {name: texts[name] for name in kept}, {name: judgements[name] for name in kept}
    )


def retrieve(data: DataSet, model: str, device: str, count: int) -> dict[str, dict[str, float]]:
    """Return the `count` nearest documents of each query, with their cosines."""
    with GPUEmbeddings(model=model, device=device) as embeddings:
        names = list(data.documents)
        documents = embeddings.embed_to_array([data.documents[name] for name in names])
        queries = np.array([embeddings.embed_query(text) for text in data.queries.values()])
    found = {}
    for name, row in zip(data.queries, queries @ documents.T, strict=True):
        best = np.argsort(-row, kind="stable")[:count]
        found[name] = {names[at]: float(row[at]) for at in best}
    return found


def reranked(data: DataSet, found: Run, reranker: Reranker) -> dict[str, dict[str, float]]:
    """Return the same documents with the reranker's scores."""
    pairs = [(data.queries[q], data.documents[d]) for q, row in found.items() for d in row]
    scores = iter(reranker.score(pairs).tolist())
    return {query: {name: next(scores) for name in row} for query, row in found.items()}


def ndcg(data: DataSet, run: Run) -> float:
    """Return nDCG@10, the mean over queries."""
    judged = [
        ir_measures.Qrel(query, name, grade)
        for query, row in data.judgements.items()
        for name, grade in row.items()
    ]
    scored = [
        ir_measures.ScoredDoc(query, name, score)
        for query, row in run.items()
        for name, score in row.items()
    ]
    measure = nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], judged, scored)[measure])


def _lines(path: Path) -> Sequence[Mapping[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
