"""Embeddings in the plane, of texts that are their own vectors, and a store of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search.base import Metric

COMPASS = ("1 0", "1 1", "0 1", "-1 0")


class Plane(Embeddings):
    """Two dimensions: the text is the vector, as in `"3 4"`."""

    def __init__(self, model: str | None = None, turn: float = 0.0) -> None:
        self.model = model
        self.turn = turn
        self.asked = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked += len(texts)
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._vector(text)

    def _vector(self, text: str) -> list[float]:
        if text.startswith("The quick"):
            return [math.cos(self.turn), math.sin(self.turn)]
        return [float(word) for word in text.split()]


class Arrays(Plane):
    def embed_to_array(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self._vector(text) for text in texts], dtype=np.float32)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        pytest.fail("an embedding with arrays was asked for lists")


def store(*texts: str, metric: Metric = "cosine", **options: Any) -> FAISSVectorStore:
    ids = [f"id{n}" for n in range(len(texts))]
    metadatas = [{"n": n, "even": n % 2 == 0} for n in range(len(texts))]
    return FAISSVectorStore.from_texts(
        list(texts), Plane(), metadatas, ids=ids, metric=metric, **options
    )


def texts_of(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]
