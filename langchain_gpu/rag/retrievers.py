"""`create_reranking_retriever`: find many documents, keep the best of a second look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.runnables.base import RunnableBindingBase
from pydantic import Field

from langchain_gpu.utils.integers import at_least_one

# What LangChain's vector stores look at for a diverse search, where nothing else is said.
_MMR_CANDIDATES = 20


class RerankingRetriever(BaseRetriever):
    """Asks one retriever for many documents and returns those a reranker puts first.

    Works with anybody's retriever and anybody's document compressor. A retriever with a field `k`,
    or with `search_kwargs`, is asked for `fetch_k` documents; of what any other one returns, the
    first `fetch_k` are looked at. Neither object is changed.

    Attributes:
        base: Turns a question into documents, the most promising first.
        reranker: Orders them, and may leave some out.
        fetch_k: How many documents are looked at; `invoke(..., fetch_k=...)` overrides it.
        k: How many are returned; None for as many as the reranker keeps. `invoke(..., k=...)`
            overrides it.
    """

    base: Runnable[str, list[Document]]
    reranker: BaseDocumentCompressor
    fetch_k: int = Field(default=50, ge=1)
    k: int | None = Field(default=None, ge=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        base, fetch_k, k, rest = self._wanted(kwargs)
        callbacks = run_manager.get_child()
        found = base.invoke(query, {"callbacks": callbacks}, **rest)[:fetch_k]
        if not found:
            return []
        best = _keeping(self.reranker, k).compress_documents(found, query, callbacks)
        return list(best)[:k]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        base, fetch_k, k, rest = self._wanted(kwargs)
        callbacks = run_manager.get_child()
        found = (await base.ainvoke(query, {"callbacks": callbacks}, **rest))[:fetch_k]
        if not found:
            return []
        best = await _keeping(self.reranker, k).acompress_documents(found, query, callbacks)
        return list(best)[:k]

    def _wanted(
        self, kwargs: Mapping[str, Any]
    ) -> tuple[Runnable[str, list[Document]], int, int | None, dict[str, Any]]:
        """Return whom to ask, for how many, how many to return, and what else it is told."""
        rest = dict(kwargs)
        k: int | None = rest.pop("k", self.k)
        fetch_k: int = rest.pop("fetch_k", self.fetch_k)
        for name, number in (("k", k), ("fetch_k", fetch_k)):
            if number is not None:
                at_least_one(name, number)
        fetch_k = max(fetch_k, k or 1)
        return _fetching(self.base, fetch_k), fetch_k, k, rest


def create_reranking_retriever(
    base: Runnable[str, list[Document]],
    reranker: BaseDocumentCompressor,
    fetch_k: int = 50,
    *,
    k: int | None = None,
) -> RerankingRetriever:
    """Return a retriever that finds `fetch_k` documents and keeps the best of a second look.

    Args:
        base: Any retriever, or anything that turns a question into documents.
        reranker: Any document compressor, for example `GPURerank`.
        fetch_k: How many documents the reranker sees.
        k: How many come back; None for as many as the reranker keeps (`GPURerank.top_n`).

    Raises:
        ValueError: A number is smaller than 1.

    Example:
        ```python
        retriever = create_reranking_retriever(store.as_retriever(), GPURerank(top_n=4))
        retriever.invoke("When does the office open?")[0].metadata["relevance_score"]
        ```
    """
    return RerankingRetriever(base=base, reranker=reranker, fetch_k=fetch_k, k=k)


def _fetching(base: Runnable[str, list[Document]], fetch_k: int) -> Runnable[str, list[Document]]:
    """Return a copy that finds `fetch_k` documents; the same object where it cannot be told."""
    if isinstance(base, RunnableBindingBase):  # with a config, arguments of its own, or retries
        return base.model_copy(update={"bound": _fetching(base.bound, fetch_k)})
    if not isinstance(base, BaseRetriever):
        return base
    fields = type(base).model_fields
    update: dict[str, Any] = {"k": fetch_k} if "k" in fields else {}
    if "search_kwargs" in fields:
        asked: dict[str, Any] = {**base.search_kwargs, "k": fetch_k}  # type: ignore[attr-defined]
        if getattr(base, "search_type", None) == "mmr":  # it chooses from among no fewer
            asked["fetch_k"] = max(fetch_k, asked.get("fetch_k", _MMR_CANDIDATES))
        update["search_kwargs"] = asked
    return base.model_copy(update=update) if update else base


def _keeping(reranker: BaseDocumentCompressor, k: int | None) -> BaseDocumentCompressor:
    """Return a copy that keeps `k` documents, so that its own `top_n` takes none of them away.

    The copy shares the model: it is loaded once.
    """
    if k is None or "top_n" not in type(reranker).model_fields:
        return reranker
    return reranker.model_copy(update={"top_n": k})


__all__ = ["RerankingRetriever", "create_reranking_retriever"]
