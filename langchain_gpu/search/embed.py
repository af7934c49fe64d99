"""Texts to checked vectors, by any LangChain embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import Matrix, Metric
from langchain_gpu.search.vectors import Allocate, empty, gather

ARRAY_SLICE = 16_384  # texts a call to `embed_to_array`: enough to sort by length
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
    allocate: Allocate = empty,
) -> Matrix:
    """Return [len(texts), dimension] rows an index can hold; see `prepare` for the rest.

    Args:
        embedding: Makes the vectors.
        texts: The texts.
        metric: As in `prepare`.
        dimension: As in `prepare`.
        name: As in `prepare`.
        size: Texts a call. Each part becomes rows before the next comes. None asks for arrays in
            large parts, so that the engine can sort many texts, and for lists in smaller ones.
        allocate: Makes the rows.
    """
    ask: Callable[[list[str]], Any]
    if isinstance(embedding, SupportsArrays):
        ask, size = embedding.embed_to_array, size or ARRAY_SLICE
    else:
        ask, size = embedding.embed_documents, size or SLICE
    return gather(
        _parts(ask, texts, size, name),
        len(texts),
        metric=metric,
        dimension=dimension,
        name=name,
        allocate=allocate,
    )


def _parts(
    ask: Callable[[list[str]], Any], texts: list[str], size: int, name: Callable[[int], str]
) -> Iterator[tuple[int, Any]]:
    """Yield how many texts each part has, and what the embedding makes of them."""
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        try:
            vectors = ask(part)
        except Exception as error:
            if start:  # whatever the embedding says of a text, it counts from here
                error.add_note(f"in the part of the texts that starts at {name(start)}")
            raise
        yield len(part), vectors
        del part, vectors  # before the next is made


def embed_queries(embedding: SupportsLists, queries: Sequence[str]) -> Sequence[Any]:
    """Return one vector for each query: in one call where the embedding takes many."""
    if len(queries) > 1 and isinstance(embedding, SupportsQueryArrays):
        return list(embedding.embed_queries_to_array(queries))
    return [embedding.embed_query(query) for query in queries]


__all__ = ["SupportsArrays", "SupportsLists", "SupportsQueryArrays", "embed", "embed_queries"]
