"""FAISS indexes of a shape, new or read from a file, and the body that goes with each."""

from __future__ import annotations

from typing import Any

from langchain_gpu.search.base import Metric, Rows
from langchain_gpu.search.kinds import shapes
from langchain_gpu.search.kinds.bodies import Body, faiss, metric_type, shape_of
from langchain_gpu.search.kinds.inverted import Inverted
from langchain_gpu.search.kinds.ordered import Graph, Ordered
from langchain_gpu.search.kinds.shapes import Shape

_EF_CONSTRUCTION = 100


def make(shape: Shape, dimension: int, metric: Metric, seed: int) -> Any:
    """Return an empty FAISS index; training it twice with one seed gives the same index."""
    index = faiss.index_factory(dimension, str(shape), metric_type(metric))
    if shape.family == "hnsw":
        index.hnsw.efConstruction = _EF_CONSTRUCTION
    if shape.trained and shape.coding.startswith("SQ"):
        quantizer = faiss.downcast_index(index.storage).sq if shape.links else index.sq
        quantizer.rangestat_arg = shapes.SQ_MARGIN
    clusterings = [index.cp] if shape.family == "ivf" else []
    clusterings += [index.pq.cp] if shape.coding == "PQ" else []
    if shape.coding == "PQ":
        index.do_polysemous_training = False  # most of the time of training, for codes unused here
    for clustering in clusterings:
        clustering.seed = seed + 1
        clustering.min_points_per_centroid = 1  # the sample is our choice: no warning on stderr
        clustering.max_points_per_centroid = 2**30
    return index


def body_of(index: Any, numbers: Rows | None = None) -> Body:
    """Return the body that keeps the rows of a FAISS index; `numbers` are those it has already."""
    if isinstance(index, faiss.IndexIVF):
        return Inverted(index)
    if isinstance(index, faiss.IndexHNSW):
        return Graph(index, numbers)
    return Ordered(index, numbers)


def read_body(index: Any) -> Body | None:
    """Return the body in what FAISS read, None where it is none of ours."""
    numbers = None
    inner = index
    if isinstance(index, faiss.IndexIDMap):
        numbers = faiss.vector_to_array(index.id_map)
        index.id_map.clear()
        inner = faiss.downcast_index(index.index)
    numbered = numbers is not None
    try:
        family = shape_of(inner).family
    except ValueError:
        return None
    if numbered is (family == "ivf"):
        return None
    return body_of(inner, numbers)


__all__ = ["body_of", "make", "read_body"]
