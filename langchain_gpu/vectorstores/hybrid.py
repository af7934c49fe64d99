"""Hybrid search, by vectors and BM25."""

# ruff: noqa: A002 - `filter` is LangChain's name for it

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

import numpy as np
from langchain_core.documents import Document
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStoreRetriever
from numpy.typing import NDArray

from langchain_gpu.search import fusion as fusions
from langchain_gpu.search.base import Matrix, Rows
from langchain_gpu.search.filters import Filter, compile_filter
from langchain_gpu.store.batch import strings
from langchain_gpu.utils.integers import at_least_one
from langchain_gpu.vectorstores.core import (
    Scored,
    SearchOptions,
    name_query,
    scored,
    unscored,
)
from langchain_gpu.vectorstores.searches import Searches

SEARCH_TYPES = (*VectorStoreRetriever.allowed_search_types, "hybrid")


class Hybrid(Searches):
    """The searches of a `FAISSVectorStore` by vectors and words, and all by their names."""

    def hybrid_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the `k` best documents by vectors and words; see `hybrid_search_with_score`."""
        return unscored(self.hybrid_search_with_score(query, k, **kwargs))

    def hybrid_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,
        *,
        fusion: str = "rrf",
        weight: float = 0.5,
        fetch_k: int | None = None,
        **how: Unpack[SearchOptions],
    ) -> Scored:
        """Search by vectors and by words (BM25), and make one ranking of both.

        The first such search counts the words of all documents, some 3 seconds for 100,000 of 100
        words, and later ones what is new since. Who never calls it pays nothing.

        Args:
            query: The text.
            k: How many documents to return.
            filter: Admits documents by their metadata, in both rankings.
            fusion: `"rrf"` adds 1 / (60 + rank) of both, so that their scores need not compare;
                `"scores"` adds both scores, each scaled to [0, 1] among the candidates.
            weight: The share of the words, between 0 (vectors only) and 1.
            fetch_k: Candidates of each ranking, at least `k`. None takes `4 * k`, but not under 50.
            **how: `nprobe` or `ef_search`.

        Returns:
            Documents, best first, with fused scores: higher is better. They compare within one
            search only.

        Raises:
            TypeError: The query is not a string.
            ValueError: A number is out of its range, or there is no such fusion.
        """
        (query,) = strings([query], "query")
        k = at_least_one("k", k)
        fetch_k = None if fetch_k is None else at_least_one("fetch_k", fetch_k)
        plan = fusions.plan(fusion, weight, fetch_k, k)
        where = None if filter is None else compile_filter(filter)
        vector = self._prepare([self._embedding.embed_query(query)], name_query)
        fuse = partial(self._fuse, query, vector, plan)
        hits = self._collection.fused(
            vector, k, fuse, where, self._effort(how), fetch_k=plan.fetch_k
        )
        self._route.report()
        return scored(hits)

    async def ahybrid_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Run `hybrid_search` in a thread."""
        return await run_in_executor(None, self.hybrid_search, query, k, **kwargs)

    async def ahybrid_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """Run `hybrid_search_with_score` in a thread."""
        return await run_in_executor(None, self.hybrid_search_with_score, query, k, **kwargs)

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Search as `search_type` says: LangChain's names, and `"hybrid"`."""
        if search_type == "hybrid":
            return self.hybrid_search(query, **kwargs)
        if search_type not in SEARCH_TYPES:
            known = ", ".join(SEARCH_TYPES)
            raise ValueError(f"unknown search_type {search_type!r}; known: {known}")
        return super().search(query, search_type, **kwargs)

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Run `search` in a thread."""
        return await run_in_executor(None, self.search, query, search_type, **kwargs)

    def _fuse(
        self, query: str, vector: Matrix, plan: fusions.Plan, near: Rows, allowed: Rows | None
    ) -> tuple[NDArray[np.floating], Rows]:
        index = self._collection.index
        _, worded = self._words.search(query, plan.fetch_k, allowed)
        if plan.by == "rrf" or index is None:
            return fusions.fuse_ranks(near, worded, plan.weight)
        rows = np.union1d(near, worded)
        nearness = fusions.nearness(vector[0], index.vectors(rows), self._metric)
        return fusions.fuse_scores(rows, nearness, self._words.scores(query, rows), plan.weight)


__all__ = ["SEARCH_TYPES", "Hybrid"]
