"""Index kinds: names and factory strings, when they train, how they remove, what they weigh."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search import kinds
from langchain_gpu.search.base import Effort, Metric, VectorIndex
from langchain_gpu.search.kinds import shapes
from langchain_gpu.search.kinds.shapes import FLAT, choose, parse
from langchain_gpu.store import manifest as manifests
from langchain_gpu.store.errors import DamagedStoreError

SIZE = 16


pytestmark = pytest.mark.usefixtures("one_faiss_thread")


def vectors(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, SIZE), dtype=np.float32)


def add(index: VectorIndex, stored: Any, first: int = 0) -> None:
    if (improved := index.improve(stored)) is not None:
        improved()
    index.add(np.arange(first, first + len(stored), dtype=np.int64), stored)


def filled(kind: str, count: int = 600, metric: Metric = "l2", **options: Any) -> VectorIndex:
    index = kinds.get(kind, **options).create(SIZE, metric)
    add(index, vectors(count))
    return index


def best(stored: Any, queries: Any, k: int) -> Any:
    return np.argsort(((queries[:, None] - stored) ** 2).sum(-1), axis=1, kind="stable")[:, :k]


def recall(index: VectorIndex, effort: Effort = Effort()) -> float:  # noqa: B008 - a tuple
    queries = vectors(40, seed=1)
    found = index.search(queries, 10, None, effort).rows
    true = best(vectors(len(index)), queries, 10)
    pairs = zip(found.tolist(), true.tolist(), strict=True)
    return float(np.mean([len(set(left) & set(right)) / 10 for left, right in pairs]))


@pytest.mark.parametrize(
    "text",
    [
        "Flat",
        "SQ8",
        "SQ6",
        "SQ4",
        "SQfp16",
        "SQbf16",
        "IVF16,Flat",
        "IVF16,SQ8",
        "IVF4,PQ2x8",
        "IVF4,SQfp16",
        "IVF4,PQ4x4",
        "HNSW16",
        "HNSW8,SQ8",
    ],
)
def test_a_factory_string_is_read_and_made(text: str, tmp_path: Path) -> None:
    assert str(parse(text)) == text
    index = filled(text, train_size=600 if parse(text).trained else None)
    assert index.shape == text
    index.save(tmp_path / "index")
    loaded = kinds.get(text).load(tmp_path / "index", "l2")
    assert loaded.shape == text
    queries = vectors(5, seed=1)
    np.testing.assert_array_equal(loaded.search(queries, 4).rows, index.search(queries, 4).rows)


def test_other_spellings_of_a_shape() -> None:
    assert str(parse("HNSW16,Flat")) == "HNSW16"
    assert str(parse("IVF4,PQ8")) == "IVF4,PQ8x8"


@pytest.mark.parametrize(
    "text",
    ["PCA64,Flat", "OPQ16,IVF8,PQ4", "PQ8", "LSH", "IVF,Flat", "IVF0,Flat", "flat,", "", "F"],
)
def test_other_families_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r'unknown index kind .*ivf_pq.*"HNSW<links>"'):
        kinds.get(text)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("flat", {"effort": Effort(nprobe=3)}, "nprobe means nothing for an index of kind 'flat'"),
        ("ivf_flat", {"effort": Effort(ef_search=3)}, "ef_search means nothing"),
        ("hnsw", {"train_size": 100}, "train_size means nothing"),
        ("fp16", {"train_size": 100}, "train_size means nothing"),
        ("IVF64,Flat", {"train_size": 63}, "64 centroids to find"),
        ("ivf_pq", {"train_size": 100}, "256 centroids to find"),
        ("ivf_flat", {"effort": Effort(nprobe=0)}, "nprobe must be at least 1, not 0"),
        ("ivf_flat", {"train_size": -1}, "train_size must be at least 1"),
        ("HNSW1", {}, "at least 2 links"),
        ("IVF4,PQ4x13", {}, "1 to 12 bits"),
    ],
)
def test_what_does_not_go_together_is_refused(
    kind: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kinds.get(kind, **options)


def test_a_width_that_pieces_do_not_divide_is_refused_before_anything_is_stored() -> None:
    with pytest.raises(ValueError, match="5 pieces of equal length, which 16"):
        kinds.get("IVF4,PQ5").create(SIZE, "l2")


@pytest.mark.parametrize("dimension", [1, 7, 16, 100, 384, 768, 1021, 1024])
def test_pieces_always_divide(dimension: int) -> None:
    assert dimension % choose("ivf_pq", 10**6, dimension).pieces == 0


def test_auto_is_flat_up_to_its_limit_and_then_ivf() -> None:
    limit = shapes.AUTO_BYTES // (384 * 4)
    assert choose("auto", limit, 384) == FLAT
    assert choose("auto", limit + 1, 384).family == "ivf"


def test_auto_moves_when_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "AUTO_BYTES", 500 * SIZE * 4)
    monkeypatch.setattr(shapes, "TRAIN_FROM", 400)
    index = kinds.get("auto").create(SIZE, "l2")
    add(index, vectors(500))
    assert (index.shape, index.exact) == ("Flat", True)
    add(index, vectors(300, seed=2), first=500)
    assert (index.shape, index.exact, len(index)) == ("IVF20,Flat", False, 800)
    assert index.search(vectors(800)[:1], 1).rows.tolist() == [[0]]
    np.testing.assert_array_equal(index.vectors(np.arange(500)), vectors(500))


@pytest.mark.parametrize("kind", ["sq8", "ivf_flat", "ivf_sq8", "IVF4,Flat", "HNSW8,SQ8"])
def test_too_few_to_train_from_stay_flat_and_exact(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    index = kinds.get(kind, train_size=200).create(SIZE, "l2")
    with caplog.at_level(logging.INFO, "langchain_gpu"):
        add(index, vectors(199))
        assert (index.shape, index.exact) == ("Flat", True)
        before = index.version
        add(index, vectors(101, seed=2), first=199)
    assert index.shape != "Flat"
    assert index.version > before + 1
    assert f"index '{kind}': 199 vectors moved from Flat to {index.shape}" in caplog.text
    rows = np.arange(300)
    stored = np.concatenate([vectors(199), vectors(101, seed=2)])
    np.testing.assert_array_equal(np.sort(index.rows()), rows)
    error = np.abs(index.vectors(rows) - stored)
    assert np.quantile(error, 0.99) < 0.05


def test_many_at_once_are_trained_from_at_once() -> None:
    assert filled("ivf_flat", 600, train_size=400).shape == "IVF10,Flat"


def test_training_looks_at_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = faiss.IndexIVFFlat.train

    def train(self: Any, sample: Any) -> None:
        seen.append(sample)
        real(self, sample)

    monkeypatch.setattr(faiss.IndexIVFFlat, "train", train)
    index = kinds.get("IVF4,Flat", train_size=90).create(SIZE, "l2")
    add(index, vectors(80))
    add(index, vectors(400, seed=2), first=80)
    rows = {tuple(row) for row in np.concatenate([vectors(80), vectors(400, seed=2)]).tolist()}
    assert len(seen) == 1
    assert seen[0].shape == (90, SIZE)
    assert {tuple(row) for row in seen[0].tolist()} <= rows
    old = {tuple(row) for row in vectors(80).tolist()}
    assert old & {tuple(row) for row in seen[0].tolist()}, "vectors that are here, and new ones"


def test_a_seed_makes_the_same_index_again() -> None:
    found = [
        filled("IVF8,PQ4x4", seed=seed, train_size=300).search(vectors(9, seed=1), 5)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(found[0].scores, found[1].scores)
    assert not np.array_equal(found[0].scores, found[2].scores)


def test_lists_are_made_again_when_they_have_become_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "TRAIN_FROM", 100)
    index = kinds.get("ivf_flat").create(SIZE, "l2")
    add(index, vectors(120))
    assert index.shape == "IVF3,Flat"
    add(index, vectors(500, seed=2), first=120)
    assert index.shape == "IVF15,Flat"
    np.testing.assert_array_equal(index.vectors(np.arange(120)), vectors(120))


def test_compressed_vectors_are_not_compressed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "TRAIN_FROM", 100)
    index = kinds.get("ivf_sq8").create(SIZE, "l2")
    add(index, vectors(120))
    add(index, vectors(900, seed=2), first=120)
    assert index.shape == "IVF3,SQ8"


def test_more_lists_find_more() -> None:
    index = filled("IVF16,Flat", train_size=600)
    one, most = (recall(index, Effort(nprobe=nprobe)) for nprobe in (1, 16))
    assert one < 0.8
    assert most == 1


def test_the_effort_of_the_index_holds_where_a_search_says_nothing() -> None:
    index = filled("IVF16,Flat", train_size=600, effort=Effort(nprobe=1))
    assert recall(index) == recall(index, Effort(nprobe=1)) < recall(index, Effort(nprobe=8))


@pytest.mark.parametrize("kind", ["fp16", "sq8", "hnsw", "ivf_flat", "ivf_sq8"])
def test_a_kind_finds_nearly_what_is_true(kind: str) -> None:
    options: dict[str, Any] = {"train_size": 500} if kind not in {"fp16", "hnsw"} else {}
    assert recall(filled(kind, **options)) > 0.95


@pytest.mark.parametrize("allowed", [3, 15, 60, 300])
@pytest.mark.parametrize(
    ("kind", "effort"),
    [("hnsw", Effort(ef_search=1)), ("IVF16,Flat", Effort(nprobe=1)), ("sq8", Effort())],
)
def test_a_filter_leaves_k_rows_where_they_exist(kind: str, effort: Effort, allowed: int) -> None:
    options: dict[str, Any] = {} if kind == "hnsw" else {"train_size": 600}
    index = filled(kind, **options)
    rows = np.sort(np.random.default_rng(3).choice(600, allowed, replace=False))
    found = index.search(vectors(8, seed=1), 20, rows, effort).rows
    for here in found:
        real = here[here >= 0]
        assert len(set(real.tolist())) == len(real) == min(20, allowed)
        assert set(real.tolist()) <= set(rows.tolist())


def test_a_graph_marks_what_goes_and_is_built_again_when_most_is_gone() -> None:
    index = filled("hnsw")
    index.remove(np.arange(0, 250, dtype=np.int64))
    assert index.improve() is None
    assert len(index) == 350
    with pytest.raises(KeyError, match="row 3 is not here"):
        index.vectors(np.array([3]))
    assert (index.search(vectors(20), 10).rows >= 250).all()
    index.remove(np.arange(250, 310, dtype=np.int64))
    improved = index.improve()
    assert improved is not None
    before = index.search(vectors(20, seed=1), 5)
    improved()
    assert index.improve() is None
    assert index.rows().tolist() == list(range(310, 600))
    after = index.search(vectors(20, seed=1), 5)
    np.testing.assert_array_equal(before.rows, after.rows)


def test_marks_are_kept_in_the_file(tmp_path: Path) -> None:
    index = filled("hnsw")
    index.remove(np.array([0, 7, 599], dtype=np.int64))
    index.save(tmp_path / "index")
    loaded = kinds.get("hnsw").load(tmp_path / "index", "l2")
    assert len(loaded) == 597
    assert loaded.rows().tolist() == index.rows().tolist()
    assert 0 not in loaded.search(vectors(1), 20).rows


def test_nothing_is_left_of_an_emptied_graph() -> None:
    index = filled("hnsw", 50)
    index.remove(np.arange(50, dtype=np.int64))
    assert index.search(vectors(1), 3).rows.tolist() == [[-1, -1, -1]]
    improved = index.improve()
    assert improved is not None
    improved()
    add(index, vectors(5), first=50)
    assert sorted(index.search(vectors(1), 5).rows[0].tolist()) == [50, 51, 52, 53, 54]


@pytest.mark.parametrize("kind", ["flat", "IVF8,Flat", "hnsw"])
def test_an_unknown_row_has_no_vector(kind: str) -> None:
    options: dict[str, Any] = {"train_size": 300} if "IVF" in kind else {}
    index = filled(kind, 400, **options)
    index.remove(np.array([17]))
    for row in (17, 400, 10**9):
        with pytest.raises(KeyError, match=f"row {row} is not here"):
            index.vectors(np.array([3, row]))


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("k", [1, 5, 99, 100, 150, 700])
def test_equal_scores_come_lowest_row_first(metric: Metric, k: int) -> None:
    """Also where the cut at k goes through them: FAISS by itself keeps the highest rows then."""
    stored = vectors(40)[np.random.default_rng(5).integers(0, 40, 700)]
    index = kinds.get("flat").create(SIZE, metric)
    add(index, stored)
    queries = vectors(30, seed=1)
    left, right = queries.astype(np.float64), stored.astype(np.float64)
    scores = left @ right.T if metric == "ip" else -((left[:, None] - right) ** 2).sum(-1)
    true = np.argsort(-scores.round(9), axis=1, kind="stable")[:, :k]
    for count in (1, 30):  # FAISS has one way for few queries and another for many
        np.testing.assert_array_equal(index.search(queries[:count], k).rows, true[:count])


KINDS = ["flat", "fp16", "sq8", "ivf_flat", "ivf_sq8", "ivf_pq", "hnsw", "auto", "SQ4"]
KINDS += ["IVF32,Flat", "IVF16,PQ16x4", "HNSW8", "HNSW16,SQ8"]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_needed_is_what_faiss_writes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "TRAIN_FROM", 2000)
    monkeypatch.setattr(shapes, "SQ_TRAIN_FROM", 2000)
    made = kinds.get(kind).create(32, "cosine")
    stored = np.random.default_rng(0).standard_normal((3000, 32), dtype=np.float32)
    add(made, stored)
    assert made.shape != "Flat" or kind in {"flat", "auto"}
    made.save(tmp_path / "index")
    size = (tmp_path / "index").stat().st_size
    assert kinds.bytes_needed(kind, 3000, 32) == pytest.approx(size, rel=0.03)


def test_bytes_needed_of_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="unknown index kind"):
        kinds.bytes_needed("ivf", 10, 10)


@pytest.mark.parametrize(
    ("kind", "stored"), [("flat", "sq8"), ("hnsw", "flat"), ("sq8", "IVF4,SQ8"), ("auto", "hnsw")]
)
def test_a_file_of_another_kind_is_refused(kind: str, stored: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"train_size": 100} if parse_trained(stored) else {}
    filled(stored, **options).save(tmp_path / "index")
    with pytest.raises(ValueError, match=f"holds no {kind} index with ids"):
        kinds.get(kind).load(tmp_path / "index", "l2")


def parse_trained(kind: str) -> bool:
    return kind in {"sq8", "IVF4,SQ8"}


def test_row_numbers_out_of_order_are_refused(tmp_path: Path) -> None:
    numbered = faiss.IndexIDMap2(faiss.IndexFlatL2(SIZE))
    numbered.add_with_ids(vectors(3), np.array([5, 4, 6]))
    faiss.write_index(numbered, str(tmp_path / "index"))
    with pytest.raises(ValueError, match="do not go together"):
        kinds.get("flat").load(tmp_path / "index", "l2")


def test_a_store_of_the_first_version_is_read(tmp_path: Path) -> None:
    """It has FAISS's own map from ids to vectors, and no parameters in its manifest."""
    numbered = faiss.IndexIDMap2(faiss.IndexFlatL2(SIZE))
    numbered.add_with_ids(vectors(3), np.array([4, 5, 9]))
    faiss.write_index(numbered, str(tmp_path / "index"))
    for kind in ("flat", "auto", "ivf_flat"):
        index = kinds.get(kind).load(tmp_path / "index", "l2")
        assert index.rows().tolist() == [4, 5, 9]
        index.remove(np.array([5]))
        add(index, vectors(1, seed=9), first=10)
        assert index.search(vectors(3)[:1], 3).rows[0, 0] == 4


