"""The store as a LangChain user meets it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search.base import Metric
from langchain_gpu.store.errors import WrongModelError
from tests.unit_tests.planes import COMPASS, Arrays, Plane, store, texts_of


@pytest.mark.parametrize(
    ("metric", "scores", "relevances"),
    [
        ("cosine", [1.0, math.sqrt(0.5), 0.0, -1.0], [1.0, math.sqrt(0.5), 0.0, 0.0]),
        ("ip", [2.0, 2.0, 0.0, -2.0], [5 / 6, 5 / 6, 0.5, 1 / 6]),
        ("l2", [1.0, 2.0, 5.0, 9.0], [1 / 2, 1 / 3, 1 / 6, 1 / 10]),
    ],
)
def test_scores_mean_what_the_class_says(
    metric: Metric, scores: list[float], relevances: list[float]
) -> None:
    compass = store(*COMPASS, metric=metric)
    found = compass.similarity_search_with_score("2 0", k=4)
    assert {document.page_content for document, _ in found[:2]} == {"1 0", "1 1"}
    assert texts_of([document for document, _ in found[2:]]) == ["0 1", "-1 0"]
    np.testing.assert_allclose([score for _, score in found], scores, atol=1e-6)
    relevant = compass.similarity_search_with_relevance_scores("2 0", k=4)
    np.testing.assert_allclose([score for _, score in relevant], relevances, atol=1e-6)
    assert all(type(score) is float for _, score in found)


def test_a_relevance_of_ones_own() -> None:
    compass = store(*COMPASS, relevance_score_fn=lambda score: (score + 1) / 2)
    found = compass.similarity_search_with_relevance_scores("1 0", k=4, score_threshold=0.5)
    assert [round(score, 3) for _, score in found] == [1, 0.854, 0.5]


def test_all_ways_to_search_agree() -> None:
    compass = store(*COMPASS)
    expected = ["1 1", "1 0", "0 1"]
    vector = [2.0, 1.9]
    assert texts_of(compass.similarity_search("2 1.9", k=3)) == expected
    assert texts_of(compass.similarity_search_by_vector(vector, k=3)) == expected
    assert texts_of(compass.similarity_search_by_vector(np.array(vector), k=3)) == expected
    scored = compass.similarity_search_with_score("2 1.9", k=3)
    assert texts_of([document for document, _ in scored]) == expected
    assert compass.similarity_search_with_score_by_vector(vector, k=3) == scored
    assert compass.similarity_search_many(["2 1.9", "-1 0"], k=3)[0] == scored
    assert len(compass.similarity_search_many(["2 1.9", "-1 0"], k=3)) == 2


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_ids_alone_are_those_of_the_documents(metric: Metric) -> None:
    compass = store(*COMPASS, metric=metric)
    queries = ["2 1.9", "-1 0", "0 1"]
    vectors = compass.embeddings.embed_documents(queries)
    for options in ({}, {"k": 2}, {"k": 99}, {"filter": lambda _: False}):
        found = compass.similarity_search_many(queries, **options)
        alone = [[(document.id, score) for document, score in hits] for hits in found]
        assert compass.similarity_search_ids_by_vectors(vectors, **options) == alone
        assert compass.similarity_search_ids_by_vectors(np.array(vectors), **options) == alone
    assert compass.similarity_search_ids_by_vectors([]) == []


async def test_async_ways_agree() -> None:
    compass = store(*COMPASS)
    assert texts_of(await compass.asimilarity_search("1 0", k=1)) == ["1 0"]
    assert texts_of(await compass.asimilarity_search_by_vector([1.0, 0.0], k=1)) == ["1 0"]
    ((document, score),) = await compass.asimilarity_search_with_score("1 0", k=1)
    assert (document.page_content, score) == ("1 0", 1)
    assert len(await compass.amax_marginal_relevance_search("1 0", k=2)) == 2
    for name in ("similarity_search", "max_marginal_relevance_search"):
        here = getattr(compass, f"{name}_with_score_by_vector")([1.0, 0.0], k=2, filter={})
        ahead = getattr(compass, f"a{name}_with_score_by_vector")([1.0, 0.0], k=2, filter={})
        assert await ahead == here
    pairs = [("1 2", [1.0, 2.0])]
    made = await FAISSVectorStore.afrom_embeddings(pairs, Plane(), ids=["z"], metric="l2")
    assert (made.metric, [document.id for document in made.iter_documents()]) == ("l2", ["z"])
    made = await FAISSVectorStore.afrom_texts(["1 2"], Plane(), ids=["a"])
    assert await made.aadd_texts(["3 4"], ids=["b"]) == ["b"]
    await made.adelete(["a"])
    assert [document.id for document in made.iter_documents()] == ["b"]


def test_filters_come_before_the_cut() -> None:
    many = store(*[f"1 {n / 1000}" for n in range(300)])
    assert [
        document.metadata["n"]
        for document in many.similarity_search("1 0", k=3, filter={"n": {"$gte": 290}})
    ] == [290, 291, 292]
    assert (
        len(many.similarity_search("1 0", k=500, filter=lambda metadata: metadata["even"])) == 150
    )
    assert many.similarity_search("1 0", k=5, filter={"n": -1}) == []
    found = many.max_marginal_relevance_search("1 0", k=3, fetch_k=3, filter={"n": {"$lt": 3}})
    assert {document.metadata["n"] for document in found} == {0, 1, 2}
    assert many.similarity_search_by_vector([1, 0], k=1, filter={"n": 7})[0].id == "id7"
    assert [document.id for document in many.iter_documents({"n": {"$in": [3, 4]}})] == [
        "id3",
        "id4",
    ]


@pytest.mark.parametrize(
    "name", ["similarity_search", "max_marginal_relevance_search", "hybrid_search"]
)
def test_where_nothing_is_nothing_is_found(name: str) -> None:
    compass = store(*COMPASS)
    assert getattr(compass, name)("1 0", k=2, filter={"n": 99}) == []
    compass.delete()
    for empty in (compass, FAISSVectorStore(Plane())):
        assert getattr(empty, name)("1 0", k=2) == []


def test_dates_are_compared_and_saved(tmp_path: Path) -> None:
    held = FAISSVectorStore(Plane())
    days = [dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2, 3)]
    held.add_texts(["1 0"] * 3, [{"at": day} for day in days], ids=["a", "b", "c"])
    late = {"at": {"$gt": dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)}}
    held.save_local(tmp_path / "store")
    for mmap in (False, True):
        found = FAISSVectorStore.load_local(tmp_path / "store", Plane(), mmap=mmap)
        assert [document.id for document in found.iter_documents(late)] == ["b", "c"]
        assert {document.metadata["at"] for document in found.similarity_search("1 0")} == {*days}


def test_a_retriever_that_keeps_dates_in_its_store_can_use_this_one() -> None:
    retrievers = pytest.importorskip("langchain_classic.retrievers")
    retriever = retrievers.TimeWeightedVectorStoreRetriever(
        vectorstore=FAISSVectorStore(Plane()), decay_rate=0.01, k=1
    )
    retriever.add_documents([Document("1 0"), Document("0 1")])
    assert texts_of(retriever.invoke("0 1")) == ["0 1"]


def test_a_filter_gets_a_copy_of_the_metadata() -> None:
    compass = store(*COMPASS)
    compass.similarity_search("1 0", filter=lambda metadata: not metadata.clear())
    assert compass.get_by_ids(["id1"])[0].metadata == {"n": 1, "even": False}


def test_langchains_indexing_adds_updates_and_deletes_what_changed() -> None:
    held, records = FAISSVectorStore(Plane()), InMemoryRecordManager(namespace="test")
    records.create_schema()

    def run(*texts: str) -> Any:
        documents = [Document(text, metadata={"source": "a"}) for text in texts]
        return index(documents, records, held, cleanup="full", key_encoder="sha256")

    assert run("1 0", "0 1")["num_added"] == 2
    assert run("1 0", "1 1") == {
        "num_added": 1,
        "num_updated": 0,
        "num_skipped": 1,
        "num_deleted": 1,
    }
    assert texts_of(list(held.iter_documents())) == ["1 0", "1 1"]


def test_documents_come_back_as_copies() -> None:
    held = FAISSVectorStore(Plane())
    given = {"tags": ["a"], "deep": {"x": [1]}}
    held.add_texts(["1 0"], [given], ids=["a"])
    given["tags"] = []
    for found in (
        held.similarity_search("1 0")[0],
        held.get_by_ids(["a"])[0],
        next(iter(held.iter_documents())),
    ):
        assert found.metadata == {"tags": ["a"], "deep": {"x": [1]}}
        found.metadata["deep"]["x"].append(2)
        found.page_content = "changed"
    assert held.get_by_ids(["a"])[0].metadata["deep"] == {"x": [1]}
    assert held.get_by_ids(["a"])[0].page_content == "1 0"


def test_an_id_that_is_here_is_replaced() -> None:
    compass = store(*COMPASS)
    assert compass.add_texts(["5 5", "6 6"], ids=["id0", "new"]) == ["id0", "new"]
    assert len(compass) == 5
    assert compass.get_by_ids(["id0"])[0].page_content == "5 5"
    assert "1 0" not in texts_of(compass.similarity_search("1 0", k=10))


async def test_documents_that_can_be_read_only_once() -> None:
    """As a loader's `lazy_load()` yields them."""

    def read(*texts: str) -> Iterator[Document]:
        return (Document(text, id=text, metadata={"text": text}) for text in texts)

    made = FAISSVectorStore.from_documents(read("0 1"), Plane(), metric="l2")
    assert made.metric == "l2"
    assert made.add_documents(read("0 2", "0 3")) == ["0 2", "0 3"]
    assert await made.aadd_documents(read("0 4")) == ["0 4"]
    found = list(made.iter_documents())
    assert [(each.id, each.metadata) for each in found] == [
        (text, {"text": text}) for text in ("0 1", "0 2", "0 3", "0 4")
    ]
    made = await FAISSVectorStore.afrom_documents(read("0 5"), Plane())
    assert [each.id for each in made.iter_documents()] == ["0 5"]


