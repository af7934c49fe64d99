"""Checks of what a store is given: unknown arguments, with their remedies, and documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

from langchain_core.documents import Document

from langchain_gpu.utils.arguments import unknown_argument

P = ParamSpec("P")
R = TypeVar("R")

# Of langchain-community's FAISS, from which most who name them come.
_REMEDIES = {
    "allow_dangerous_deserialization": "leave it out, as nothing in the folder can run",
    "docstore": "leave it out, as the store keeps the documents; from_community takes them over",
    "embedding_function": "embedding=... says it",
    "embeddings": "embedding=... says it",
    "distance_strategy": 'metric="l2", "ip" or "cosine" says it',
    "fetch_k": "leave it out, as filters come before the cut at k",
    "index_to_docstore_id": "leave it out, as the store keeps the ids itself",
    "index_name": "leave it out, as a folder holds one store",
    "io_flags": "mmap=True leaves vectors and documents in their files",
    "normalize_L2": 'metric="cosine" does it',
    "score_threshold": "similarity_search_with_relevance_scores takes it, as a relevance",
}


def refuse(kwargs: dict[str, Any]) -> None:
    """Refuse further arguments.

    Raises:
        TypeError: There is one; the message says what takes its place, if anything does.
    """
    if kwargs:
        name = next(iter(kwargs))
        raise TypeError(unknown_argument("FAISSVectorStore", name, _REMEDIES.get(name, "")))


def check_settings(store: type, kwargs: dict[str, Any]) -> None:
    """Refuse what the constructor would refuse, before any work is done and by the store's name.

    Raises:
        TypeError: There is no such argument.
    """
    known = signature(store).parameters
    if all(each.kind is not Parameter.VAR_KEYWORD for each in known.values()):
        refuse({name: value for name, value in kwargs.items() if name not in known})


def refusing(function: Callable[P, R]) -> Callable[P, R]:
    """Have a constructor refuse unknown arguments with their remedies.

    Python would tell of them, or of the argument that they stand for, without a remedy. Where the
    function takes further arguments itself, only names that have a remedy are refused.
    """
    known = signature(function).parameters
    further = any(each.kind is Parameter.VAR_KEYWORD for each in known.values())

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = {name: value for name, value in kwargs.items() if name not in known}
        refuse({name: unknown[name] for name in unknown if name in _REMEDIES or not further})
        return function(*args, **kwargs)

    return checked


def documents_of(documents: Iterable[object]) -> list[Document]:
    """Return what is to be stored as a list.

    Raises:
        TypeError: It, or an item, is not what it should be; the message names the item.
    """
    if not isinstance(documents, Iterable):
        raise TypeError(f"documents must be a list of Document, not {documents!r}")
    found: list[Document] = []
    for at, each in enumerate(documents):
        if not isinstance(each, Document):
            raise TypeError(
                f"document {at} is {type(each).__name__}, not Document; add_texts takes texts"
            )
        found.append(each)
    return found


__all__ = ["check_settings", "documents_of", "refuse", "refusing"]
