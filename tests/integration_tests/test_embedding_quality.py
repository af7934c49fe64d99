"""Embeddings on real benchmarks: what they find is what they should find."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from langchain_gpu import FAISSVectorStore, GPUEmbeddings
from langchain_gpu.models.resolve import resolve

MINILM = "sentence-transformers/all-MiniLM-L6-v2"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore::langchain_gpu.events.TruncationWarning"),
]


@dataclass(frozen=True)
class Questions:
    """Paragraphs, and questions with the paragraph that answers each."""

    paragraphs: list[str]
    questions: list[str]
    answers: list[int]


@pytest.fixture(scope="module")
def xquad(shared: Path) -> Questions:
    data = json.loads((shared / "data/xquad/xquad.en.json").read_text())["data"]
    paragraphs = [part for article in data for part in article["paragraphs"]]
    asked = [(row, qa["question"]) for row, part in enumerate(paragraphs) for qa in part["qas"]]
    return Questions(
        [part["context"] for part in paragraphs],
        [question for _, question in asked],
        [row for row, _ in asked],
    )


def test_the_right_paragraph_is_found(xquad: Questions) -> None:
    """Recall on 1,190 questions is that of the same model in float32, within one in a hundred."""
    store = FAISSVectorStore(GPUEmbeddings(model=MINILM))
    store.add_texts(xquad.paragraphs, ids=[str(row) for row in range(len(xquad.paragraphs))])
    found = store.similarity_search_many(xquad.questions, k=5)
    best = [hits[0][0].id == str(row) for hits, row in zip(found, xquad.answers, strict=True)]
    five = [
        str(row) in {document.id for document, _ in hits}
        for hits, row in zip(found, xquad.answers, strict=True)
    ]

    model = SentenceTransformer(str(resolve(MINILM).path), device="cpu")
    similarity = model.encode(xquad.questions) @ model.encode(xquad.paragraphs).T
    reference = np.mean(similarity.argmax(axis=1) == xquad.answers)
    assert np.mean(best) == pytest.approx(reference, abs=0.01)
    assert np.mean(best) > 0.85
    assert np.mean(five) > 0.95


def test_similarity_agrees_with_people(shared: Path) -> None:
    """STS-B test: the rank correlation of the default dtype is that of float32."""
    with (shared / "data/stsb/stsb-en-test.csv").open(newline="") as file:
        rows = [(left, right, float(score)) for left, right, score in csv.reader(file)]
    left, right, gold = zip(*rows, strict=True)

    def correlation(embeddings: GPUEmbeddings) -> float:
        first = embeddings.embed_to_array(left)
        second = embeddings.embed_to_array(right)
        return float(spearmanr((first * second).sum(axis=1), gold).statistic)

    exact = correlation(GPUEmbeddings(model=MINILM, dtype="float32"))
    assert exact > 0.8
    assert correlation(GPUEmbeddings(model=MINILM)) == pytest.approx(exact, abs=0.002)
