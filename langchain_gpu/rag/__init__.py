"""Chains and retrievers made of anybody's retriever, reranker and chat model."""

from __future__ import annotations

from langchain_gpu.rag.chain import ANSWER_PROMPT, NOT_FOUND, create_rag_chain
from langchain_gpu.rag.context import format_documents
from langchain_gpu.rag.retrievers import RerankingRetriever, create_reranking_retriever

__all__ = [
    "ANSWER_PROMPT",
    "NOT_FOUND",
    "RerankingRetriever",
    "create_rag_chain",
    "create_reranking_retriever",
    "format_documents",
]
