"""Stores of langchain-community's FAISS, to move in from and to compare with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu import FAISSVectorStore

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    community = pytest.importorskip("langchain_community.vectorstores.faiss")
    strategies = pytest.importorskip("langchain_community.vectorstores.utils").DistanceStrategy
    in_memory = pytest.importorskip("langchain_community.docstore.in_memory")
faiss: Any = pytest.importorskip("faiss")

SIZE = 16
COUNT = 300
TEXTS = [f"text {n}" for n in range(COUNT)]
IDS = [f"id{n}" for n in range(COUNT)]
METADATAS: list[dict[str, Any]] = [
    {"n": n, "lang": "en" if n % 3 else "de", "nested": {"tags": ["a", n, None, True, 0.5]}}
    for n in range(COUNT)
]
QUERIES = [f"query {n}" for n in range(20)]
EMBEDDING = DeterministicFakeEmbedding(size=SIZE)


def theirs(**options: Any) -> Any:
    return community.FAISS.from_texts(TEXTS, EMBEDDING, METADATAS, ids=IDS, **options)


def over(index: Any, **options: Any) -> Any:
    """A store of theirs over an index that the user made."""
    vectors = np.array(EMBEDDING.embed_documents(TEXTS), dtype=np.float32)
    if not index.is_trained:
        index.train(vectors)
    store = community.FAISS(EMBEDDING, index, in_memory.InMemoryDocstore(), {}, **options)
    store.add_texts(TEXTS, METADATAS, ids=IDS)
    return store


def saved(store: Any, folder: Path) -> Path:
    store.save_local(str(folder))
    return folder


def split(found: Any) -> tuple[list[Any], list[float]]:
    return [document.id for document, _ in found], [float(score) for _, score in found]


def agree(ours: FAISSVectorStore, right: Any, *, cosine: bool = False) -> None:
    assert len(ours) == right.index.ntotal
    for query in QUERIES:
        ids, scores = split(ours.similarity_search_with_score(query, k=10))
        their_ids, their_scores = split(right.similarity_search_with_score(query, k=10))
        assert ids == their_ids
        if cosine:  # theirs is the squared distance of unit vectors
            scores = [2 - 2 * score for score in scores]
        np.testing.assert_allclose(scores, their_scores, rtol=1e-4, atol=1e-5)
        filtered = ours.similarity_search(query, k=10, filter={"lang": "de"})
        wanted = right.similarity_search(query, k=10, filter={"lang": "de"}, fetch_k=COUNT)
        assert filtered == wanted  # ids, texts and metadata