# the store


def store(**options: Any) -> FAISSVectorStore:
    made = FAISSVectorStore(DeterministicFakeEmbedding(size=SIZE), metric="l2", **options)
    texts = [f"text {n}" for n in range(300)]
    made.add_embeddings(
        zip(texts, vectors(300), strict=True),
        [{"third": n % 3} for n in range(300)],
        ids=[f"id{n}" for n in range(300)],
    )
    return made


def test_a_store_keeps_its_kind_and_numbers(tmp_path: Path) -> None:
    made = store(index="IVF16,Flat", train_size=200, nprobe=2)
    assert made.index_shape == "IVF16,Flat"
    made.delete([f"id{n}" for n in range(0, 300, 7)])
    made.save_local(tmp_path)
    manifest = manifests.read(tmp_path)
    assert (manifest.kind, manifest.parameters) == ("IVF16,Flat", {"train_size": 200, "nprobe": 2})
    loaded = FAISSVectorStore.load_local(tmp_path, made.embeddings)
    for query in vectors(5, seed=1):
        wanted = made.similarity_search_with_score_by_vector(query, 9)
        assert loaded.similarity_search_with_score_by_vector(query, 9) == wanted
    wide = FAISSVectorStore.load_local(tmp_path, made.embeddings, nprobe=16)
    all_lists = [made.similarity_search_by_vector(query, 9, nprobe=16) for query in vectors(5, 1)]
    assert [wide.similarity_search_by_vector(query, 9) for query in vectors(5, 1)] == all_lists
    same = FAISSVectorStore.load_local(tmp_path, made.embeddings, nprobe=None)
    same.delete()
    same.add_embeddings([(str(n), row) for n, row in enumerate(vectors(300))])
    same.save_local(tmp_path / "same")
    assert manifests.read(tmp_path / "same").parameters == {"train_size": 200, "nprobe": 2}
    wide.save_local(tmp_path)
    assert manifests.read(tmp_path).parameters == {"train_size": 200, "nprobe": 16}


