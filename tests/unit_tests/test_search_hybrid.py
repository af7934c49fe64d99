"""Vectors and words together: BM25 beside the index, and one ranking of both."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search import bm25 as module
from langchain_gpu.search import fusion
from langchain_gpu.search.base import METRICS, Metric
from langchain_gpu.search.bm25 import BM25, K1, B
from langchain_gpu.search.words import split

WORDS = ["cat", "dog", "bird", "fish", "horse", "the", "a", "of"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, the DOG.", ["the", "cat", "the", "dog"]),
        ("snake_case v2.1 E-57", ["snake_case", "v2", "1", "e", "57"]),
        ("", []),
        ("?! ...", []),
        ("Straße \ufb01ne \uff21\uff22\uff23", ["strasse", "fine", "abc"]),
        ("e\u0301te\u0301 \u00e9t\u00e9", ["\u00e9t\u00e9", "\u00e9t\u00e9"]),
        ("東京に行く", ["東", "京", "に", "行", "く"]),
        ("GPU東京", ["gpu", "東", "京"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("\ud800 half", ["half"]),
    ],
)
def test_a_text_is_split_into_words(text: str, words: list[str]) -> None:
    assert split(text) == words


def brute(texts: dict[int, str], query: str) -> dict[int, float]:
    """BM25 in plain Python, rows with a word in common only."""
    counted = {row: Counter(split(text)) for row, text in texts.items()}
    mean = sum(sum(c.values()) for c in counted.values()) / max(len(texts), 1)
    scores: dict[int, float] = {}
    for row, words in counted.items():
        for word in split(query):
            if words[word]:
                having = sum(word in other for other in counted.values())
                idf = math.log1p((len(texts) - having + 0.5) / (having + 0.5))
                damping = K1 * (1 - B + B * sum(words.values()) / mean)
                scores[row] = scores.get(row, 0) + idf * words[word] / (words[word] + damping)
    return scores


def test_scores_are_those_of_bm25s() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(300)]
    ours = BM25()
    ours.follow(len(texts), np.arange(len(texts)), texts)
    theirs = bm25s.BM25(k1=K1, b=B, method="lucene")
    theirs.index([split(text) for text in texts], show_progress=False)
    for query in ("cat", "the dog of a horse", "fish fish bird"):
        expected = theirs.get_scores(split(query))
        np.testing.assert_allclose(ours.scores(query, np.arange(300)), expected, atol=1e-5)


CHANGES = st.lists(
    st.one_of(
        st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), max_size=5),
        st.integers(0, 30),
    ),
    max_size=14,
)


@given(changes=CHANGES, chunk=st.sampled_from([1, 2, 8192]))
def test_after_any_changes_it_is_as_if_built_at_once(
    changes: list[list[str] | int], chunk: int
) -> None:
    """A list adds texts, a number removes the row of that place. Followed after every change."""
    before, module.CHUNK = module.CHUNK, chunk
    try:
        index, texts, next_row = BM25(), dict[int, str](), 0
        for change in changes:
            if isinstance(change, int):
                if texts:
                    del texts[sorted(texts)[change % len(texts)]]
            else:
                texts |= dict(enumerate(change, next_row))
                next_row += len(change)
            index.follow(next_row, np.array(sorted(texts), np.int64), [*texts.values()])
            assert index.is_at(next_row, len(texts))
            scores, rows = index.search("the cat of the dog", 100)
            expected = brute(texts, "the cat of the dog")
            assert set(rows.tolist()) == set(expected)
            np.testing.assert_allclose(
                scores, [expected[row] for row in rows.tolist()], rtol=1e-4, atol=1e-5
            )
            assert (np.diff(scores) <= 0).all()
    finally:
        module.CHUNK = before


def test_equal_scores_come_lowest_row_first_also_at_the_cut() -> None:
    index = BM25()
    index.follow(6, np.arange(6), ["dog", "cat", "cat", "cat", "cat", "cat cat"])
    assert index.search("cat", 3)[1].tolist() == [5, 1, 2]
    assert index.search("cat", 2, np.array([2, 3, 4]))[1].tolist() == [2, 3]
    assert index.search("cow", 3)[1].tolist() == []


def test_words_nobody_has_any_more_are_forgotten() -> None:
    index = BM25()
    index.follow(100, np.arange(100), [f"word{n}" for n in range(100)])
    index.follow(100, np.arange(10), [f"word{n}" for n in range(10)])
    assert len(index._state.numbers) == 10


def test_a_moment_that_is_over_changes_nothing() -> None:
    index = BM25()
    index.follow(2, np.array([0, 1]), ["cat", "dog"])
    index.follow(1, np.array([0]), ["cat"])
    index.follow(2, np.array([1]), ["dog"])
    index.follow(2, np.array([0, 1]), ["cat", "dog"])
    assert index.search("cat dog", 5)[1].tolist() == [1]


def test_ranks_are_fused_as_the_formula_says() -> None:
    scores, rows = fusion.fuse_ranks(np.array([7, 3, 5]), np.array([3, 9]), 0.5)
    assert rows.tolist() == [3, 7, 9, 5]
    np.testing.assert_allclose(scores, [1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    assert fusion.fuse_ranks(np.array([7, 3]), np.array([3, 9]), 0.0)[1].tolist()[:2] == [7, 3]
    assert fusion.fuse_ranks(np.array([7, 3]), np.array([3, 9]), 1.0)[1].tolist()[:2] == [3, 9]


def test_scores_are_fused_on_one_scale() -> None:
    rows = np.array([1, 2, 3])
    scores, order = fusion.fuse_scores(
        rows, np.array([0.9, 0.8, 0.7]), np.array([0.0, 30.0, 15.0]), 0.5
    )
    assert order.tolist() == [2, 1, 3]
    np.testing.assert_allclose(scores, [0.75, 0.5, 0.25])
    same = fusion.fuse_scores(rows, np.array([0.5, 0.5, 0.5]), np.zeros(3), 0.5)
    assert same[0].tolist() == [0, 0, 0]
    empty = np.empty(0)
    assert len(fusion.fuse_scores(np.empty(0, np.int64), empty, empty, 0.5)[1]) == 0


DIRECTIONS = {
    "east": [1.0, 0.0],
    "easterly": [1.0, 0.1],
    "north": [0.0, 1.0],
    "west": [-1.0, 0.0],
    "south": [0.0, -1.0],
    "right": [1.0, 0.0],
    "down": [0.0, -1.0],
    "The": [1.0, 1.0],
}


class Compass(Embeddings):
    """The first word is the vector."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return list(map(self.embed_query, texts))

    def embed_query(self, text: str) -> list[float]:
        return DIRECTIONS[text.split(maxsplit=1)[0]]


