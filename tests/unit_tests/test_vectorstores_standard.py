"""LangChain's own suites, whole, in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)

from langchain_gpu import FAISSRetriever, FAISSVectorStore


class TestCosine(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> VectorStore:
        return FAISSVectorStore(self.get_embeddings())


class TestInnerProduct(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> VectorStore:
        # The suite's vectors are random and not normalized: under the inner product a longer one
        # may come before the very text that was asked for, so they are normalized here.
        return FAISSVectorStore(Normalized(size=6), metric="ip")


class TestDistance(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> VectorStore:
        return FAISSVectorStore(self.get_embeddings(), metric="l2")


class TestLoaded(VectorStoreIntegrationTests):
    """A store that was saved and loaded is as good as a new one."""

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> VectorStore:
        FAISSVectorStore(self.get_embeddings()).save_local(tmp_path)
        return FAISSVectorStore.load_local(tmp_path, self.get_embeddings())


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[FAISSRetriever]:
        return FAISSRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        texts = ["one", "two", "three", "four", "five"]
        store = FAISSVectorStore.from_texts(texts, DeterministicFakeEmbedding(size=6))
        return {"vectorstore": store}

    @property
    def retriever_query_example(self) -> str:
        return "two"


class Normalized(DeterministicFakeEmbedding):
    def embed_query(self, text: str) -> list[float]:
        vector = super().embed_query(text)
        length = sum(number * number for number in vector) ** 0.5
        return [number / length for number in vector]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]
