"""Hybrid search on real questions: words find what vectors alone miss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_gpu import FAISSVectorStore, GPUEmbeddings
from langchain_gpu.search.fusion import FUSIONS

MINILM = "sentence-transformers/all-MiniLM-L6-v2"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore::langchain_gpu.events.TruncationWarning"),
]


class Known(Embeddings):
    """Vectors that were made before, all at once."""

    def __init__(self, texts: list[str]) -> None:
        vectors = GPUEmbeddings(model=MINILM).embed_to_array(texts)
        self._vectors = dict(zip(texts, vectors, strict=True))

    def embed_to_array(self, texts: list[str]) -> NDArray[np.float32]:
        return np.stack([self._vectors[text] for text in texts])

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._vectors[text].tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        found: list[float] = self._vectors[text].tolist()
        return found


@pytest.fixture(scope="module")
def asked(shared: Path) -> tuple[FAISSVectorStore, list[tuple[str, str]]]:
    """A store of 240 paragraphs, and 1,190 questions with the id of the paragraph."""
    data = json.loads((shared / "data/xquad/xquad.en.json").read_text())["data"]
    paragraphs = [part for article in data for part in article["paragraphs"]]
    questions = [
        (qa["question"], str(row)) for row, part in enumerate(paragraphs) for qa in part["qas"]
    ]
    texts = [part["context"] for part in paragraphs]
    store = FAISSVectorStore(Known(texts + [question for question, _ in questions]))
    store.add_texts(texts, ids=[str(row) for row in range(len(texts))])
    return store, questions


def recall(
    store: FAISSVectorStore, questions: list[tuple[str, str]], k: int, **how: object
) -> float:
    kind = str(how.pop("search_type", "hybrid"))
    hits = [
        right in {found.id for found in store.search(question, kind, k=k, **how)}
        for question, right in questions
    ]
    return float(np.mean(hits))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("k", [1, 3])
def test_recall_is_above_that_of_the_vectors_alone(
    asked: tuple[FAISSVectorStore, list[tuple[str, str]]], fusion: str, k: int
) -> None:
    store, questions = asked
    alone = recall(store, questions, k, search_type="similarity")
    assert recall(store, questions, k, fusion=fusion) > alone
