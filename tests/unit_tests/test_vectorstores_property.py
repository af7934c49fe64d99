"""Random adds, upserts, deletes, saves and searches against a dictionary and brute force."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search.base import Metric

IDS = st.sampled_from([f"id{n}" for n in range(12)])
VECTORS = st.lists(st.integers(-4, 4), min_size=3, max_size=3).filter(any)
DOCUMENTS = st.dictionaries(IDS, st.tuples(VECTORS, st.integers(0, 2)), max_size=6)


class StoreAgainstBruteForce(RuleBasedStateMachine):
    metric: ClassVar[Metric]

    def __init__(self) -> None:
        super().__init__()
        self.embedding = DeterministicFakeEmbedding(size=3)
        self.store = FAISSVectorStore(self.embedding, metric=self.metric)
        self.model: dict[str, tuple[list[int], int]] = {}
        self.folder = Path(tempfile.mkdtemp())

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(documents=DOCUMENTS)
    def add(self, documents: dict[str, tuple[list[int], int]]) -> None:
        pairs = [(f"{vector} {kind}", vector) for vector, kind in documents.values()]
        metadatas = [{"kind": kind} for _, kind in documents.values()]
        assert self.store.add_embeddings(pairs, metadatas, ids=list(documents)) == list(documents)
        self.model |= documents

    @rule(ids=st.lists(IDS, max_size=5))
    def delete(self, ids: list[str]) -> None:
        self.store.delete(ids)
        for id_ in ids:
            self.model.pop(id_, None)

    @rule()
    def delete_all(self) -> None:
        self.store.delete()
        self.model.clear()

    @rule()
    def save_and_load(self) -> None:
        self.store.save_local(self.folder)
        self.store = FAISSVectorStore.load_local(self.folder, self.embedding)

    @rule(query=VECTORS, k=st.integers(1, 15), kind=st.none() | st.integers(0, 3))
    def search(self, query: list[int], k: int, kind: int | None) -> None:
        where: Any = None if kind is None else {"kind": kind}
        found = self.store.similarity_search_with_score_by_vector(query, k, where)
        scores = {
            id_: self.score(query, vector)
            for id_, (vector, its_kind) in self.model.items()
            if kind in {None, its_kind}
        }
        best = sorted(scores.values(), reverse=self.metric != "l2")[:k]
        # Equal scores may come in any order, so ids are checked by their own score.
        np.testing.assert_allclose([score for _, score in found], best, atol=1e-5)
        assert len({document.id for document, _ in found}) == len(found)
        for document, score in found:
            assert document.id is not None
            np.testing.assert_allclose(score, scores[document.id], atol=1e-5)
            vector, its_kind = self.model[document.id]
            assert document.page_content == f"{vector} {its_kind}"
            assert document.metadata == {"kind": its_kind}

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.store) == len(self.model)
        found = self.store.get_by_ids([f"id{n}" for n in range(12)])
        assert {document.id for document in found} == set(self.model)
        assert {document.id for document in self.store.iter_documents()} == set(self.model)

    def score(self, query: list[int], vector: list[int]) -> float:
        left, right = np.array(query, dtype=np.float64), np.array(vector, dtype=np.float64)
        if self.metric == "l2":
            return float(((left - right) ** 2).sum())
        lengths = np.linalg.norm(left) * np.linalg.norm(right) if self.metric == "cosine" else 1
        return float(left @ right / lengths)


LIMITS = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class Cosine(StoreAgainstBruteForce):
    metric = "cosine"


class InnerProduct(StoreAgainstBruteForce):
    metric = "ip"


class Distance(StoreAgainstBruteForce):
    metric = "l2"


TestCosine = Cosine.TestCase
TestCosine.settings = LIMITS
TestInnerProduct = InnerProduct.TestCase
TestInnerProduct.settings = LIMITS
TestDistance = Distance.TestCase
TestDistance.settings = LIMITS
