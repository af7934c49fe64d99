"""Texts to checked rows, through anybody's embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class SupportsLists(Protocol):
    """Any other embedding."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text."""


def embed(
    embedding: SupportsArrays | SupportsLists,
    texts: list[str],
    *,
    metric: Metric,
    dimension: int | None,
    name: Callable[[int], str],
) -> Matrix:
    """Return [len(texts), dimension] rows an index can hold; see `prepare` for the rest.

    An array is asked for in one call, so that the engine can sort all texts; lists are asked for in
    slices, and each is turned into rows before the next comes.
    """
    if isinstance(embedding, SupportsArrays):
        vectors: Any = embedding.embed_to_array(texts)
        return prepare(vectors, count=len(texts), metric=metric, dimension=dimension, name=name)
    rows: Matrix | None = None
    for start in range(0, len(texts), SLICE):
        part = texts[start : start + SLICE]
        found = prepare(
            embedding.embed_documents(part),
            count=len(part),
            metric=metric,
            dimension=dimension if rows is None else rows.shape[1],
            name=lambda position, start=start: name(start + position),  # type: ignore[misc]
        )
        if len(part) == len(texts):
            return found
        if rows is None:
            rows = np.empty((len(texts), found.shape[1]), dtype=np.float32)
        rows[start : start + len(part)] = found
    return np.empty((0, dimension or 0), dtype=np.float32) if rows is None else rows


__all__ = ["SupportsArrays", "SupportsLists", "embed"]