def test_effort_is_taken_by_every_search() -> None:
    made = store(index="IVF16,Flat", train_size=200)
    for search in (made.similarity_search, made.similarity_search_with_score):
        assert len(search("text", 5, nprobe=3)) == 5
    assert len(made.similarity_search_many(["a", "b"], 5, nprobe=16)) == 2
    assert len(made.similarity_search_ids_by_vectors(vectors(3), 5, nprobe=16)[2]) == 5
    found = made.max_marginal_relevance_search("text", 5, nprobe=16, filter={"third": 1})
    assert {document.metadata["third"] for document in found} == {1}
    retriever = made.as_retriever(k=3, search_kwargs={"nprobe": 4})
    assert len(retriever.invoke("text")) == 3


def test_effort_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="ef_search means nothing"):
        store(index="IVF16,Flat", train_size=200).similarity_search("a", ef_search=3)
    with pytest.raises(ValueError, match="nprobe must be at least 1"):
        store(index="ivf_flat").similarity_search("a", nprobe=0)
    with pytest.raises(TypeError, match="'nprob'"):
        store(index="ivf_flat").similarity_search("a", nprob=3)
    with pytest.raises(ValueError, match="unknown index kind"):
        store(index="tree")


def test_a_number_that_means_nothing_for_a_stored_kind_is_no_damage(tmp_path: Path) -> None:
    made = store(index="flat")
    made.save_local(tmp_path)
    with pytest.raises(ValueError, match="nprobe means nothing") as raised:
        FAISSVectorStore.load_local(tmp_path, made.embeddings, nprobe=3)
    assert not isinstance(raised.value, DamagedStoreError)
    with pytest.raises(TypeError, match="index"):
        FAISSVectorStore.load_local(tmp_path, made.embeddings, index="hnsw")


