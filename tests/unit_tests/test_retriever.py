"""The retriever: its `k`, its search types, and scores on copies."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListLLM
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
)

from langchain_gpu import FAISSRetriever, FAISSVectorStore


class Plane(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return list(map(self.embed_query, texts))

    def embed_query(self, text: str) -> list[float]:
        return [float(word) for word in text.split()]


@pytest.fixture
def store() -> FAISSVectorStore:
    texts = ["1 0", "1 0.1", "1 1", "0 1", "-1 0"]
    metadatas: list[dict[str, Any]] = [{"n": n, "score": "mine"} for n in range(5)]
    return FAISSVectorStore.from_texts(texts, Plane(), metadatas)


def found(retriever: FAISSRetriever, query: str = "1 0", **options: Any) -> list[Any]:
    return [document.metadata["n"] for document in retriever.invoke(query, **options)]


def test_it_is_made_by_its_store(store: FAISSVectorStore) -> None:
    retriever = store.as_retriever(k=2)
    assert isinstance(retriever, FAISSRetriever)
    assert retriever.tags == ["FAISSVectorStore", "Plane"]
    assert found(retriever) == [0, 1]
    assert store.as_retriever(tags=["mine"]).tags == ["mine"]


def test_k_by_default_field_search_kwargs_and_invoke(store: FAISSVectorStore) -> None:
    assert len(found(store.as_retriever())) == 4
    assert len(found(store.as_retriever(k=3))) == 3
    assert len(found(store.as_retriever(search_kwargs={"k": 2}))) == 2
    assert len(found(store.as_retriever(k=3, search_kwargs={"k": 2}), k=1)) == 1


async def test_async_takes_k_too(store: FAISSVectorStore) -> None:
    documents = await store.as_retriever(k=3).ainvoke("1 0", k=1)
    assert [document.metadata["n"] for document in documents] == [0]


def test_scores_stand_on_copies(store: FAISSVectorStore) -> None:
    documents = store.as_retriever(k=3).invoke("1 0")
    assert [round(document.metadata["score"], 3) for document in documents] == [1, 0.995, 0.707]
    documents[0].metadata["score"] = "changed"
    assert store.similarity_search("1 0", k=1)[0].metadata["score"] == "mine"


def test_the_score_goes_where_it_is_wanted(store: FAISSVectorStore) -> None:
    (document,) = store.as_retriever(k=1, score_key="cosine").invoke("1 0")
    assert document.metadata == {"n": 0, "score": "mine", "cosine": pytest.approx(1)}


def test_without_scores_a_document_found_twice_is_the_same_one(store: FAISSVectorStore) -> None:
    multi_query = pytest.importorskip("langchain_classic.retrievers.multi_query")
    retriever = multi_query.MultiQueryRetriever.from_llm(
        store.as_retriever(k=1, score_key=None), FakeListLLM(responses=["1 0\n1 0.01\n0 1"])
    )
    assert [document.metadata["n"] for document in retriever.invoke("any")] == [0, 3]


def test_filters_of_a_self_query_are_understood(store: FAISSVectorStore) -> None:
    self_query = pytest.importorskip("langchain_classic.retrievers.self_query.base")
    pinecone = pytest.importorskip("langchain_community.query_constructors.pinecone")
    number = partial(Comparison, attribute="n")
    either = Operation(
        operator=Operator.OR,
        arguments=[
            number(comparator=Comparator.IN, value=[1, 3]),
            number(comparator=Comparator.EQ, value=4),
        ],
    )
    least = number(comparator=Comparator.GTE, value=1)
    asked = StructuredQuery(
        query="1 0", filter=Operation(operator=Operator.AND, arguments=[least, either])
    )
    retriever = self_query.SelfQueryRetriever(
        query_constructor=RunnableLambda(lambda _: asked),
        vectorstore=store,
        structured_query_translator=pinecone.PineconeTranslator(),
    )
    assert [document.metadata["n"] for document in retriever.invoke("any")] == [1, 3, 4]


def test_mmr_prefers_the_unlike(store: FAISSVectorStore) -> None:
    retriever = store.as_retriever(
        search_type="mmr", k=2, search_kwargs={"fetch_k": 4, "lambda_mult": 0.4}
    )
    documents = retriever.invoke("1 0")
    assert [document.metadata["n"] for document in documents] == [0, 3]
    assert [round(document.metadata["score"], 3) for document in documents] == [1, 0]


def test_a_threshold_is_a_relevance(store: FAISSVectorStore) -> None:
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9}
    )
    documents = retriever.invoke("1 0")
    assert [document.metadata["n"] for document in documents] == [0, 1]
    assert all(document.metadata["score"] >= 0.9 for document in documents)


def test_filters_by_field_and_by_call(store: FAISSVectorStore) -> None:
    retriever = store.as_retriever(search_kwargs={"filter": {"n": {"$gt": 1}}})
    assert found(retriever) == [2, 3, 4]
    assert found(retriever, filter={"n": 4}) == [4]


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
def test_what_it_does_not_know_it_refuses(store: FAISSVectorStore, search_type: str) -> None:
    retriever = store.as_retriever(search_type=search_type)
    with pytest.raises(TypeError, match="fliter"):
        retriever.invoke("1 0", fliter={})
    with pytest.raises(ValueError, match="search_type of magic not allowed"):
        store.as_retriever(search_type="magic")
    with pytest.raises(ValueError, match="k must be at least 1"):
        retriever.invoke("1 0", k=0)


@pytest.mark.parametrize("name", ["filter", "score_threshold", "kk"])
def test_arguments_of_the_search_are_not_dropped_by_the_retriever(
    store: FAISSVectorStore, name: str
) -> None:
    with pytest.raises(TypeError, match=rf"'{name}'.*search_kwargs"):
        store.as_retriever(k=2, **{name: {"n": 4}})
    with pytest.raises(TypeError, match=rf"'{name}'.*search_kwargs"):
        FAISSRetriever(vectorstore=store, **{name: {"n": 4}})


def test_it_is_configurable_and_copied(store: FAISSVectorStore) -> None:
    retriever = store.as_retriever(k=2, name="places", metadata={"of": "tests"})
    either = retriever.configurable_fields(k=ConfigurableField(id="k"))
    assert len(either.invoke("1 0", {"configurable": {"k": 3}})) == 3
    assert found(retriever.model_copy(update={"k": 1})) == [0]


def test_it_stands_in_a_chain(store: FAISSVectorStore) -> None:
    chain = store.as_retriever(k=1) | (lambda documents: documents[0].page_content)
    assert chain.invoke("0 2") == "0 1"
    assert chain.batch(["0 2", "-3 0"]) == ["0 1", "-1 0"]