def test_documents_are_deleted_by_id_or_all_at_once() -> None:
    compass = store(*COMPASS)
    assert compass.delete(["id0", "never here"]) is True
    assert len(compass) == 3
    assert compass.delete() is True
    assert len(compass) == 0
    assert compass.similarity_search("1 0") == []
    assert compass.add_texts(["1 2 3"]) != []


def test_get_by_ids_keeps_the_order_asked_for() -> None:
    compass = store(*COMPASS)
    found = compass.get_by_ids(["id2", "no", "id0"])
    assert [document.id for document in found] == ["id2", "id0"]


def test_arrays_are_asked_for_where_there_are_any() -> None:
    held = FAISSVectorStore.from_texts(["1 0", "0 1"], Arrays())
    assert texts_of(held.similarity_search("0 2", k=1)) == ["0 1"]


@pytest.mark.parametrize("embedding", [Plane(), Arrays()])
def test_the_batch_size_reaches_the_embedding(embedding: Plane) -> None:
    sizes: list[int] = []
    name = "embed_to_array" if isinstance(embedding, Arrays) else "embed_documents"
    real = getattr(embedding, name)

    def ask(texts: list[str]) -> Any:
        sizes.append(len(texts))
        return real(texts)

    setattr(embedding, name, ask)
    held = FAISSVectorStore(embedding)
    held.add_texts([f"{n} 1" for n in range(5)], batch_size=2)
    assert sizes == [2, 2, 1]
    assert texts_of(held.similarity_search("4 1", k=1)) == ["4 1"]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        held.add_texts(["1 1"], batch_size=0)


