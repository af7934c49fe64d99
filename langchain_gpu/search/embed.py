"""Texts to checked rows, through anybody's embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import Matrix, Metric
from langchain_gpu.search.vectors import prepare

SLICE = 4096  # texts a call to `embed_documents`: its lists take 8 times the memory of an array


@runtime_checkable
class SupportsArrays(Protocol):
    """An embedding that returns an array; it is asked instead of `embed_documents`."""

    def embed_to_array(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return [len(texts), dimension]."""


@runtime_checkable
class SupportsQueryArrays(Protocol):
    """An embedding that takes many queries at once; it is asked instead of `embed_query`."""

    def embed_queries_to_array(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return [len(texts), dimension]."""


class SupportsLists(Protocol):
    """Any other embedding."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text."""

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""


def embed(
    embedding: SupportsArrays | SupportsLists,
    texts: list[str],
    *,
    metric: Metric,
    dimension: int | None,
    name: Callable[[int], str],
    size: int | None = None,
) -> Matrix:
    """Return [len(texts), dimension] rows an index can hold; see `prepare` for the rest.

    Args:
        embedding: Makes the vectors.
        texts: The texts.
        metric: As in `prepare`.
        dimension: As in `prepare`.
        name: As in `prepare`.
        size: Texts a call. None asks for an array at once, so that the engine can sort all texts,
            and for lists in slices, each of which becomes rows before the next comes.
    """
    ask: Callable[[list[str]], Any]
    if isinstance(embedding, SupportsArrays):
        ask, size = embedding.embed_to_array, size or max(len(texts), 1)
    else:
        ask, size = embedding.embed_documents, size or SLICE
    rows = np.empty((len(texts), dimension or 0), dtype=np.float32)
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        found = prepare(
            ask(part),
            count=len(part),
            metric=metric,
            dimension=rows.shape[1] or None,
            name=partial(_shifted, name, start),
        )
        if len(part) == len(texts):
            return found
        if not rows.shape[1]:
            rows = np.empty((len(texts), found.shape[1]), dtype=np.float32)
        rows[start : start + len(part)] = found
    return rows


def _shifted(name: Callable[[int], str], start: int, position: int) -> str:
    return name(start + position)


def embed_queries(embedding: SupportsLists, queries: Sequence[str]) -> Sequence[Any]:
    """Return one vector for each query: in one call where the embedding takes many."""
    if len(queries) > 1 and isinstance(embedding, SupportsQueryArrays):
        return list(embedding.embed_queries_to_array(queries))
    return [embedding.embed_query(query) for query in queries]


__all__ = ["SupportsArrays", "SupportsLists", "SupportsQueryArrays", "embed", "embed_queries"]
