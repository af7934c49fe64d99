"""The vector store as a retriever."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import model_validator

from langchain_gpu.utils.arguments import unknown_argument
from langchain_gpu.vectorstores.core import unscored
from langchain_gpu.vectorstores.hybrid import SEARCH_TYPES, Hybrid


class FAISSRetriever(VectorStoreRetriever):
    """The retriever of a `FAISSVectorStore`.

    `search_type` is `"similarity"`, `"mmr"`, `"similarity_score_threshold"` (with
    `search_kwargs={"score_threshold": 0.5}`, a relevance), or `"hybrid"` (vectors and words).
    Documents are fresh copies with a score: the store's own, the relevance where a threshold was
    asked for, or the fused score.

    Attributes:
        vectorstore: The store.
        k: How many documents to return. `search_kwargs["k"]` overrides it, and `invoke(..., k=...)`
            overrides both.
        score_key: The field of the metadata that takes the score. None leaves documents as they are
            stored, for code that compares whole documents: `MultiQueryRetriever` takes one document
            found by two queries for two documents, where their scores differ.

    Raises:
        TypeError: There is no such field; what the search takes, `filter` for example, goes into
            `search_kwargs`.
    """

    allowed_search_types: ClassVar[tuple[str, ...]] = SEARCH_TYPES

    vectorstore: Hybrid
    k: int = 4
    score_key: str | None = "score"

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        # The base class would drop it in silence, and a filter that is not applied finds too much.
        if unknown := values.keys() - cls.model_fields.keys():
            name = min(unknown)
            remedy = f"those of the search go into search_kwargs={{{name!r}: ...}}"
            raise TypeError(unknown_argument(cls.__name__, name, remedy))
        return values

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - part of the interface
        **kwargs: Any,
    ) -> list[Document]:
        options = {"k": self.k} | self.search_kwargs | kwargs
        store = self.vectorstore
        if self.search_type == "hybrid":
            found = store.hybrid_search_with_score(query, **options)
        elif self.search_type == "mmr":
            vector = store.embeddings.embed_query(query)
            found = store.max_marginal_relevance_search_with_score_by_vector(vector, **options)
        elif self.search_type == "similarity_score_threshold":
            found = store.similarity_search_with_relevance_scores(query, **options)
        else:
            found = store.similarity_search_with_score(query, **options)
        if self.score_key is not None:
            for document, score in found:
                document.metadata[self.score_key] = score
        return unscored(found)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        search = partial(self._get_relevant_documents, run_manager=run_manager.get_sync())
        return await run_in_executor(None, search, query, **kwargs)


__all__ = ["FAISSRetriever"]