def test_vectors_that_are_here_already() -> None:
    texts, vectors = ["a", "b"], np.eye(2, dtype=np.float32)
    held = FAISSVectorStore.from_embeddings(
        zip(texts, vectors, strict=True), Plane(), ids=["x", "y"]
    )
    held.add_embeddings([("c", [1.0, 1.0])], [{"n": 3}], ids=["z"])
    assert texts_of(held.similarity_search_by_vector([1, 0.9], k=1)) == ["c"]
    assert [document.id for document in held.iter_documents()] == ["x", "y", "z"]


def test_merging_adds_and_replaces_documents() -> None:
    left, right = store(*COMPASS), store("7 7", "8 8")
    right.add_texts(["9 0"], ids=["other"])
    left.merge_from(right)
    assert len(left) == 5
    assert left.get_by_ids(["id0"])[0].page_content == "7 7"
    assert left.similarity_search("9 0", k=1)[0].id == "other"
    left.merge_from(left)
    left.merge_from(FAISSVectorStore(Plane()))
    assert len(left) == 5
    with pytest.raises(ValueError, match="metric 'l2' cannot be merged into one of 'cosine'"):
        left.merge_from(store("1 1", metric="l2"))
    with pytest.raises(WrongModelError):
        left.merge_from(FAISSVectorStore.from_texts(["1 0"], Plane("other", turn=1.0)))
    assert len(left) == 5


def test_documents_are_those_the_constructor_makes() -> None:
    ours = FAISSVectorStore(DeterministicFakeEmbedding(size=8))
    ours.add_texts(["a text"], [{"n": [1, {"m": None}]}], ids=["id"])
    (found,) = ours.similarity_search("a text", k=1)
    made = Document(id="id", page_content="a text", metadata={"n": [1, {"m": None}]})
    assert found == made
    assert found.model_dump() == made.model_dump()
    assert found.model_fields_set == made.model_fields_set
    assert found.__dict__ == made.__dict__
    assert found.to_json() == made.to_json()
    assert found.model_copy(deep=True) == made
