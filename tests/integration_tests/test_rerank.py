"""A real cross-encoder: it scores as sentence-transformers does, and its order is worth having."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, nDCG
from scipy.stats import spearmanr
from sentence_transformers import CrossEncoder

from langchain_gpu import FAISSVectorStore, GPUEmbeddings, GPURerank, create_reranking_retriever

pytestmark = [
    pytest.mark.shared,
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore::langchain_gpu.events.TruncationWarning"),
]
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# Questions on articles the cross-encoder was trained on are among them, so that a gain is no
# statement about rerankers; it shows that the path changes the order for the better.
EVERY = 8
CANDIDATES = 20


@dataclass(frozen=True)
class Task:
    """Paragraphs, questions with the paragraph that answers each, and the nearest paragraphs."""

    paragraphs: list[str]
    questions: list[str]
    answers: list[int]
    nearest: list[list[int]]


@pytest.fixture(scope="module")
def store(shared: Path) -> FAISSVectorStore:
    data = json.loads((shared / "data/xquad/xquad.en.json").read_text())["data"]
    paragraphs = [part["context"] for article in data for part in article["paragraphs"]]
    store = FAISSVectorStore(GPUEmbeddings(model=MINILM))
    store.add_texts(paragraphs, ids=[str(row) for row in range(len(paragraphs))])
    return store


@pytest.fixture(scope="module")
def xquad(shared: Path, store: FAISSVectorStore) -> Task:
    data = json.loads((shared / "data/xquad/xquad.en.json").read_text())["data"]
    parts = [part for article in data for part in article["paragraphs"]]
    asked = [(row, qa["question"]) for row, part in enumerate(parts) for qa in part["qas"]][::EVERY]
    questions = [question for _, question in asked]
    found = store.similarity_search_many(questions, k=CANDIDATES)
    return Task(
        [part["context"] for part in parts],
        questions,
        [row for row, _ in asked],
        [[int(str(document.id)) for document, _ in hits] for hits in found],
    )


@pytest.fixture(scope="module")
def model(shared: Path) -> str:
    return str(shared / "models" / "cross-encoder-minilm-test")


@pytest.fixture(scope="module")
def pairs(xquad: Task) -> list[tuple[str, str]]:
    """Pairs of every kind: near ones, and two far from each other for each question."""
    some = list(zip(xquad.questions, xquad.nearest, strict=True))[::6]
    far = np.random.default_rng(0)
    return [
        (question, xquad.paragraphs[row])
        for question, rows in some
        for row in [*rows[:4], *far.integers(0, len(xquad.paragraphs), 2).tolist()]
    ]


@pytest.fixture(scope="module")
def exact(model: str, pairs: list[tuple[str, str]]) -> np.ndarray:
    scores: np.ndarray = CrossEncoder(model, device="cpu").predict([list(each) for each in pairs])
    return scores


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_scores_are_those_of_sentence_transformers(
    model: str, pairs: list[tuple[str, str]], exact: np.ndarray, backend: str
) -> None:
    reranker = GPURerank(model=model, backend=backend, device="cpu", dtype="float32")
    assert np.ptp(exact) > 5, "scores that really spread"
    assert np.abs(reranker.score(pairs) - exact).max() < 1e-3


def test_the_default_ranks_alike(
    model: str, pairs: list[tuple[str, str]], exact: np.ndarray
) -> None:
    assert spearmanr(GPURerank(model=model).score(pairs), exact).statistic >= 0.99


def test_the_order_is_better_than_the_retrievers(model: str, xquad: Task) -> None:
    reranker = GPURerank(model=model)
    scores = reranker.score_batch(
        xquad.questions, [[xquad.paragraphs[row] for row in rows] for rows in xquad.nearest]
    )

    def quality(values: list[np.ndarray]) -> tuple[float, float]:
        judged = [ir_measures.Qrel(str(q), str(row), 1) for q, row in enumerate(xquad.answers)]
        run = [
            ir_measures.ScoredDoc(str(q), str(row), float(value))
            for q, (rows, each) in enumerate(zip(xquad.nearest, values, strict=True))
            for row, value in zip(rows, each, strict=True)
        ]
        found = ir_measures.calc_aggregate([nDCG @ 10, RR @ 10], judged, run)
        return found[nDCG @ 10], found[RR @ 10]

    before = quality([-np.arange(CANDIDATES) for _ in xquad.questions])
    after = quality(scores)
    assert after[0] > before[0] + 0.005
    assert after[1] > before[1] + 0.005
    assert after[0] > 0.93


@pytest.fixture
def best(model: str) -> Iterator[GPURerank]:
    with GPURerank(model=model, top_n=1) as reranker:
        yield reranker


async def test_a_retriever_finds_the_answer(
    store: FAISSVectorStore, xquad: Task, best: GPURerank
) -> None:
    retriever = create_reranking_retriever(store.as_retriever(), best, CANDIDATES)
    some = list(zip(xquad.questions, xquad.answers, strict=True))[::15]
    right = [retriever.invoke(question)[0].id == str(row) for question, row in some]
    assert np.mean(right) >= 0.8
    document = (await retriever.ainvoke(some[0][0]))[0]
    assert isinstance(document.metadata["relevance_score"], float)