def test_a_manifest_with_unknown_numbers_is_damaged(tmp_path: Path) -> None:
    made = store(index="flat")
    made.save_local(tmp_path)
    path = tmp_path / manifests.NAME
    for value, word in (('{"depth": 3}', "'depth'"), ('{"nprobe": "x"}', "'nprobe' is 'x'")):
        text = path.read_text()
        path.write_text(text.replace('"parameters": {}', f'"parameters": {value}'))
        with pytest.raises(DamagedStoreError, match=word):
            FAISSVectorStore.load_local(tmp_path, made.embeddings)
        path.write_text(text)


def test_searches_go_on_while_an_index_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FAISSVectorStore(DeterministicFakeEmbedding(size=SIZE), index="IVF4,Flat", train_size=60)
    made.add_texts([f"old {n}" for n in range(50)])
    found: list[int] = []
    real = faiss.IndexIVFFlat.train

    def train(self: Any, sample: Any) -> None:
        found.append(len(made.similarity_search("old", 7)))  # would wait forever behind the gate
        real(self, sample)

    monkeypatch.setattr(faiss.IndexIVFFlat, "train", train)
    made.add_texts([f"new {n}" for n in range(50)])
    assert (found, made.index_shape) == ([7], "IVF4,Flat")


@pytest.mark.parametrize("kind", ["hnsw", "HNSW8,SQfp16"])
def test_many_are_linked_in_a_copy_of_the_graph(kind: str) -> None:
    index = filled(kind)
    index.remove(np.arange(0, 600, 7, dtype=np.int64))
    more = vectors(300, seed=2)
    assert index.improve(more[:255].copy()) is None
    linked = index.improve(more)
    assert linked is not None
    graph, before = index.mirrored().index, index.search(more, 5)
    np.testing.assert_array_equal(index.search(more, 5).rows, before.rows)
    assert (before.rows < 600).all()
    linked()
    np.testing.assert_array_equal(index.search(more, 5).rows, before.rows)
    index.add(np.arange(600, 900, dtype=np.int64), more)
    assert index.mirrored().index is not graph
    assert index.rows().tolist() == [n for n in range(900) if n % 7 or n >= 600]
    assert (index.search(more, 1).rows[:, 0] == np.arange(600, 900)).mean() > 0.95
    np.testing.assert_allclose(index.vectors(np.arange(600, 900)), more, atol=1e-2)
    index.add(np.arange(900, 910, dtype=np.int64), vectors(10, seed=3))
    assert len(index) == 824


def test_a_copy_is_not_taken_over_for_other_vectors() -> None:
    index = filled("hnsw")
    linked = index.improve(vectors(300, seed=2))
    assert linked is not None
    linked()
    others = vectors(300, seed=3)
    index.add(np.arange(600, 900, dtype=np.int64), others)
    np.testing.assert_array_equal(index.vectors(np.arange(600, 900)), others)


def test_searches_go_on_while_a_graph_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FAISSVectorStore(DeterministicFakeEmbedding(size=SIZE), index="hnsw", device="cpu")
    made.add_texts([f"old {n}" for n in range(300)])
    found: list[int] = []
    real = faiss.IndexHNSWFlat.add

    def grow(self: Any, given: Any) -> None:
        found.append(len(made.similarity_search("old", 7)))  # would wait forever behind the gate
        real(self, given)

    monkeypatch.setattr(faiss.IndexHNSWFlat, "add", grow)
    made.add_texts([f"new {n}" for n in range(300)])
    assert found == [7]
    assert made.similarity_search("new 5", k=1)[0].page_content == "new 5"
