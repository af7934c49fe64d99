"""The base of the vector store: collection, searcher, checks."""

# ruff: noqa: A002 - `filter` is LangChain's name for it

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, TypedDict, TypeVar

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from numpy.typing import ArrayLike, NDArray

from langchain_gpu.events import Listener
from langchain_gpu.hardware.devices import Device
from langchain_gpu.planner import ComponentPlan, Plan
from langchain_gpu.planner.drive import component_of, main_device
from langchain_gpu.search import kinds
from langchain_gpu.search.base import (
    EFFORT,
    METRICS,
    TEMPORARY_BYTES,
    Effort,
    Matrix,
    Metric,
)
from langchain_gpu.search.bm25 import BM25
from langchain_gpu.search.embed import embed
from langchain_gpu.search.filters import Filter, compile_filter
from langchain_gpu.search.relevance import RELEVANCE
from langchain_gpu.search.route import DType, Route
from langchain_gpu.search.vectors import empty, gather, prepare_one, sliced
from langchain_gpu.store import identity as identities
from langchain_gpu.store.batch import decode_metadata
from langchain_gpu.store.collection import Collection
from langchain_gpu.store.contracts import Hits
from langchain_gpu.utils.integers import at_least_one
from langchain_gpu.vectorstores.arguments import refuse, refusing

T = TypeVar("T")
Scored = list[tuple[Document, float]]


class SearchOptions(TypedDict, total=False):
    """How far an approximate index looks, in place of the store's own numbers.

    Attributes:
        nprobe: Lists of an IVF index that are scanned.
        ef_search: Candidates an HNSW graph keeps while it is walked.
    """

    nprobe: int | None
    ef_search: int | None


class Core(VectorStore):
    """The state of a `FAISSVectorStore`, and what all of its methods need."""

    def __getstate__(self) -> object:
        """Refuse to be pickled or copied: indexes, locks and devices cannot be."""
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied: save_local(FOLDER) writes it, "
            f"and {type(self).__name__}.load_local(FOLDER, EMBEDDING) reads it"
        )

    @refusing
    def __init__(
        self,
        embedding: Embeddings,
        *,
        metric: Metric = "cosine",
        device: str | Sequence[str] = "auto",
        plan: Plan | ComponentPlan | None = None,
        dtype: DType = "auto",
        index: str = "auto",
        train_size: int | None = None,
        nprobe: int | None = None,
        ef_search: int | None = None,
        relevance_score_fn: Callable[[float], float] | None = None,
        on_event: Listener | None = None,
    ) -> None:
        """Make an empty store.

        Args:
            embedding: Embeds texts and queries. Any LangChain embedding will do.
            metric: `"cosine"`, `"ip"` (inner product) or `"l2"` (squared distance).
            device: Where to search: `"auto"`, `"cpu"`, a GPU such as `"cuda:0"`, or several `cuda`
                ones, which share the vectors.
            plan: Whether a mirror goes to a GPU, by `langchain_gpu.planner.plan`, where `device` is
                `"auto"`; and what it may take there to compute in.
            dtype: What a mirror on a GPU stores flat vectors in, `"float32"` or `"float16"`, which
                takes half the memory; what is found is the same. `"auto"` is float32 for FAISS and
                float16 for torch.
            index: An index kind of the table above, or a FAISS factory string of its families, such
                as `"IVF1024,SQ8"`.
            train_size: Vectors to train from, for kinds that are trained. They stay flat until
                there are so many. None takes the kind's own measure.
            nprobe: Lists that a search of an IVF kind scans. None takes a 16th of them, and at
                least 64; all of them find the true neighbors.
            ef_search: Candidates that a search of an HNSW kind keeps. None takes 64, and at least
                `k`; fewer than `k` are quicker and find less.
            relevance_score_fn: Turns a score into a relevance in [0, 1], in place of the table's.
            on_event: Receives fallbacks.

        Raises:
            ImportError: FAISS is not installed.
            TypeError: There is no such argument, or the embedding is none.
            ValueError: There is no such metric, device or index kind, a number does not go with
                the kind, or the plan has no index.
        """
        if not (hasattr(embedding, "embed_documents") and hasattr(embedding, "embed_query")):
            raise TypeError(f"embedding must be an Embeddings, not {type(embedding).__name__}")
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
        self._embedding = embedding
        self._metric: Metric = metric
        self._relevance = relevance_score_fn or RELEVANCE[metric]
        self._route = _route(device, plan, on_event, dtype)
        effort = Effort(nprobe, ef_search)
        self._kind = kinds.get(index, train_size=train_size, effort=effort)
        self._identity: identities.Identity | None = None
        self._collection = self._collect()

    @property
    def embeddings(self) -> Embeddings:
        """The embedding."""
        return self._embedding

    @property
    def metric(self) -> Metric:
        """The metric."""
        return self._metric

    @property
    def device(self) -> Device:
        """Where searches run, with the reason."""
        return self._route.device

    @property
    def index_shape(self) -> str | None:
        """What the index is now, as a FAISS factory string, None before the first vectors.

        `"Flat"` finds the true neighbors; a kind that is trained is flat until it is.
        """
        index = self._collection.index
        return None if index is None else index.shape

    def __len__(self) -> int:
        """Count the documents."""
        return len(self._collection)

    def __bool__(self) -> bool:
        """Be true even while empty: `store or make()` asks whether there is a store."""
        return True

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance

    def _collect(self, **contents: Any) -> Collection:
        make = partial(self._kind.create, metric=self._metric)
        self._words = BM25()
        return Collection(
            make, self._route.search, words=self._words, forget=self._route.forget, **contents
        )

    def _prepare(self, vectors: Sequence[ArrayLike] | Matrix, name: Callable[[int], str]) -> Matrix:
        dimension = self._collection.dimension
        if len(vectors) == 1 and dimension is not None:
            return prepare_one(vectors[0], metric=self._metric, dimension=dimension, name=name)
        return gather(
            sliced(vectors),
            len(vectors),
            metric=self._metric,
            dimension=dimension,
            name=name,
            allocate=self._allocate,
        )

    def _allocate(self, count: int, dimension: int) -> Matrix:
        if len(self._collection):
            return empty(count, dimension)
        return self._kind.allocate(count, dimension, self._metric)

    def _find(
        self, vectors: Sequence[ArrayLike], k: int, filter: Filter | None, how: SearchOptions
    ) -> Hits:
        where = None if filter is None else compile_filter(filter)
        queries = self._prepare(vectors, name_query)
        found = self._collection.search(queries, at_least_one("k", k), where, self._effort(how))
        self._route.report()
        return found

    def _effort(self, how: SearchOptions) -> Effort:
        if not how:
            return EFFORT
        known = Effort(how.get("nprobe"), how.get("ef_search"))
        refuse({name: value for name, value in how.items() if name not in known._fields})
        self._kind.check(known)
        return known

    def _identify(self) -> identities.Identity:
        model, revision = identities.names(self._embedding)
        if self._identity is None:
            probe = embed_text(self._embedding, identities.PROBE)
            self._identity = identities.Identity(model, revision, tuple(probe.tolist()))
        if model is None:
            return self._identity
        # The model may have moved since; its vector of the text stays the first one, so that small
        # differences cannot add up from save to save.
        return replace(self._identity, model=model, revision=revision)


