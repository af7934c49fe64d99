"""The exact kind: every vector is looked at. `IndexFlat` under `IndexIDMap2`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from langchain_gpu._extras import require
from langchain_gpu.search.base import Matrix, Metric, Rows

faiss: Any = require("faiss", extra="faiss")


class FlatIndex:
    """Exact search, 4 bytes a number. Removal moves the vectors behind: remove in batches."""

    kind = "flat"

    def __init__(self, index: Any, metric: Metric) -> None:
        """Wrap a FAISS `IndexIDMap2` over an `IndexFlat`."""
        self.faiss = index
        self.metric = metric
        self.dimension: int = index.d
        self.version = 0

    @property
    def flat(self) -> Any:
        """The `IndexFlat` under the row ids."""
        return faiss.downcast_index(self.faiss.index)

    def __len__(self) -> int:
        """Count the vectors."""
        return int(self.faiss.ntotal)

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add vectors under new rows. FAISS would take a row twice in silence: never reuse one."""
        self.faiss.add_with_ids(vectors, rows)
        self.version += 1

    def remove(self, rows: Rows) -> None:
        """Remove rows, all in one pass."""
        if len(rows):
            self.faiss.remove_ids(rows)
            self.version += 1

    def rows(self) -> Rows:
        """Return the rows in the order of their positions."""
        rows: Rows = faiss.vector_to_array(self.faiss.id_map)
        return rows

    def vectors(self, rows: Rows) -> Matrix:
        """Return the stored vectors of `rows`."""
        vectors: Matrix = self.faiss.reconstruct_batch(rows)
        return vectors

    def search_parameters(self, allowed: Rows) -> Any:
        """Admit only `allowed`: a bit for each row, looked up by FAISS before the cut at k."""
        bits = np.zeros(int(allowed.max()) + 1, dtype=np.bool_)
        bits[allowed] = True
        selector = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
        return faiss.SearchParameters(sel=selector)

    def save(self, path: Path) -> None:
        """Write the index; a full disk raises Python's own OSError."""
        with path.open("wb") as file:
            faiss.write_index(self.faiss, faiss.PyCallbackIOWriter(file.write))


def create(dimension: int, metric: Metric) -> FlatIndex:
    """Return an empty index. Cosine is the inner product of rows of length 1."""
    flat = faiss.IndexFlatL2(dimension) if metric == "l2" else faiss.IndexFlatIP(dimension)
    return FlatIndex(faiss.IndexIDMap2(flat), metric)


def load(path: Path, metric: Metric) -> FlatIndex:
    """Read an index from `path`.

    Raises:
        ValueError: The file holds another kind of index, or one of another metric.
        RuntimeError: FAISS cannot read it.
    """
    index = faiss.read_index(str(path))
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap2) else None
    if not isinstance(inner, faiss.IndexFlat):
        raise ValueError(f"{path.name} holds no flat index with ids")  # noqa: TRY004 - a bad file
    if inner.metric_type != (faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT):
        raise ValueError(f"{path.name} was not built for the metric {metric!r}")
    return FlatIndex(index, metric)


__all__ = ["FlatIndex", "create", "load"]
