"""Every index kind through random adds, upserts, deletes and searches, against a dictionary."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search.base import Metric

DIMENSION = 16
# Corners of a cube, far from one another: what rounding and clustering do cannot change an order by
# much, and a 16-bit float holds them as they are.
_SIGNS = np.sign(np.random.default_rng(3).standard_normal((24, DIMENSION))).astype(np.float32)
POOL = _SIGNS * np.linspace(1, 1.5, 24, dtype=np.float32)[:, None]

# kind, arguments, how far a score may be from the true one (None: only what any kind must keep)
KINDS: list[tuple[str, dict[str, Any], float | None]] = [
    ("auto", {}, 1e-4),
    ("flat", {}, 1e-4),
    ("fp16", {}, 0.05),
    ("sq8", {"train_size": 24}, 0.4),
    ("ivf_flat", {"train_size": 10}, 1e-4),
    ("ivf_sq8", {"train_size": 24}, 0.4),
    ("hnsw", {"ef_search": 100}, 1e-4),
    ("IVF3,Flat", {"train_size": 10, "nprobe": 3}, 1e-4),
    ("IVF3,Flat", {"train_size": 10, "nprobe": 1}, None),
    ("IVF2,PQ4x3", {"train_size": 10, "nprobe": 2}, None),
    ("hnsw", {"ef_search": 100}, 1e-4),
    ("HNSW4,SQ8", {"train_size": 24, "ef_search": 100}, 0.4),
]
IDS = st.sampled_from([f"id{n}" for n in range(30)])
DOCUMENTS = st.dictionaries(IDS, st.tuples(st.integers(0, len(POOL) - 1), st.integers(0, 2)))


class Machine(RuleBasedStateMachine):
    kind: ClassVar[str]
    options: ClassVar[dict[str, Any]]
    tolerance: ClassVar[float | None]
    metric: ClassVar[Metric]

    def __init__(self) -> None:
        super().__init__()
        self.embedding = DeterministicFakeEmbedding(size=DIMENSION)
        self.store = FAISSVectorStore(
            self.embedding, metric=self.metric, index=self.kind, **self.options
        )
        self.model: dict[str, tuple[int, int]] = {}
        self.saw_all = False  # whether training saw every vector there can be
        self.folder = Path(tempfile.mkdtemp())

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(full=st.booleans())
    def begin(self, full: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.saw_all = full
        if full:
            self.add({f"id{n}": (n, n % 3) for n in range(len(POOL))})

    @rule(documents=DOCUMENTS)
    def add(self, documents: dict[str, tuple[int, int]]) -> None:
        pairs = [(str(number), POOL[number]) for number, _ in documents.values()]
        metadatas = [{"kind": kind} for _, kind in documents.values()]
        self.store.add_embeddings(pairs, metadatas, ids=list(documents))
        self.model |= documents

    @rule(ids=st.lists(IDS, max_size=20))
    def delete(self, ids: list[str]) -> None:
        self.store.delete(ids)
        for id_ in ids:
            self.model.pop(id_, None)

    @rule()
    def save_and_load(self) -> None:
        before = self.store.index_shape
        self.store.save_local(self.folder)
        self.store = FAISSVectorStore.load_local(self.folder, self.embedding)
        assert before in {None, self.store.index_shape}

    @rule(number=st.integers(0, len(POOL) - 1), k=st.integers(1, 35), kind=st.integers(0, 3))
    def search(self, number: int, k: int, kind: int) -> None:
        where: Any = {"kind": kind} if kind < 3 else None
        query = POOL[number] * np.float32(0.9)
        found = self.store.similarity_search_with_score_by_vector(query, k, where)
        scores = {
            id_: self.score(query, POOL[its_number])
            for id_, (its_number, its_kind) in self.model.items()
            if kind in {3, its_kind}
        }
        ids = [str(document.id) for document, _ in found]
        assert len(set(ids)) == len(ids) == min(k, len(scores))
        for document, _ in found:
            its_number, its_kind = self.model[str(document.id)]
            assert document.page_content == str(its_number)
            assert document.metadata == {"kind": its_kind}
        if self.tolerance is None or not (self.saw_all or self.tolerance < 0.1):
            return
        best = sorted(scores.values(), reverse=self.metric != "l2")[:k]
        allowed = self.tolerance * max(1, float(query @ query) / 10)
        np.testing.assert_allclose([scores[id_] for id_ in ids], best, atol=allowed)
        np.testing.assert_allclose([score for _, score in found], best, atol=allowed)

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.store) == len(self.model)
        index = self.store._collection._index
        assert index is None or len(index.rows()) == len(self.model)

    def score(self, query: Any, vector: Any) -> float:
        left, right = query.astype(np.float64), vector.astype(np.float64)
        if self.metric == "l2":
            return float(((left - right) ** 2).sum())
        lengths = np.linalg.norm(left) * np.linalg.norm(right) if self.metric == "cosine" else 1
        return float(left @ right / lengths)


pytestmark = pytest.mark.usefixtures("one_faiss_thread")


METRICS: tuple[Metric, ...] = ("l2", "cosine", "ip")
# A metric for each kind, and each metric for kinds of each family.
CASES = [(*kind, METRICS[number % 3]) for number, kind in enumerate(KINDS)]


@pytest.mark.parametrize(
    ("kind", "options", "tolerance", "metric"),
    CASES,
    ids=[f"{case[0]}-{case[3]}" for case in CASES],
)
def test_a_kind_against_a_dictionary(
    kind: str, options: dict[str, Any], tolerance: float | None, metric: Metric
) -> None:
    values = {"kind": kind, "options": options, "tolerance": tolerance, "metric": metric}
    run_state_machine_as_test(
        type("OfAKind", (Machine,), values),
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
