"""LangChain's own retrievers, caches, selectors and tools, over our store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.retrievers import EnsembleRetriever, MergerRetriever, ParentDocumentRetriever
from langchain_classic.retrievers.document_compressors import (
    DocumentCompressorPipeline,
    EmbeddingsFilter,
)
from langchain_classic.retrievers.multi_vector import MultiVectorRetriever, SearchType
from langchain_classic.storage import LocalFileStore
from langchain_core.documents import Document
from langchain_core.example_selectors import (
    MaxMarginalRelevanceExampleSelector,
    SemanticSimilarityExampleSelector,
)
from langchain_core.stores import InMemoryStore
from langchain_core.tools import create_retriever_tool
from langchain_text_splitters import CharacterTextSplitter

from langchain_gpu import FAISSVectorStore
from tests.unit_tests.planes import COMPASS, Plane, store, texts_of


def test_rankings_of_two_retrievers_are_merged_without_doubles() -> None:
    compass = store(*COMPASS)
    two = [compass.as_retriever(k=2), compass.as_retriever(search_type="mmr", k=2)]
    merged = texts_of(EnsembleRetriever(retrievers=two, weights=[0.5, 0.5]).invoke("2 1"))
    assert merged[0] == "1 1"
    assert len(merged) == len(set(merged))
    assert len(MergerRetriever(retrievers=two).invoke("2 1")) == 4


def test_small_chunks_are_searched_and_whole_documents_come_back() -> None:
    retriever = ParentDocumentRetriever(
        vectorstore=FAISSVectorStore(Plane()),
        docstore=InMemoryStore(),
        child_splitter=CharacterTextSplitter(separator=";", chunk_size=5, chunk_overlap=0),
        search_kwargs={"k": 1},
    )
    retriever.add_documents([Document("1 0;0 1"), Document("-1 0;0 -1")])
    assert texts_of(retriever.invoke("0 -1")) == ["-1 0;0 -1"]
    assert texts_of(asyncio.run(retriever.ainvoke("0 1"))) == ["1 0;0 1"]


@pytest.mark.parametrize("kind", SearchType)
def test_summaries_are_searched_in_every_way_and_documents_come_back(kind: SearchType) -> None:
    options: dict[str, Any] = {"k": 1}
    if kind is SearchType.similarity_score_threshold:
        options["score_threshold"] = 0.5
    retriever = MultiVectorRetriever(
        vectorstore=FAISSVectorStore(Plane()),
        docstore=InMemoryStore(),
        search_type=kind,
        search_kwargs=options,
    )
    whole = {"a": Document("east"), "b": Document("north")}
    retriever.vectorstore.add_texts(["1 0", "0 1"], [{"doc_id": name} for name in whole])
    retriever.docstore.mset(list(whole.items()))
    assert texts_of(retriever.invoke("0 3")) == ["north"]


@pytest.mark.parametrize(
    "kind", [SemanticSimilarityExampleSelector, MaxMarginalRelevanceExampleSelector]
)
def test_examples_are_chosen_from_a_store_and_added_to_it(kind: Any) -> None:
    examples = [{"at": "1 0", "is": "east"}, {"at": "0 1", "is": "north"}]
    selector = kind.from_examples(examples, Plane(), FAISSVectorStore, k=1, input_keys=["at"])
    assert selector.select_examples({"at": "1 5"}) == [examples[1]]
    selector.add_example({"at": "-1 0", "is": "west"})
    assert selector.select_examples({"at": "-2 0"}) == [{"at": "-1 0", "is": "west"}]
    assert asyncio.run(selector.aselect_examples({"at": "1 5"})) == [examples[1]]


def test_vectors_that_were_cached_are_not_embedded_again(tmp_path: Path) -> None:
    plane = Plane(model="plane")
    cached = CacheBackedEmbeddings.from_bytes_store(
        plane, LocalFileStore(tmp_path), namespace="plane", key_encoder="sha256"
    )
    first = FAISSVectorStore.from_texts(list(COMPASS), cached)
    second = FAISSVectorStore.from_texts([*COMPASS, "0 -1"], cached)
    assert plane.asked == len(COMPASS) + 1
    assert texts_of(first.similarity_search("3 0", k=1)) == ["1 0"]
    assert texts_of(second.similarity_search("0 -3", k=1)) == ["0 -1"]


def test_what_was_found_goes_through_a_pipeline_of_compressors() -> None:
    found = store(*COMPASS).similarity_search("1 0", k=4)
    near = EmbeddingsFilter(embeddings=Plane(), similarity_threshold=0.5)
    pipeline = DocumentCompressorPipeline(transformers=[near])
    assert texts_of(list(pipeline.compress_documents(found, "1 0"))) == ["1 0", "1 1"]


def test_a_retriever_is_a_tool_whose_artifact_is_what_it_found() -> None:
    tool = create_retriever_tool(
        store(*COMPASS).as_retriever(k=1),
        "search",
        "Search the compass.",
        response_format="content_and_artifact",
    )
    call = {"name": "search", "args": {"query": "0 7"}, "id": "1", "type": "tool_call"}
    message = tool.invoke(call)
    assert message.content == "0 1"
    assert [document.metadata["n"] for document in message.artifact] == [2]