def store(*, metric: Metric = "cosine", **options: Any) -> FAISSVectorStore:
    texts = ["east", "easterly parcel", "north", "west parcel E57", "south"]
    metadatas = [{"n": n, "even": n % 2 == 0} for n in range(5)]
    ids = list("abcde")
    return FAISSVectorStore.from_texts(
        texts, Compass(), metadatas, ids=ids, metric=metric, **options
    )


def ids_of(found: list[Any]) -> list[str]:
    return [(each[0] if isinstance(each, tuple) else each).id for each in found]


@pytest.mark.parametrize("by", fusion.FUSIONS)
@pytest.mark.parametrize("metric", METRICS)
def test_a_word_finds_what_the_vectors_put_last(metric: Metric, by: str) -> None:
    found = store(metric=metric).hybrid_search_with_score("right E57", 5, fusion=by)
    assert ids_of(store(metric=metric).similarity_search("right E57", 5))[-1] == "d"
    assert "d" in ids_of(found)[:3]
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert all(type(score) is float for score in scores)


def test_all_ways_to_ask_agree() -> None:
    animals = store()
    expected = ids_of(animals.hybrid_search("right parcel", 3))
    assert ids_of(animals.hybrid_search_with_score("right parcel", 3)) == expected
    assert ids_of(animals.search("right parcel", "hybrid", k=3)) == expected
    retriever = animals.as_retriever(search_type="hybrid", k=3)
    documents = retriever.invoke("right parcel")
    assert ids_of(documents) == expected
    assert documents[0].metadata["score"] > documents[1].metadata["score"] > 0
    assert ids_of(animals.search("right parcel", "similarity", k=1)) == ["a"]


async def test_async_ways_agree() -> None:
    animals = store()
    expected = ids_of(animals.hybrid_search("right parcel", 3))
    assert ids_of(await animals.ahybrid_search("right parcel", 3)) == expected
    assert ids_of(await animals.ahybrid_search_with_score("right parcel", 3)) == expected
    assert ids_of(await animals.asearch("right parcel", "hybrid", k=3)) == expected
    retriever = animals.as_retriever(search_type="hybrid", search_kwargs={"fusion": "scores"})
    assert len(await retriever.ainvoke("right parcel", k=2)) == 2


@pytest.mark.parametrize("by", fusion.FUSIONS)
def test_filters_hold_in_both(by: str) -> None:
    animals = store()
    found = animals.hybrid_search("right parcel", 5, filter={"even": True}, fusion=by)
    assert set(ids_of(found)) == {"a", "c", "e"}
    found = animals.hybrid_search("right parcel", 5, filter=lambda m: m["n"] == 3, fusion=by)
    assert ids_of(found) == ["d"]
    assert animals.hybrid_search("right parcel", filter={"n": 77}) == []


@pytest.mark.parametrize("by", fusion.FUSIONS)
def test_deletes_and_upserts_hold_in_both(by: str) -> None:
    animals = store()
    assert "d" in ids_of(animals.hybrid_search("right E57", 2, fusion=by))
    animals.delete(["d"])
    assert set(ids_of(animals.hybrid_search("right E57", 5, fusion=by))) == set("abce")
    animals.add_texts(["west e57 again"], ids=["c"])
    found = animals.hybrid_search("right E57", 4, fusion=by, weight=1.0)
    assert (found[0].id, found[0].page_content) == ("c", "west e57 again")
    assert ids_of(animals.hybrid_search("north north", 4)).count("c") == 1
    animals.delete()
    assert animals.hybrid_search("right E57") == []
    animals.add_texts(["right new"], ids=["f"])
    assert ids_of(animals.hybrid_search("right E57")) == ["f"]


