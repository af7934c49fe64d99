"""Index kinds by name. One file each: `create(dimension, metric)` and `load(path, ...)`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from langchain_gpu.search.base import Metric, VectorIndex

_HOMES = {"flat": "langchain_gpu.search.kinds.flat"}


class Kind(Protocol):
    """What the module of a kind offers."""

    def create(self, dimension: int, metric: Metric) -> VectorIndex:
        """Return an empty index."""

    def load(self, path: Path, metric: Metric) -> VectorIndex:
        """Read an index from `path`."""


def get(kind: str) -> Kind:
    """Return the kind called `kind`.

    Raises:
        ValueError: There is none; the message lists the known ones.
        ImportError: FAISS is not installed; the message holds the pip line.
    """
    try:
        home = _HOMES[kind]
    except KeyError:
        known = ", ".join(sorted(_HOMES))
        raise ValueError(f"unknown index kind {kind!r}; known: {known}") from None
    return cast("Kind", import_module(home))


__all__ = ["Kind", "get"]
