"""An index of one kind, which is flat until it has enough vectors to be trained."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from langchain_gpu.search.base import EFFORT, Effort, Found, Matrix, Metric, Mirrored, Rows
from langchain_gpu.search.kinds import shapes
from langchain_gpu.search.kinds.bodies import SLICE, Body, faiss, metric_type
from langchain_gpu.search.kinds.making import body_of, make, read_body
from langchain_gpu.search.kinds.ordered import Graph
from langchain_gpu.search.kinds.shapes import FLAT, Shape
from langchain_gpu.search.kinds.staging import Staged

logger = logging.getLogger("langchain_gpu")


@dataclass(frozen=True, slots=True)
class FaissKind:
    """Makes indexes of one kind; see `langchain_gpu.search.kinds.get` for the attributes."""

    name: str
    train_size: int | None = None
    seed: int = 0
    effort: Effort = EFFORT

    def __post_init__(self) -> None:
        """Refuse what does not go together, before there are vectors.

        Raises:
            ValueError: An argument does not go with the kind, or is not a positive number.
        """
        _check(self.name, {"train_size": self.train_size})
        self.check(self.effort)

    def check(self, effort: Effort) -> None:
        """Refuse an effort that an index of this kind cannot search with."""
        _check(self.name, effort._asdict())

    def create(self, dimension: int, metric: Metric) -> FaissIndex:
        """Return an empty index."""
        shapes.choose(self.name, 2**62, dimension, self.train_size)  # refuses a width early
        shape = shapes.choose(self.name, 0, dimension, self.train_size)
        return FaissIndex(self, metric, body_of(make(shape, dimension, metric, self.seed)))

    def allocate(self, count: int, dimension: int, metric: Metric) -> Matrix:
        """Return room for the first vectors of an index."""
        if not count or shapes.choose(self.name, count, dimension, self.train_size) != FLAT:
            return np.empty((count, dimension), dtype=np.float32)
        return np.asarray(Staged(make(FLAT, dimension, metric, self.seed), count))

    def load(self, path: Path, metric: Metric, *, mapped: bool = False) -> FaissIndex:
        """Read an index from `path`, or leave its vectors there until it is changed."""
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        body = read_body(index)
        if body is None or not shapes.belongs(self.name, body.shape, index.d):
            raise ValueError(f"{path.name} holds no {self.name} index with ids")
        if index.metric_type != metric_type(metric):
            raise ValueError(f"{path.name} was not built for the metric {metric!r}")
        return FaissIndex(self, metric, body, index, mapped=mapped)


class FaissIndex:
    """Vectors by row, as they are saved; searchers on devices hold copies of it."""

    def __init__(
        self,
        kind: FaissKind,
        metric: Metric,
        body: Body,
        owner: Any = None,
        *,
        mapped: bool = False,
    ) -> None:
        """Wrap a body.

        Args:
            kind: What it is to become.
            metric: Its metric.
            body: What it is now.
            owner: The object that frees the body's memory, where the body itself does not.
            mapped: Whether the vectors lie in a file. FAISS ends the process where such an index is
                changed, so it is read into memory first.
        """
        self.kind = kind.name
        self.metric = metric
        self.version = 0
        self._wanted = kind
        self._body = body
        self._owner = owner
        self._mapped = mapped
        written = owner if owner is not None else body.written()
        self.dimension: int = written.d

    @property
    def parameters(self) -> dict[str, int]:
        """What `get` needs beside the name: those of its numbers that were given."""
        wanted = self._wanted
        given = {"train_size": wanted.train_size, **wanted.effort._asdict()}
        return {name: value for name, value in given.items() if value}

    @property
    def shape(self) -> str:
        """What it is now, as a factory string."""
        return str(self._body.shape)

    @property
    def exact(self) -> bool:
        """Whether every vector is looked at, as it was given."""
        return self._body.shape == FLAT

    def __len__(self) -> int:
        """Count the vectors."""
        return len(self._body)

    def improve(self, incoming: Matrix | None = None) -> Callable[[], None] | None:
        """Train, move, or build again, beside the searches; see `VectorIndex.improve`."""
        if incoming is None:
            incoming = np.empty((0, self.dimension), dtype=np.float32)
        shape = self._next(len(self) + len(incoming))
        if shape is None:
            if isinstance(self._body, Graph) and not self._mapped:
                return self._body.link(incoming)
            return self._unmap()
        before = self._body.shape
        made = make(shape, self.dimension, self.metric, self._wanted.seed)
        if shape.trained:
            made.train(self._sample(shape, incoming))
        body = body_of(made)
        rows = self._body.rows()
        for start in range(0, len(rows), SLICE):
            part = rows[start : start + SLICE]
            body.add(part, self._body.vectors(part))

        def take_over() -> None:
            self._body, self._owner, self._mapped = body, None, False
            self.version += 1
            logger.info(
                "index %r: %s vectors moved from %s to %s",
                self.kind,
                f"{len(rows):,}",
                before,
                shape,
            )

        return take_over

    def add(self, rows: Rows, vectors: Matrix) -> None:
        """Add vectors under new rows, higher than any before."""
        self._own()
        try:
            self._body.add(rows, vectors)
        finally:
            self.version += 1

    def remove(self, rows: Rows) -> None:
        """Remove rows; unknown ones are ignored."""
        self._own()
        changed = True
        try:
            changed = self._body.remove(rows)
        finally:
            self.version += changed

    def rows(self) -> Rows:
        """Return the rows."""
        return self._body.rows()

    def vectors(self, rows: Rows) -> Matrix:
        """Return the stored vectors of `rows`."""
        return self._body.vectors(rows)

    def search(
        self, queries: Matrix, k: int, allowed: Rows | None = None, effort: Effort = EFFORT
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given."""
        own = self._wanted.effort
        if own != EFFORT:
            effort = Effort(effort.nprobe or own.nprobe, effort.ef_search or own.ef_search)
        return self._body.search(queries, k, allowed, effort)

    @property
    def portable(self) -> bool:
        """Whether a searcher on a device can copy it."""
        return self._body.shape.family != "hnsw"

    def mirrored(self) -> Mirrored:
        """Return what a GPU can copy."""
        mirrored = self._body.mirrored()
        own = self._wanted.effort.nprobe
        if own is None or mirrored.nprobe is None:
            return mirrored
        return mirrored._replace(nprobe=own)

    def save(self, path: Path) -> None:
        """Write the index; a full disk raises Python's own OSError."""
        with path.open("wb") as file:
            faiss.write_index(self._body.written(), faiss.PyCallbackIOWriter(file.write))

    def _own(self) -> None:
        if (take_over := self._unmap()) is not None:
            take_over()

    def _unmap(self) -> Callable[[], None] | None:
        """Read what lies in a file into memory; what comes back takes it over."""
        if not self._mapped:
            return None
        # The file may be gone, as the next save of another process removes it; its pages are not.
        index = faiss.deserialize_index(faiss.serialize_index(self._body.written()))
        body = read_body(index)
        if body is None:
            raise RuntimeError("FAISS read another index than it wrote")

        def take_over() -> None:
            self._body, self._owner, self._mapped = body, index, False

        return take_over

    def _next(self, count: int) -> Shape | None:
        """Return what `count` vectors should be, if that is worth the work."""
        wanted, now = self._wanted, self._body.shape
        shape = shapes.choose(wanted.name, count, self.dimension, wanted.train_size)
        if shape.family != now.family:
            return shape if now == FLAT else None  # what was compressed does not come back
        if now.family == "hnsw":
            return now if self._body.dead > len(self._body) else None
        # Lists that have become long; not where the vectors would be compressed a second time.
        longer = (
            now.family == "ivf"
            and now.coding == "Flat"
            and shape.lists >= shapes.GROWTH * now.lists
        )
        return shape if longer else None

    def _sample(self, shape: Shape, incoming: Matrix) -> Matrix:
        """Return the vectors to train from, a random part of all."""
        rows = self._body.rows()
        count = len(rows) + len(incoming)
        size = min(count, self._wanted.train_size or max(shapes.SAMPLE * shape.centroids, SLICE))
        chosen = np.random.default_rng(self._wanted.seed).choice(count, size, replace=False)
        chosen.sort()
        here = int(np.searchsorted(chosen, len(rows)))
        old = self._body.vectors(rows[chosen[:here]])
        return np.concatenate([old, incoming[chosen[here:] - len(rows)]])


def _check(kind: str, given: Mapping[str, int | None]) -> None:
    for name, value in given.items():
        if value is not None and operator.index(value) < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    shapes.check_arguments(kind, given)


__all__ = ["FaissIndex", "FaissKind"]
