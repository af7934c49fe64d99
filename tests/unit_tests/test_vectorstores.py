"""The store as a LangChain user meets it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from numpy.typing import NDArray

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search.base import Metric
from langchain_gpu.store.errors import StoreError, StoreNotFoundError, WrongModelError


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


COMPASS = ("1 0", "1 1", "0 1", "-1 0")


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


def test_deleting() -> None:
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


def test_merging() -> None:
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
    ({"texts": ["1 0", "2 0"], "ids": ["x", "x"]}, ValueError, "'x' comes twice"),
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


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_saved_and_loaded(metric: Metric, tmp_path: Path) -> None:
    compass = store(*COMPASS, metric=metric)
    compass.delete(["id1"])
    compass.save_local(str(tmp_path / "store"))
    loaded = FAISSVectorStore.load_local(tmp_path / "store", Plane(), device="cpu")
    assert (loaded.metric, loaded.device.kind, len(loaded)) == (metric, "cpu", 3)
    assert loaded.similarity_search_with_score(
        "1 0.1", k=3
    ) == compass.similarity_search_with_score("1 0.1", k=3)
    assert loaded.add_texts(["4 4"], ids=["id9"]) == ["id9"]
    loaded.save_local(tmp_path / "store")
    again = FAISSVectorStore.load_local(tmp_path / "store", Plane())
    assert [document.id for document in again.iter_documents()] == ["id0", "id2", "id3", "id9"]


def test_a_moved_model_is_the_same_model_and_another_is_not(tmp_path: Path) -> None:
    FAISSVectorStore.from_texts(["1 0"], Plane("org/model")).save_local(tmp_path)
    moved = FAISSVectorStore.load_local(tmp_path, Plane("/home/model", turn=0.05))
    moved.save_local(tmp_path)
    FAISSVectorStore.load_local(tmp_path, Plane("/home/model", turn=1.0))  # the name is enough
    with pytest.raises(WrongModelError, match="'/home/model'.*'org/model'.*load it with"):
        FAISSVectorStore.load_local(tmp_path, Plane("org/model", turn=1.0))


def test_small_differences_do_not_add_up_from_save_to_save(tmp_path: Path) -> None:
    FAISSVectorStore.from_texts(["1 0"], Plane("0")).save_local(tmp_path)
    FAISSVectorStore.load_local(tmp_path, Plane("1", turn=0.1)).save_local(tmp_path)
    with pytest.raises(WrongModelError):
        FAISSVectorStore.load_local(tmp_path, Plane("2", turn=0.2))


def test_a_model_of_another_width_says_so(tmp_path: Path) -> None:
    FAISSVectorStore.from_texts(["1 0"], Plane("m")).save_local(tmp_path)
    with pytest.raises(WrongModelError, match="4 dimensions, the stored ones 2"):
        FAISSVectorStore.load_local(tmp_path, DeterministicFakeEmbedding(size=4))
    same_name = FAISSVectorStore.load_local(tmp_path, Plane("m"))
    with pytest.raises(ValueError, match="3 dimensions, the store has 2"):
        same_name.similarity_search("1 0 0")


def test_no_store_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="save_local"):
        FAISSVectorStore.load_local(tmp_path / "nothing", Plane())


def test_loading_knows_its_own_metric(tmp_path: Path) -> None:
    store("1 0").save_local(tmp_path)
    with pytest.raises(TypeError, match="metric"):
        FAISSVectorStore.load_local(tmp_path, Plane(), metric="l2")
    with pytest.raises(TypeError, match="allow_dangerous_deserialization"):
        FAISSVectorStore.load_local(tmp_path, Plane(), allow_dangerous_deserialization=True)


def test_a_save_whose_embedding_fails_loses_nothing(tmp_path: Path) -> None:
    class Down(Plane):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise ConnectionError("the server is down")

    held = FAISSVectorStore.from_embeddings([("a", [1.0, 0.0])], Down())
    with pytest.raises(ConnectionError):
        held.save_local(tmp_path)
    assert len(held) == 1
    assert list(tmp_path.iterdir()) == []


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
