"""LangChain classes for models that run on your own hardware.

Importing this package imports no torch, no transformers and no faiss: each name below is loaded
when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_gpu.chat_models import ChatGPU
    from langchain_gpu.embeddings import GPUEmbeddings
    from langchain_gpu.hardware.devices import Device, list_devices, select_device
    from langchain_gpu.llms import GPULLM
    from langchain_gpu.rag import create_rag_chain, create_reranking_retriever
    from langchain_gpu.rerank import GPURerank
    from langchain_gpu.vectorstores import FAISSRetriever, FAISSVectorStore

try:
    __version__ = version("langchain-gpu")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "ChatGPU": "langchain_gpu.chat_models",
    "Device": "langchain_gpu.hardware.devices",
    "FAISSRetriever": "langchain_gpu.vectorstores",
    "FAISSVectorStore": "langchain_gpu.vectorstores",
    "GPUEmbeddings": "langchain_gpu.embeddings",
    "GPULLM": "langchain_gpu.llms",
    "GPURerank": "langchain_gpu.rerank",
    "create_rag_chain": "langchain_gpu.rag",
    "create_reranking_retriever": "langchain_gpu.rag",
    "list_devices": "langchain_gpu.hardware.devices",
    "select_device": "langchain_gpu.hardware.devices",
}

__all__ = [
    "GPULLM",
    "ChatGPU",
    "Device",
    "FAISSRetriever",
    "FAISSVectorStore",
    "GPUEmbeddings",
    "GPURerank",
    "__version__",
    "create_rag_chain",
    "create_reranking_retriever",
    "list_devices",
    "select_device",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
