"""What the store does not take, and what is allowed although it looks odd."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_gpu import FAISSVectorStore
from langchain_gpu.store.errors import StoreError
from tests.unit_tests.planes import COMPASS, Arrays, Plane, store, texts_of


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    compass = store(*COMPASS)
    with pytest.raises(ValueError, match=f"k must be at least 1, not {k}"):
        compass.similarity_search("1 0", k=k)
    with pytest.raises(ValueError, match="k must be at least 1"):
        compass.max_marginal_relevance_search("1 0", k=k)
    with pytest.raises(ValueError, match="fetch_k must be at least 1"):
        compass.max_marginal_relevance_search("1 0", k=1, fetch_k=k)


def test_k_that_is_no_number_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        store(*COMPASS).similarity_search("1 0", k=1.5)  # type: ignore[arg-type] # that is the test


def test_k_above_the_count_finds_all() -> None:
    compass = store(*COMPASS)
    assert len(compass.similarity_search("1 0", k=10**6)) == 4
    assert len(compass.max_marginal_relevance_search("1 0", k=9, fetch_k=2)) == 4


def test_arguments_nobody_knows_are_refused() -> None:
    compass = store(*COMPASS)
    for call in (
        lambda: compass.similarity_search("1 0", fliter={}),
        lambda: compass.similarity_search_by_vector([1, 0], fliter={}),
        lambda: compass.max_marginal_relevance_search("1 0", fliter={}),
        lambda: compass.add_texts(["1 0"], fliter={}),
        lambda: compass.delete(["id0"], fliter={}),
        lambda: FAISSVectorStore.from_texts(["1 0"], Plane(), fliter={}),
    ):
        with pytest.raises(TypeError, match="fliter"):
            call()
    assert len(compass) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda folder: FAISSVectorStore.load_local(
                folder, Plane(), allow_dangerous_deserialization=True
            ),
            "'allow_dangerous_deserialization': leave it out, as nothing in the folder can run",
        ),
        (
            lambda folder: FAISSVectorStore.load_local(folder, embeddings=Plane()),  # type: ignore[call-arg]
            "'embeddings': embedding=... says it",
        ),
        (
            lambda folder: FAISSVectorStore.load_local(folder, Plane(), io_flags=0),
            "'io_flags': mmap=True leaves",
        ),
        (
            lambda _: FAISSVectorStore.from_texts(["1 0"], Plane(), distance_strategy="COSINE"),
            "'distance_strategy': metric=",
        ),
        (
            lambda _: FAISSVectorStore.from_embeddings([], Plane(), normalize_L2=True),
            "'normalize_L2': metric=\"cosine\" does it",
        ),
        (lambda _: store(*COMPASS).similarity_search("1 0", fetch_k=20), "'fetch_k': leave it out"),
        (
            lambda _: store(*COMPASS).search("1 0", "similarity", score_threshold=0.5),
            "'score_threshold': similarity_search_with_relevance_scores takes it",
        ),
        (
            lambda folder: store(*COMPASS).save_local(folder, index_name="faiss"),
            "'index_name': leave it out, as a folder holds one store",
        ),
        (lambda folder: FAISSVectorStore.load_local(folder, Plane(), fliter=1), "'fliter'$"),
    ],
)
def test_what_other_stores_call_something_else_is_told(
    call: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="^FAISSVectorStore does not know the argument " + message):
        call(tmp_path / "nothing is read before")


def test_a_store_with_settings_of_its_own_gets_them() -> None:
    class Named(FAISSVectorStore):
        def __init__(self, embedding: Embeddings, **kwargs: Any) -> None:
            self.name = kwargs.pop("name")
            super().__init__(embedding, **kwargs)

    assert Named.from_texts(["1 0"], Plane(), name="mine", metric="l2").name == "mine"


BAD_ADDS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"texts": "1 0"}, TypeError, "a list is needed"),
    ({"texts": ["1 0", None]}, TypeError, "text 1 is NoneType"),
    ({"texts": ["1 0"], "ids": [7]}, TypeError, "id 0 is int"),
    ({"texts": ["1 0", "2 0"], "ids": ["x", "x"]}, ValueError, "'x' appears twice"),
    (
        {"texts": ["1 0"], "metadatas": [{"n": {1}}]},
        ValueError,
        "document 0 is not JSON at key 'n'",
    ),
    ({"texts": ["1 0"], "metadatas": [{"n": math.nan}]}, ValueError, "at key 'n'"),
    (
        {"texts": ["1 0", "nan 0"], "ids": ["x", "y"]},
        ValueError,
        r"document 1 \(id 'y'\) holds NaN",
    ),
    ({"texts": ["1 0", "1 inf"], "ids": ["x", "y"]}, ValueError, "document 1.*infinity"),
    ({"texts": ["1 0", "0 0"], "ids": ["x", "y"]}, ValueError, "document 1.*length 0"),
    ({"texts": ["1 0", "1 0 0"], "ids": ["x", "y"]}, ValueError, "document 1.*3 dimensions"),
    ({"texts": ["1 0 0"], "ids": ["id0"]}, ValueError, r"3 dimensions, the store has 2"),
    ({"texts": ["1 0", "no number"], "ids": ["id0", "x"]}, ValueError, "could not convert"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ADDS)
@pytest.mark.parametrize("size", [1, 4096])
def test_a_bad_item_is_named_and_nothing_of_its_call_is_stored(
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langchain_gpu.search.embed.SLICE", size)
    compass = store(*COMPASS)
    before = list(compass.iter_documents())
    with pytest.raises(error, match="dimensions" if "3 dim" in message else message):
        compass.add_texts(**arguments)
    assert list(compass.iter_documents()) == before
    assert texts_of(compass.similarity_search("1 0", k=9)) == ["1 0", "1 1", "0 1", "-1 0"]


def test_bad_metadata_is_refused_before_anything_is_embedded() -> None:
    plane = Plane()
    with pytest.raises(StoreError, match="at key 'when'"):
        FAISSVectorStore(plane).add_texts(["1 0"], [{"when": object()}])
    assert plane.asked == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [("nan 0", "query 0 holds NaN"), ("0 0", "query 0 has length 0"), ("1", "1 dimensions, the")],
)
def test_a_bad_query_is_named(query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store(*COMPASS).similarity_search(query)


def test_a_query_that_is_no_text_is_named() -> None:
    with pytest.raises(TypeError, match="query 0 is NoneType"):
        store(*COMPASS).similarity_search(None)  # type: ignore[arg-type] # that is the test
    with pytest.raises(TypeError, match="a list is needed"):
        store(*COMPASS).similarity_search_many("1 0")


def test_nothing_is_a_fine_thing_to_add() -> None:
    empty = FAISSVectorStore(Plane())
    assert empty.add_texts([]) == []
    assert empty.add_documents([]) == []
    assert empty.add_embeddings([]) == []
    assert len(empty) == 0


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "\ud800", "漢字", pytest.param("x" * 10_000_000, id="10 MB")]
)
def test_strange_texts_are_kept(text: str, tmp_path: Path) -> None:
    embedding = DeterministicFakeEmbedding(size=4)
    vector = [1.0, 0.0, 0.0, 0.0]
    held = FAISSVectorStore.from_embeddings([(text, vector)], embedding, ids=[text[:9]])
    held.save_local(tmp_path)
    loaded = FAISSVectorStore.load_local(tmp_path, embedding)
    assert loaded.similarity_search_by_vector(vector)[0].page_content == text
    assert loaded.get_by_ids([text[:9]])[0].id == text[:9]


def test_100_000_tiny_texts() -> None:
    # Small coordinates: on several threads FAISS expands the square, and float32 rounds it.
    grid = [f"{n % 400} {n // 400}" for n in range(100_000)]
    held = FAISSVectorStore.from_texts(grid, Arrays(), metric="l2")
    assert texts_of(held.similarity_search("177 194", k=1)) == ["177 194"]


@pytest.mark.parametrize("embedding", [None, 3, "model", lambda text: text])
def test_what_is_no_embedding_is_refused(embedding: Any) -> None:
    with pytest.raises(TypeError, match="must be an Embeddings"):
        FAISSVectorStore(embedding)


def test_an_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'dot'; known: cosine, ip, l2"):
        FAISSVectorStore(Plane(), metric="dot")  # type: ignore[arg-type] # that is the test


def test_faiss_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, "langchain_gpu.search.kinds.flat", raising=False)
    with pytest.raises(ImportError, match=r'pip install "langchain-gpu\[faiss\]"'):
        FAISSVectorStore(Plane())


def test_an_empty_store_is_a_store() -> None:
    empty = store()
    assert len(empty) == 0
    assert (empty or None) is empty


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"embedding_function": Plane()}, "'embedding_function': embedding=... says it"),
        ({"embeddings": Plane()}, "'embeddings': embedding=... says it"),
        ({"embedding": Plane(), "docstore": {}}, "'docstore': leave it out"),
        ({"embedding": Plane(), "index_to_docstore_id": {}}, "'index_to_docstore_id': leave it"),
        ({"embedding": Plane(), "metrik": "l2"}, "FAISSVectorStore does not know the argument"),
    ],
)
def test_the_constructor_names_what_community_calls_otherwise(
    arguments: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(TypeError, match=remedy):
        FAISSVectorStore(**arguments)
