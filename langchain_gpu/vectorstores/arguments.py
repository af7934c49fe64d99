"""Unknown arguments of a store, and what replaces them here."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

# Of langchain-community's FAISS, from which most who name them come.
_REMEDIES = {
    "allow_dangerous_deserialization": "leave it out, as nothing in the folder can run",
    "distance_strategy": 'metric="l2", "ip" or "cosine" says it',
    "fetch_k": "leave it out, as filters come before the cut at k",
    "index_name": "leave it out, as a folder holds one store",
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
        remedy = f": {_REMEDIES[name]}" if name in _REMEDIES else ""
        raise TypeError(f"FAISSVectorStore does not know the argument {name!r}{remedy}")


def check_settings(store: type, kwargs: dict[str, Any]) -> None:
    """Refuse what the constructor would refuse, before any work is done and by the store's name.

    Raises:
        TypeError: There is no such argument.
    """
    known = signature(store).parameters
    if all(each.kind is not Parameter.VAR_KEYWORD for each in known.values()):
        refuse({name: value for name, value in kwargs.items() if name not in known})


__all__ = ["check_settings", "refuse"]
