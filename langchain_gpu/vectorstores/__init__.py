"""FAISS as a LangChain vector store, and its retriever."""

from langchain_gpu.vectorstores.core import SearchOptions
from langchain_gpu.vectorstores.faiss import FAISSVectorStore
from langchain_gpu.vectorstores.retriever import FAISSRetriever

__all__ = ["FAISSRetriever", "FAISSVectorStore", "SearchOptions"]
