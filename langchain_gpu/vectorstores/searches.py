"""Similarity search and maximal marginal relevance."""

# ruff: noqa: A002 - `filter` is LangChain's name for it

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from langchain_core.documents import Document
from langchain_core.runnables.config import run_in_executor
from numpy.typing import ArrayLike

from langchain_gpu.search.base import Matrix
from langchain_gpu.search.embed import embed_queries
from langchain_gpu.search.filters import Filter, compile_filter
from langchain_gpu.search.mmr import select_diverse
from langchain_gpu.store.batch import strings
from langchain_gpu.utils.integers import at_least_one
from langchain_gpu.vectorstores.core import (
    Core,
    Scored,
    SearchOptions,
    apart,
    name_query,
    scored,
    unscored,
)


class Searches(Core):
    """The searches of a `FAISSVectorStore` by vectors."""

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the `k` documents nearest to a text, of those that the filter admits."""
        return unscored(self.similarity_search_with_score(query, k, filter, **kwargs))

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **how: Unpack[SearchOptions]
    ) -> Scored:
        """Return the `k` documents nearest to a text, with scores as the class says."""
        return self.similarity_search_many([query], k, filter, **how)[0]

    def similarity_search_many(
        self,
        queries: Sequence[str],
        k: int = 4,
        filter: Filter | None = None,
        **how: Unpack[SearchOptions],
    ) -> list[Scored]:
        """Search for several texts at once: one list of (document, score) for each."""
        vectors = embed_queries(self._embedding, strings(queries, "query"))
        hits = self._find(vectors, k, filter, how)
        return apart(scored(hits), hits.near.counts)

    def similarity_search_by_vector(
        self, embedding: ArrayLike, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the `k` documents nearest to a vector, of those that the filter admits."""
        return unscored(self.similarity_search_with_score_by_vector(embedding, k, filter, **kwargs))

    def similarity_search_with_score_by_vector(
        self,
        embedding: ArrayLike,
        k: int = 4,
        filter: Filter | None = None,
        **how: Unpack[SearchOptions],
    ) -> Scored:
        """Return the `k` documents nearest to a vector, with scores as the class says."""
        return scored(self._find([embedding], k, filter, how))

    async def asimilarity_search_with_score_by_vector(
        self, embedding: ArrayLike, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> Scored:
        """Do the same as `similarity_search_with_score_by_vector` without blocking."""
        search = self.similarity_search_with_score_by_vector
        return await run_in_executor(None, search, embedding, k, filter, **kwargs)

    def similarity_search_ids_by_vectors(
        self,
        embeddings: Sequence[ArrayLike] | Matrix,
        k: int = 4,
        filter: Filter | None = None,
        **how: Unpack[SearchOptions],
    ) -> list[list[tuple[str, float]]]:
        """Search for several vectors at once: one list of (id, score) for each, no documents.

        For what needs many neighbors and few texts: evaluation, duplicates, graphs. A batch takes
        hardly longer than FAISS itself.

        Args:
            embeddings: [queries, dimension]
            k: How many to return for each.
            filter: Admits documents by their metadata.
            **how: `nprobe` or `ef_search`.
        """
        where = None if filter is None else compile_filter(filter)
        queries = self._prepare(embeddings, name_query)
        k = at_least_one("k", k)
        ids, near = self._collection.search_ids(queries, k, where, self._effort(how))
        self._route.report()
        return apart(list(zip(ids, near.scores, strict=True)), near.counts)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return `k` documents that are near to a text and unlike one another."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, filter, **kwargs
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: ArrayLike,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return `k` documents that are near to a vector and unlike one another."""
        return unscored(
            self.max_marginal_relevance_search_with_score_by_vector(
                embedding, k, fetch_k, lambda_mult, filter, **kwargs
            )
        )

    def max_marginal_relevance_search_with_score_by_vector(
        self,
        embedding: ArrayLike,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **how: Unpack[SearchOptions],
    ) -> Scored:
        """Return documents near to a vector and unlike one another, in the order of their choice.

        Args:
            embedding: The vector.
            k: How many to return.
            fetch_k: Out of how many of the nearest; at least `k` are taken.
            lambda_mult: 1 looks at nearness only, 0 at variety only.
            filter: Admits documents by their metadata.
            **how: `nprobe` or `ef_search`.
        """
        where = None if filter is None else compile_filter(filter)
        query = self._prepare([embedding], name_query)
        k, fetch_k = at_least_one("k", k), at_least_one("fetch_k", fetch_k)
        hits, vectors = self._collection.candidates(
            query, max(k, fetch_k), where, self._effort(how)
        )
        self._route.report()
        found = scored(hits)
        return [found[position] for position in select_diverse(query, vectors, k, lambda_mult)]

    async def amax_marginal_relevance_search_with_score_by_vector(
        self,
        embedding: ArrayLike,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> Scored:
        """Do the same as `max_marginal_relevance_search_with_score_by_vector` without blocking."""
        search = self.max_marginal_relevance_search_with_score_by_vector
        return await run_in_executor(None, search, embedding, k, fetch_k, lambda_mult, **kwargs)


__all__ = ["Searches"]
