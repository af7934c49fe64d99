"""Against langchain-community's FAISS, a development dependency to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search.base import Metric
from tests.unit_tests.community_stores import (
    COUNT,
    EMBEDDING,
    IDS,
    METADATAS,
    QUERIES,
    TEXTS,
    split,
    strategies,
    theirs,
)


def ours(metric: Metric) -> FAISSVectorStore:
    return FAISSVectorStore.from_texts(TEXTS, EMBEDDING, METADATAS, ids=IDS, metric=metric)


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("l2", {}),
        ("ip", {"distance_strategy": strategies.MAX_INNER_PRODUCT}),
        ("cosine", {"normalize_L2": True}),
    ],
)
def test_the_same_queries_find_the_same(metric: Metric, options: dict[str, Any]) -> None:
    left, right = ours(metric), theirs(**options)
    for query in QUERIES:
        ids, scores = split(left.similarity_search_with_score(query, k=10))
        their_ids, their_scores = split(right.similarity_search_with_score(query, k=10))
        assert ids == their_ids
        if metric == "cosine":  # theirs is the squared distance of unit vectors
            scores = [2 - 2 * score for score in scores]
        np.testing.assert_allclose(scores, their_scores, rtol=1e-4, atol=1e-5)


def test_the_same_after_deleting() -> None:
    left, right = ours("l2"), theirs()
    gone = IDS[5:250:7]
    left.delete(gone)
    right.delete(gone)
    for query in QUERIES:
        ids, _ = split(left.similarity_search_with_score(query, k=10))
        assert ids == split(right.similarity_search_with_score(query, k=10))[0]


def test_the_same_variety() -> None:
    left, right = ours("l2"), theirs()
    for query in QUERIES:
        found = left.max_marginal_relevance_search(query, k=5, fetch_k=30)
        expected = right.max_marginal_relevance_search(query, k=5, fetch_k=30)
        assert [document.id for document in found] == [document.id for document in expected]


def test_filters_find_what_theirs_finds_when_it_looks_at_everything() -> None:
    left, right = ours("l2"), theirs()
    for query in QUERIES:
        found = left.similarity_search(query, k=10, filter={"lang": "de"})
        expected = right.similarity_search(query, k=10, filter={"lang": "de"}, fetch_k=300)
        assert [document.id for document in found] == [document.id for document in expected]


def test_a_filter_is_taken_by_its_place_too() -> None:
    left, right = ours("l2"), theirs()
    where, vector = {"lang": "de"}, EMBEDDING.embed_query(QUERIES[0])
    for name, asked, between in (
        ("similarity_search", QUERIES[0], ()),
        ("similarity_search_by_vector", vector, ()),
        ("max_marginal_relevance_search", QUERIES[0], (COUNT, 0.5)),
        ("max_marginal_relevance_search_by_vector", vector, (COUNT, 0.5)),
    ):
        found = getattr(left, name)(asked, 3, *between, where)
        expected = getattr(right, name)(asked, 3, *between, where, *(() if between else (COUNT,)))
        assert [document.id for document in found] == [document.id for document in expected]
