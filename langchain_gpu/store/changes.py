"""Changes of an index and its documents: both hold the same rows after it, interrupted or not."""

from __future__ import annotations

import numpy as np

from langchain_gpu.store.batch import Batch
from langchain_gpu.store.contracts import Index, Matrix, Rows
from langchain_gpu.store.documents import Documents


def replace(
    index: Index, documents: Documents, batch: Batch, vectors: Matrix, replaced: Rows
) -> None:
    """Add documents and remove those they replace: all of it, or nothing.

    Args:
        index: The vectors.
        documents: Their documents.
        batch: n documents.
        vectors: [n, dimension]
        replaced: The rows that hold the ids of `batch` so far.
    """
    first = documents.next_row
    rows = np.arange(first, first + len(vectors), dtype=np.int64)
    try:
        index.add(rows, vectors)
        remove(index, documents, replaced)
    except BaseException:  # Ctrl-C too, which is raised when FAISS returns
        if len(replaced) and not len(documents.rows_of(batch.ids)):
            documents.append(batch.ids, batch.texts, batch.metadata)
        else:
            documents.next_row = first + len(rows)  # a row is never used twice
            index.remove(rows)
        raise
    documents.append(batch.ids, batch.texts, batch.metadata)


def remove(index: Index, documents: Documents, rows: Rows) -> None:
    """Remove rows from both; if that is interrupted, both lose the same rows."""
    if not len(rows):
        return
    try:
        index.remove(rows)
    except BaseException:
        documents.remove(np.setdiff1d(rows, index.rows()).tolist())
        raise
    documents.remove(rows.tolist())


__all__ = ["remove", "replace"]
