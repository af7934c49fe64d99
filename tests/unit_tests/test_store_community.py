"""Moving in from langchain-community's FAISS: the same answers."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_gpu import FAISSVectorStore
from langchain_gpu.events import GPUWarning
from langchain_gpu.search.base import VectorError
from langchain_gpu.store.community import NotCommunityError
from langchain_gpu.store.errors import (
    DocumentError,
    StoreNotFoundError,
    WrongModelError,
)
from tests.unit_tests.community_stores import (
    COUNT,
    EMBEDDING,
    IDS,
    QUERIES,
    SIZE,
    TEXTS,
    agree,
    community,
    faiss,
    in_memory,
    over,
    saved,
    split,
    strategies,
    theirs,
)

KINDS: list[tuple[str, Callable[[], Any], dict[str, Any]]] = [
    ("l2", theirs, {}),
    ("ip", lambda: theirs(distance_strategy=strategies.MAX_INNER_PRODUCT), {}),
    ("l2", lambda: theirs(distance_strategy=strategies.COSINE), {}),
    ("cosine", lambda: theirs(normalize_L2=True), {"normalize_L2": True}),
]


@pytest.mark.parametrize(("metric", "make", "options"), KINDS)
@pytest.mark.parametrize("live", [True, False])
def test_the_same_queries_find_the_same(
    metric: str, make: Callable[[], Any], options: dict[str, Any], *, live: bool, tmp_path: Path
) -> None:
    right = make()
    source = right if live else saved(right, tmp_path)
    ours = FAISSVectorStore.from_community(source, EMBEDDING, **({} if live else options))
    assert ours.metric == metric
    agree(ours, right, cosine=metric == "cosine")


def test_inner_products_of_normalized_vectors_are_cosines() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs says that this does nothing, and does it
        right = over(
            faiss.IndexFlatIP(SIZE),
            normalize_L2=True,
            distance_strategy=strategies.MAX_INNER_PRODUCT,
        )
    ours = FAISSVectorStore.from_community(right, EMBEDDING)
    assert ours.metric == "cosine"
    for query in QUERIES:
        found = split(ours.similarity_search_with_score(query, k=10))
        expected = split(right.similarity_search_with_score(query, k=10))
        assert found[0] == expected[0]
        np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(
    "factory", ["IVF4,Flat", "HNSW32", "SQ8", "IVF4,SQ8", "SQfp16", "IVF4,PQ8x8np", "PQ8x8np"]
)
def test_other_indexes_give_their_vectors(factory: str, *, live: bool, tmp_path: Path) -> None:
    index = faiss.index_factory(SIZE, factory)
    if hasattr(index, "nprobe"):
        index.nprobe = 4
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = COUNT
    right = over(index)
    before = [right.similarity_search(query, k=5) for query in QUERIES]
    ours = FAISSVectorStore.from_community(right if live else saved(right, tmp_path), EMBEDDING)
    agree(ours, right)
    assert [right.similarity_search(query, k=5) for query in QUERIES] == before
    if hasattr(index, "direct_map"):
        assert index.direct_map.type == faiss.DirectMap.NoMap  # theirs was not changed


def test_numbers_of_an_id_map_are_followed() -> None:
    vectors = np.array(EMBEDDING.embed_documents(TEXTS[:3]), dtype=np.float32)
    index = faiss.IndexIDMap2(faiss.IndexFlatL2(SIZE))
    index.add_with_ids(vectors, np.array([70, 5, 30]))
    documents = {IDS[n]: Document(page_content=TEXTS[n]) for n in range(3)}
    docstore = in_memory.InMemoryDocstore(documents)
    right = community.FAISS(EMBEDDING, index, docstore, {70: "id0", 5: "id1", 30: "id2"})
    ours = FAISSVectorStore.from_community(right, EMBEDDING)
    for text in TEXTS[:3]:
        (document, score), *_ = ours.similarity_search_with_score(text, k=1)
        assert document.page_content == text
        assert score == pytest.approx(0, abs=1e-5)


def test_after_deletions_and_merges(tmp_path: Path) -> None:
    right = theirs()
    right.delete(IDS[5:250:7])
    other = community.FAISS.from_texts(["more", "and more"], EMBEDDING, [{"lang": "de"}] * 2)
    right.merge_from(other)
    agree(FAISSVectorStore.from_community(saved(right, tmp_path), EMBEDDING), right)


def test_what_moved_in_is_saved_changed_and_loaded(tmp_path: Path) -> None:
    ours = FAISSVectorStore.from_community(saved(theirs(), tmp_path / "old"), EMBEDDING)
    ours.add_texts(["new"], ids=["id0"])
    ours.save_local(tmp_path / "new")
    loaded = FAISSVectorStore.load_local(tmp_path / "new", EMBEDDING)
    assert len(loaded) == COUNT
    assert [document.page_content for document in loaded.get_by_ids(["id0"])] == ["new"]


def test_an_empty_store(tmp_path: Path) -> None:
    index = faiss.IndexFlatL2(SIZE)
    right = community.FAISS(EMBEDDING, index, in_memory.InMemoryDocstore(), {})
    ours = FAISSVectorStore.from_community(saved(right, tmp_path), EMBEDDING)
    assert len(ours) == 0
    assert ours.add_texts(["a"]) != []


def test_any_index_kind_of_ours() -> None:
    ours = FAISSVectorStore.from_community(theirs(), EMBEDDING, index="hnsw", device="cpu")
    assert ours.index_shape == "HNSW32"


def test_another_name(tmp_path: Path) -> None:
    theirs().save_local(str(tmp_path), index_name="other")
    assert len(FAISSVectorStore.from_community(tmp_path, EMBEDDING, index_name="other")) == COUNT
    with pytest.raises(StoreNotFoundError, match="index.pkl is missing; index_name"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)
    with pytest.raises(StoreNotFoundError, match=r"\(--index-name\) .*; here: other$"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)
    with pytest.raises(StoreNotFoundError, match="there is no folder .*none"):
        FAISSVectorStore.from_community(tmp_path / "none", EMBEDDING)
    with pytest.raises(ValueError, match="name of a file"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING, index_name="../other")


def test_its_own_relevance_comes_along() -> None:
    right = theirs(normalize_L2=True, relevance_score_fn=lambda distance: 1 - distance / 4)
    ours = FAISSVectorStore.from_community(right, EMBEDDING)
    for query in QUERIES:
        found = ours.similarity_search_with_relevance_scores(query, k=3)
        expected = right.similarity_search_with_relevance_scores(query, k=3)
        np.testing.assert_allclose(split(found)[1], split(expected)[1], atol=1e-5)


# Whose vectors.


class Other(Embeddings):
    def __init__(self, size: int = SIZE) -> None:
        self.model = "other"
        self._embedding = DeterministicFakeEmbedding(size=size)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._embedding.embed_query(f"other {text}")


def test_another_model_is_refused() -> None:
    with pytest.raises(WrongModelError, match=r"'other' did not make these vectors.*check_model"):
        FAISSVectorStore.from_community(theirs(), Other())
    ours = FAISSVectorStore.from_community(theirs(), Other(), check_model=False)
    assert len(ours) == COUNT


def test_another_width_is_refused() -> None:
    with pytest.raises(WrongModelError, match="8 dimensions, the store has 16"):
        FAISSVectorStore.from_community(theirs(), Other(8))


# Metadata.


def test_tuples_become_lists_and_it_is_said(tmp_path: Path) -> None:
    metadatas = [{"points": ((1, 2), (3, 4))}, {"tags": {"b", "a"}}, {"plain": [1]}]
    right = community.FAISS.from_texts(["a", "b", "c"], EMBEDDING, metadatas, ids=["x", "y", "z"])
    for source in (right, saved(right, tmp_path)):
        with pytest.warns(GPUWarning, match="metadata of 2 documents became lists"):
            ours = FAISSVectorStore.from_community(source, EMBEDDING)
        assert [document.metadata for document in ours.get_by_ids(["x", "y", "z"])] == [
            {"points": [[1, 2], [3, 4]]},
            {"tags": ["a", "b"]},
            {"plain": [1]},
        ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "'id1' holds nan"),
        (b"cos\nsystem\n.", "'id1' holds a bytes"),
        ({1: 2}, "'id1' has the key 1"),
    ],
)
def test_metadata_json_has_not(value: Any, said: str, tmp_path: Path) -> None:
    right = community.FAISS.from_texts(["a", "b"], EMBEDDING, [{}, {"bad": value}], ids=IDS[:2])
    for source in (right, saved(right, tmp_path)):
        with pytest.raises(DocumentError, match=said):
            FAISSVectorStore.from_community(source, EMBEDDING)
        ours = FAISSVectorStore.from_community(
            source, EMBEDDING, metadata=lambda given: {"was": str(given.get("bad"))}
        )
        assert ours.get_by_ids(["id1"])[0].metadata == {"was": str(value)}


MOMENTS = [
    dt.date(2026, 1, 31),
    dt.datetime(2026, 1, 31, 12, 30, 1, 5),  # noqa: DTZ001 - without a zone on purpose
    dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
    dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=-3))),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
@pytest.mark.parametrize("live", [True, False])
def test_dates_move_in(moment: dt.date, *, live: bool, tmp_path: Path) -> None:
    metadata = {"at": moment, "inner": [moment]}
    right = community.FAISS.from_texts(["a"], EMBEDDING, [metadata])
    source = right if live else saved(right, tmp_path)
    (document,) = FAISSVectorStore.from_community(source, EMBEDDING).similarity_search("a")
    assert document.metadata == metadata


def test_a_length_of_time_is_no_metadata(tmp_path: Path) -> None:
    right = community.FAISS.from_texts(["a"], EMBEDDING, [{"x": dt.timedelta(1)}])
    with pytest.raises(DocumentError, match="holds a timedelta"):
        FAISSVectorStore.from_community(saved(right, tmp_path), EMBEDDING)


def test_documents_without_a_vector_are_counted() -> None:
    right = theirs()
    right.docstore.add({"alone": Document(page_content="alone")})
    with pytest.warns(GPUWarning, match="1 documents without a vector were left out"):
        assert len(FAISSVectorStore.from_community(right, EMBEDDING)) == COUNT


# What does not belong together.


def test_an_index_of_another_store(tmp_path: Path) -> None:
    saved(theirs(), tmp_path)
    faiss.write_index(faiss.IndexFlatL2(SIZE), str(tmp_path / "index.faiss"))
    with pytest.raises(NotCommunityError, match="0 vectors, index_to_docstore_id names 300"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)


def test_ids_of_other_numbers() -> None:
    right = theirs()
    right.index_to_docstore_id = {n + 1: id_ for n, id_ in right.index_to_docstore_id.items()}
    with pytest.raises(NotCommunityError, match="300, and they differ"):
        FAISSVectorStore.from_community(right, EMBEDDING)


def test_an_id_without_a_document() -> None:
    right = theirs()
    right.index_to_docstore_id[7] = "gone"
    with pytest.raises(NotCommunityError, match="the id 'gone', and there is no"):
        FAISSVectorStore.from_community(right, EMBEDDING)


def test_an_id_of_two_vectors() -> None:
    right = theirs()
    right.index_to_docstore_id[7] = "id6"
    with pytest.raises(DocumentError, match="id6"):
        FAISSVectorStore.from_community(right, EMBEDDING)


def test_an_embedding_that_is_none() -> None:
    with pytest.raises(TypeError, match="embedding must be an Embeddings, not str"):
        FAISSVectorStore.from_community(theirs(), "a model")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, 7, object(), Document(page_content="a"), {}])
def test_neither_folder_nor_store(given: Any) -> None:
    with pytest.raises(TypeError, match="a folder, or a FAISS store"):
        FAISSVectorStore.from_community(given, EMBEDDING)


def test_an_index_that_cannot_be_taken_over(tmp_path: Path) -> None:
    right = theirs()
    right.index = faiss.IndexFlat(SIZE, faiss.METRIC_L1)
    with pytest.raises(VectorError, match="metric number 2; only L2 and inner product"):
        FAISSVectorStore.from_community(right, EMBEDDING)
    right.index = faiss.IndexLSH(SIZE, 32)
    with pytest.raises((VectorError, NotCommunityError)):
        FAISSVectorStore.from_community(right, EMBEDDING)
    saved(theirs(), tmp_path)
    data = (tmp_path / "index.faiss").read_bytes()
    for cut in (0, 3, 40, len(data) - 1):
        (tmp_path / "index.faiss").write_bytes(data[:cut])
        with pytest.raises(VectorError, match="FAISS cannot read"):
            FAISSVectorStore.from_community(tmp_path, EMBEDDING)
