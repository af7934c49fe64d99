"""What the bodies of all kinds share: FAISS objects, and the order of equal scores."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import Effort, Found, Matrix, Metric, Mirrored, Rows
from langchain_gpu.search.kinds.shapes import Shape
from langchain_gpu.utils.extras import require

faiss: Any = require("faiss", extra="faiss")
if hasattr(os, "register_at_fork"):
    # OpenMP's threads stay behind, and the thread that forked would wait for them forever. Others
    # that the child starts get their own.
    os.register_at_fork(after_in_child=partial(faiss.omp_set_num_threads, 1))

SLICE = 65_536  # vectors that are moved at once


class Body(Protocol):
    """A FAISS index with the rows of its vectors."""

    shape: Shape

    @property
    def dead(self) -> int:
        """Removed vectors that still take memory."""

    def __len__(self) -> int:
        """Count the vectors."""

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """As in `VectorIndex`, as are the others."""

    def remove(self, rows: Rows) -> bool:
        """Return whether anything was removed."""

    def rows(self) -> Rows: ...  # noqa: D102
    def vectors(self, rows: Rows) -> Matrix: ...  # noqa: D102
    def search(  # noqa: D102
        self, queries: Matrix, k: int, allowed: Rows | None, effort: Effort
    ) -> Found: ...
    def mirrored(self) -> Mirrored: ...  # noqa: D102

    def written(self) -> Any:
        """Return the FAISS index that goes to disk."""


def metric_type(metric: Metric) -> int:
    """Return FAISS's number of a metric. Cosine is the inner product of rows of length 1."""
    number: int = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    return number


def bitmap(mask: NDArray[np.bool_]) -> Any:
    """Return a selector of the numbers that are true in `mask`."""
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def in_order(scores: NDArray[np.float32], rows: Rows) -> Found:
    """Put equal scores in the order of their rows. [queries, k], sorted by score already."""
    equal = scores[:, 1:] == scores[:, :-1]
    if not equal.any():  # nearly always, and a single query is counted in microseconds
        return Found(scores, rows)
    for query in np.flatnonzero(equal.any(axis=1)):
        here = rows[query]
        found = int((here >= 0).sum())
        if found < 2:  # noqa: PLR2004 - one is in order
            continue
        # Scores fall or rise along a row, so the number of the run is the first key either way.
        run = np.concatenate([[0], np.cumsum(scores[query, 1:found] != scores[query, : found - 1])])
        here[:found] = here[:found][np.lexsort((here[:found], run[:found]))]
    return Found(scores, rows)


def shape_of(index: Any) -> Shape:
    """Return the shape of a FAISS index.

    Raises:
        ValueError: It is of no known family.
    """
    if isinstance(index, faiss.IndexFlat):
        return Shape("flat", "Flat")
    if isinstance(index, faiss.IndexIVFFlat) and type(index) is faiss.IndexIVFFlat:
        return Shape("ivf", "Flat", lists=index.nlist)
    if type(index) is faiss.IndexIVFPQ:
        pq = index.pq
        return Shape("ivf", "PQ", lists=index.nlist, pieces=pq.M, bits=pq.nbits)
    if isinstance(index, faiss.IndexHNSW):
        stored = faiss.downcast_index(index.storage)
        return Shape("hnsw", shape_of(stored).coding, links=index.hnsw.nb_neighbors(1))
    quantizer = faiss.ScalarQuantizer
    codings = {
        quantizer.QT_8bit: "SQ8",
        quantizer.QT_6bit: "SQ6",
        quantizer.QT_4bit: "SQ4",
        quantizer.QT_fp16: "SQfp16",
        quantizer.QT_bf16: "SQbf16",
    }
    family = {faiss.IndexScalarQuantizer: "sq", faiss.IndexIVFScalarQuantizer: "ivf"}
    if type(index) in family and index.sq.qtype in codings:
        lists = index.nlist if isinstance(index, faiss.IndexIVF) else 0
        coding = codings[index.sq.qtype]
        return Shape("ivf", coding, lists=lists) if lists else Shape("sq", coding)
    raise ValueError(f"an index of type {type(index).__name__} is of no known family")


__all__ = ["SLICE", "Body", "bitmap", "faiss", "in_order", "metric_type", "shape_of"]