def test_an_empty_store_finds_nothing() -> None:
    assert FAISSVectorStore(Compass()).hybrid_search("right") == []


@pytest.mark.parametrize("mmap", [False, True])
def test_a_loaded_store_answers_the_same(tmp_path: Path, *, mmap: bool) -> None:
    animals = store()
    animals.delete(["b"])
    animals.add_texts(["south parcel parcel"], ids=["e"])
    expected = animals.hybrid_search_with_score("right parcel", 5, fusion="scores")
    animals.save_local(tmp_path)
    loaded = FAISSVectorStore.load_local(tmp_path, Compass(), mmap=mmap)
    found = loaded.hybrid_search_with_score("right parcel", 5, fusion="scores")
    assert [(d.id, score) for d, score in found] == [(d.id, score) for d, score in expected]
    loaded.add_texts(["north E58"], ids=["z"])
    assert loaded.hybrid_search("right e58", 1, weight=1.0)[0].id == "z"


@pytest.mark.parametrize("kind", ["flat", "sq8", "hnsw", "IVF4,Flat"])
def test_every_kind_of_index(kind: str) -> None:
    texts = [f"word{n} common" for n in range(300)]
    animals = FAISSVectorStore.from_texts(
        texts, DeterministicFakeEmbedding(size=16), index=kind, train_size=None
    )
    for by in fusion.FUSIONS:
        found = animals.hybrid_search("about word123", 3, fusion=by, weight=0.9)
        assert found[0].page_content == "word123 common"


def test_the_weight_moves_between_the_rankings() -> None:
    animals = store()
    near = ids_of(animals.similarity_search("right west", 5))
    assert ids_of(animals.hybrid_search("right west", 5, weight=0.0)) == near
    for by in fusion.FUSIONS:
        found = animals.hybrid_search("right west", 1, weight=1.0, fusion=by)
        assert ids_of(found) == ["d"]


@pytest.mark.parametrize("metric", METRICS)
def test_the_scores_of_vectors_alone_rank_as_a_search_does(metric: Metric) -> None:
    animals = store(metric=metric)
    near = ids_of(animals.similarity_search("easterly parcel", 5))
    found = animals.hybrid_search("easterly parcel", 5, fusion="scores", weight=0.0)
    assert ids_of(found) == near


class Line(Embeddings):
    """The first word is a place on a line."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return list(map(self.embed_query, texts))

    def embed_query(self, text: str) -> list[float]:
        return [float(text.split(maxsplit=1)[0])]


@pytest.mark.parametrize(("k", "rank"), [(1, 30), (20, 70)])
def test_what_is_in_the_middle_of_both_rankings_is_a_candidate(k: int, rank: int) -> None:
    """Of each ranking `4 * k` are looked at, and at least 50."""
    texts = [f"{n} near" for n in range(1, rank)] + [f"{rank} cat, and much more of other things"]
    texts += [f"{n} between" for n in range(rank + 1, 200)]
    texts += [f"{n} cat" for n in range(200, 200 + rank - 1)]
    line = FAISSVectorStore.from_texts(texts, Line(), metric="l2")
    found = [each.page_content for each in line.hybrid_search("0 cat", k)]
    assert texts[rank - 1] in found
    assert texts[rank - 1] not in [
        each.page_content for each in line.hybrid_search("0 cat", k, fetch_k=k)
    ]


def test_words_are_counted_at_the_first_such_search_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(text: str) -> list[str]:
        asked.append(text)
        return split(text)

    monkeypatch.setattr(module, "split", counted)
    animals = store()
    animals.similarity_search("right")
    assert asked == []
    animals.hybrid_search("right east")
    assert len(asked) == 5 + 1
    animals.hybrid_search("right east")
    assert len(asked) == 5 + 2
    animals.add_texts(["north more"])
    animals.hybrid_search("right east")
    assert len(asked) == 5 + 2 + 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fusion": "sum"}, ValueError, "unknown fusion 'sum'; known: rrf, scores"),
        ({"weight": 1.5}, ValueError, "between 0 and 1, not 1.5"),
        ({"weight": math.nan}, ValueError, "between 0 and 1, not nan"),
        ({"k": 0}, ValueError, "k must be at least 1, not 0"),
        ({"fetch_k": 0}, ValueError, "fetch_k must be at least 1, not 0"),
        ({"filter": {"n": {"$near": 1}}}, ValueError, "unknown filter operator '\\$near'"),
        ({"nprobe": 0}, ValueError, "nprobe"),
        ({"lambda_mult": 0.5}, TypeError, "'lambda_mult'"),
    ],
)
def test_bad_arguments_are_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        store().hybrid_search("right", **options)


def test_an_unknown_search_type_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown search_type 'magic'.*mmr, hybrid"):
        store().search("right", "magic")


def test_a_query_that_is_no_text() -> None:
    with pytest.raises(TypeError, match="query 0 is int, not str"):
        store().hybrid_search(5)  # type: ignore[arg-type]
