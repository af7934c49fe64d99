"""Vectors of an index that another program built with FAISS."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from langchain_gpu.search.base import Matrix, Metric, Rows, VectorError
from langchain_gpu.utils.extras import require

SLICE = 65_536  # vectors that are taken out at once


class Foreign(NamedTuple):
    """What an index holds.

    Attributes:
        metric: `"l2"` or `"ip"`.
        numbers: [n], increasing: the numbers its searches answer in.
        vectors: [n, dimension], decoded where it is compressed.
    """

    metric: Metric
    numbers: Rows
    vectors: Matrix


def load(path: Path) -> Foreign:
    """Read an index file.

    Raises:
        VectorError: FAISS cannot read it, or cannot give its vectors back.
        ImportError: FAISS is not installed.
    """
    faiss = require("faiss", extra="faiss")
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise VectorError(f"FAISS cannot read {path}: {error}") from error
    return take(index)


def take(index: Any) -> Foreign:
    """Copy the vectors of an index, which is not changed.

    Raises:
        VectorError: It has another metric, or cannot give its vectors back.
        ImportError: FAISS is not installed.
    """
    faiss = require("faiss", extra="faiss")
    if not isinstance(index, faiss.Index):
        raise VectorError(f"a FAISS index is needed, not {type(index).__name__}")
    kind = type(index).__name__
    metrics: dict[int, Metric] = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "ip"}
    if index.metric_type not in metrics:
        raise VectorError(
            f"the index has FAISS's metric number {index.metric_type}; only L2 and inner product "
            "can be taken over: build a new store from its documents"
        )
    try:
        if kind.startswith("GpuIndex"):
            index = faiss.index_gpu_to_cpu(index)
        numbers, vectors = _take(faiss, index)
    except (RuntimeError, AttributeError) as error:
        raise VectorError(
            f"an index of type {kind} does not give its vectors back ({error}): build a new store "
            "from its documents"
        ) from error
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        numbers, vectors = numbers[order], vectors[order]
    return Foreign(metrics[index.metric_type], numbers, vectors)


def _take(faiss: Any, index: Any) -> tuple[Rows, Matrix]:
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap):
        numbers, vectors = _take(faiss, index.index)
        names: Rows = faiss.vector_to_array(index.id_map)
        if len(numbers) and numbers.max() >= len(names):
            raise VectorError("the index maps fewer numbers than it has vectors")
        return names[numbers], vectors
    if isinstance(index, faiss.IndexIVF):
        return _take_lists(faiss, index)
    vectors = np.empty((index.ntotal, index.d), dtype=np.float32)
    for start in range(0, len(vectors), SLICE):
        part = vectors[start : start + SLICE]
        index.reconstruct_n(start, len(part), part)
    return np.arange(len(vectors), dtype=np.int64), vectors


def _take_lists(faiss: Any, index: Any) -> tuple[Rows, Matrix]:
    """Decode list by list: `reconstruct` needs a direct map, which would change the index."""
    lists = index.invlists
    vectors = np.empty((index.ntotal, index.d), dtype=np.float32)
    numbers = np.empty(index.ntotal, dtype=np.int64)
    start = 0
    for number in range(index.nlist):
        size = lists.list_size(number)
        if not size:
            continue
        if start + size > len(numbers):
            raise VectorError("the index has more vectors in its lists than it counts")
        end = start + size
        numbers[start:end] = faiss.rev_swig_ptr(lists.get_ids(number), size)
        place = np.full(size, number, dtype=np.int64)  # a name, so that it outlives its pointer
        index.decode_vectors(
            size, lists.get_codes(number), faiss.swig_ptr(place), faiss.swig_ptr(vectors[start:end])
        )
        start = end
    if start != len(numbers):
        raise VectorError("the index has fewer vectors in its lists than it counts")
    return numbers, vectors


__all__ = ["Foreign", "load", "take"]