def embed_text(embedding: Embeddings, text: str) -> NDArray[np.float32]:
    """Return the vector [dimension] of one text, as the embedding makes those of documents."""
    rows = embed(embedding, [text], metric="ip", dimension=None, name=lambda _: "the test text")
    vector: NDArray[np.float32] = rows[0]
    return vector


def document_of(id_: str, text: str, metadata: str) -> Document:
    """Make a fresh document of what is stored."""
    values = {"id": id_, "page_content": text, "metadata": decode_metadata(metadata)}
    # What the constructor does in the end, without its four layers of Python: a third of the time.
    document = Document.__new__(Document)
    Document.__pydantic_validator__.validate_python(values, self_instance=document)
    return document


def scored(hits: Hits) -> Scored:
    """Make documents with scores."""
    return list(zip(map(document_of, *hits.documents), hits.near.scores, strict=True))


def apart(found: list[T], counts: Sequence[int]) -> list[list[T]]:
    """Return what was found for each query, of which there are `counts`."""
    return [found[end - count : end] for end, count in zip(accumulate(counts), counts, strict=True)]


def unscored(found: Scored) -> list[Document]:
    """Leave the scores out."""
    return [document for document, _ in found]


def name_query(position: int) -> str:
    """Name a query in an error."""
    return f"query {position}"


def _route(
    device: str | Sequence[str],
    plan: Plan | ComponentPlan | None,
    listener: Listener | None,
    dtype: DType,
) -> Route:
    if plan is None:
        return Route(device, listener, dtype=dtype)
    planned = component_of(plan, "index", "")
    if device == "auto":
        device = main_device(planned)
    temporary = planned.bytes_for("activations") or TEMPORARY_BYTES
    return Route(device, listener, dtype=dtype, temporary=temporary)


__all__ = [
    "Core",
    "Scored",
    "SearchOptions",
    "apart",
    "document_of",
    "embed_text",
    "name_query",
    "scored",
    "unscored",
]
