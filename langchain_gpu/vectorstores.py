"""FAISS as a LangChain vector store: no pickle, filters before the cut, the GPU where it works."""

# ruff: noqa: A002 - `filter` is LangChain's name for it

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack

import numpy as np
from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from numpy.typing import ArrayLike, NDArray

from langchain_gpu.events import GPUWarning, Listener
from langchain_gpu.hardware.devices import Device
from langchain_gpu.search import foreign, kinds
from langchain_gpu.search import fusion as fusions
from langchain_gpu.search.base import EFFORT, METRICS, Effort, Matrix, Metric, Rows, VectorIndex
from langchain_gpu.search.bm25 import BM25
from langchain_gpu.search.embed import embed, embed_queries
from langchain_gpu.search.filters import Filter, compile_filter
from langchain_gpu.search.mmr import select_diverse
from langchain_gpu.search.relevance import RELEVANCE
from langchain_gpu.search.route import DType, Route
from langchain_gpu.search.vectors import prepare
from langchain_gpu.store import community
from langchain_gpu.store import folder as folders
from langchain_gpu.store import identity as identities
from langchain_gpu.store.batch import check, decode_metadata, strings
from langchain_gpu.store.collection import Collection, Hit
from langchain_gpu.store.documents import Entry
from langchain_gpu.store.lock import TIMEOUT
from langchain_gpu.store.manifest import Manifest
from langchain_gpu.store.pickled import Limits

Scored = list[tuple[Document, float]]


class SearchOptions(TypedDict, total=False):
    """How far an approximate index looks, in place of the store's own numbers.

    Attributes:
        nprobe: Lists of an IVF index that are scanned.
        ef_search: Candidates an HNSW graph keeps while it is walked.
    """

    nprobe: int | None
    ef_search: int | None


class FAISSVectorStore(VectorStore):
    """A vector store in memory, searched by FAISS, saved to a folder without pickle.

    Setup:
        `pip install "langchain-gpu[faiss]"`, or one of `faiss-gpu`, `faiss-gpu-cuvs` in its place.

    Instantiate and use:
        ```python
        from langchain_gpu import FAISSVectorStore, GPUEmbeddings

        store = FAISSVectorStore(GPUEmbeddings())
        store.add_texts(["a cat", "a dog"], [{"legs": 4}, {"legs": 4}], ids=["cat", "dog"])
        store.similarity_search_with_score("kitten", k=1, filter={"legs": {"$gte": 4}})
        store.save_local("animals")
        store = FAISSVectorStore.load_local("animals", GPUEmbeddings())
        retriever = store.as_retriever(k=2)
        ```

    Scores, as the methods `..._with_score` return them, and as relevance in [0, 1]:

    | `metric` | score | nearer is | relevance |
    |---|---|---|---|
    | `"cosine"` | cosine | higher | the cosine, 0 where it is negative |
    | `"ip"` | inner product | higher | 1/2 + score / (2 + 2 abs(score)) |
    | `"l2"` | squared distance | lower | 1 / (1 + score) |

    `hybrid_search` (`search_type="hybrid"`) makes one ranking of vectors and words.

    Filters are dictionaries (`$eq $ne $in $nin $gt $gte $lt $lte $exists $and $or $not`) or
    functions of the metadata. They are applied before the cut at `k`: `k` documents are found if
    there are so many. `langchain_gpu.search.filters` says how each operator treats missing fields.

    Adding is all or nothing for each call, and an id that is here is replaced. Metadata must be
    JSON; documents come back as fresh copies. Threads may search while others add. The `a...`
    methods run in a thread.

    Index kinds, by `index`; `langchain_gpu.search.kinds` has their memory, and any FAISS factory
    string of these families will do:

    | vectors | `index` | |
    |---|---|---|
    | up to 512 MiB: 350,000 of 384 numbers | `"flat"` | finds the true neighbors |
    | the same in a half or a quarter of the memory | `"fp16"`, `"sq8"` | nearly the same |
    | more, that come and go | `"ivf_flat"`, `"ivf_sq8"` | trained; `nprobe` |
    | more, many searches and few changes | `"hnsw"` | slow to build; `ef_search` |
    | more than memory holds in another form | `"ivf_pq"` | trained, slowly; finds some 85 of 100 |

    `"auto"` is flat up to 512 MiB of vectors, and `"ivf_flat"` beyond. A kind that is trained stays
    flat, and exact, until there are enough vectors to train from; moving is logged, and
    `index_shape` says what the index is now. The compressed kinds give back vectors as they were
    rounded: `merge_from` and MMR work with those.

    The CPU index is the truth; on a GPU a mirror of it answers, which is copied there again at the
    first search after a change. FAISS searches NVIDIA cards; torch searches the others, and what
    FAISS cannot (filters, a very large `k`) where the process has loaded it. What no GPU can do the
    CPU does; a `FallbackWarning` says so once. `device` says where searches run, with the reason.
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        metric: Metric = "cosine",
        device: str | Sequence[str] = "auto",
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
            dtype: What a mirror on a GPU stores flat vectors in, `"float32"` or `"float16"`, which
                takes half the memory; what is found is the same. `"auto"` is float32 for FAISS and
                float16 for torch.
            index: An index kind of the table above, or a FAISS factory string of its families, such
                as `"IVF1024,SQ8"`.
            train_size: Vectors to train from, for kinds that are trained. They stay flat until
                there are so many. None takes the kind's own measure.
            nprobe: Lists that a search of an IVF kind scans. None takes a 16th of them, and at
                least 64; all of them find the true neighbors.
            ef_search: Candidates that a search of an HNSW kind keeps. None takes 64.
            relevance_score_fn: Turns a score into a relevance in [0, 1], in place of the table's.
            on_event: Receives fallbacks.

        Raises:
            ImportError: FAISS is not installed.
            ValueError: There is no such metric, device or index kind, or a number does not go with
                the kind.
        """
        if not (hasattr(embedding, "embed_documents") and hasattr(embedding, "embed_query")):
            raise TypeError(f"embedding must be an Embeddings, not {type(embedding).__name__}")
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
        self._embedding = embedding
        self._metric: Metric = metric
        self._relevance = relevance_score_fn or RELEVANCE[metric]
        self._route = Route(device, on_event, dtype=dtype)
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

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed and add texts; those whose id is here are replaced.

        All of the call is stored, or, if a text cannot be embedded or stored, nothing.

        Args:
            texts: The texts.
            metadatas: One dictionary for each text, of what JSON can hold; NaN is refused.
            ids: One for each text; without, or where it is None, a random one is made.
            batch_size: Texts a call to the embedding. None leaves it to the store.
            **kwargs: None; another name is a TypeError.

        Returns:
            The ids.

        Raises:
            TypeError: A text or an id is no string.
            ValueError: An id comes twice, metadata is not JSON, or a vector has the wrong width or
                holds NaN; the message names the document.
        """
        _refuse(kwargs)
        batch = check(texts, metadatas, ids)
        vectors = embed(
            self._embedding,
            batch.texts,
            metric=self._metric,
            dimension=self._collection.dimension,
            name=batch.name,
            size=None if batch_size is None else _at_least_one("batch_size", batch_size),
        )
        self._collection.put(batch, vectors)
        return batch.ids

    def add_embeddings(
        self,
        text_embeddings: Iterable[tuple[str, ArrayLike]],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
    ) -> list[str]:
        """Add texts with vectors that are here already, for example `zip(texts, array)`.

        Otherwise as `add_texts`.
        """
        texts: list[str] = []
        rows: list[ArrayLike] = []
        for text, row in text_embeddings:
            texts.append(text)
            rows.append(row)
        batch = check(texts, metadatas, ids)
        vectors = self._prepare(rows, batch.name)
        del texts, rows  # 100,000 views of rows take 10 MB, while the index grows
        self._collection.put(batch, vectors)
        return batch.ids

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Remove documents.

        Args:
            ids: Those that are not here are ignored. None removes every document.
            **kwargs: None; another name is a TypeError.

        Returns:
            True.
        """
        _refuse(kwargs)
        if ids is None:
            self._collection.clear()
        else:
            self._collection.delete(strings(ids, "id"))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents of those ids that are here, in the order of `ids`."""
        return list(map(_document, self._collection.get(strings(ids, "id"))))

    def iter_documents(self, filter: Filter | None = None) -> Iterator[Document]:
        """Yield the documents of this moment, oldest first, made one by one."""
        admits = None if filter is None else compile_filter(filter)
        documents = map(_document, self._collection.entries())
        return (found for found in documents if admits is None or admits(found.metadata))

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the `k` documents nearest to a text; takes a `filter`, as the methods below do."""
        return _unscored(self.similarity_search_with_score(query, k, **kwargs))

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **how: Unpack[SearchOptions]
    ) -> Scored:
        """Return the `k` documents nearest to a text, with scores as the class says."""
        return self.similarity_search_many([query], k, filter, **how)[0]

    def similarity_search_many(
        self,
        queries: Sequence[str],
        k: int = 4,
        filter: Filter | None = None,
        **how: Unpack[SearchOptions],
    ) -> list[Scored]:
        """Search for several texts at once: one list of (document, score) for each."""
        vectors = embed_queries(self._embedding, strings(queries, "query"))
        return list(map(_scored, self._find(vectors, k, filter, how)))

    def similarity_search_by_vector(
        self, embedding: ArrayLike, k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Return the `k` documents nearest to a vector."""
        return _unscored(self.similarity_search_with_score_by_vector(embedding, k, **kwargs))

    def similarity_search_with_score_by_vector(
        self,
        embedding: ArrayLike,
        k: int = 4,
        filter: Filter | None = None,
        **how: Unpack[SearchOptions],
    ) -> Scored:
        """Return the `k` documents nearest to a vector, with scores as the class says."""
        return _scored(self._find([embedding], k, filter, how)[0])

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Return `k` documents that are near to a text and unlike one another."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, **kwargs
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: ArrayLike,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Return `k` documents that are near to a vector and unlike one another."""
        return _unscored(
            self.max_marginal_relevance_search_with_score_by_vector(
                embedding, k, fetch_k, lambda_mult, **kwargs
            )
        )

    def max_marginal_relevance_search_with_score_by_vector(
        self,
        embedding: ArrayLike,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **how: Unpack[SearchOptions],
    ) -> Scored:
        """Return documents near to a vector and unlike one another, in the order of their choice.

        Args:
            embedding: The vector.
            k: How many to return.
            fetch_k: Out of how many of the nearest; at least `k` are taken.
            lambda_mult: 1 looks at nearness only, 0 at variety only.
            filter: Admits documents by their metadata.
            **how: `nprobe` or `ef_search`.
        """
        where = None if filter is None else compile_filter(filter)
        query = self._prepare([embedding], _name_query)
        k, fetch_k = _at_least_one("k", k), _at_least_one("fetch_k", fetch_k)
        hits, vectors = self._collection.candidates(
            query, max(k, fetch_k), where, self._effort(how)
        )
        self._route.report()
        chosen = select_diverse(query, vectors, k, lambda_mult)
        return _scored([hits[position] for position in chosen])

    def hybrid_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the `k` best documents by vectors and words; see `hybrid_search_with_score`."""
        return _unscored(self.hybrid_search_with_score(query, k, **kwargs))

    def hybrid_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,
        *,
        fusion: str = "rrf",
        weight: float = 0.5,
        fetch_k: int | None = None,
        **how: Unpack[SearchOptions],
    ) -> Scored:
        """Search by vectors and by words (BM25), and make one ranking of both.

        The first such search counts the words of all documents, some 3 seconds for 100,000 of 100
        words, and later ones what is new since. Who never calls it pays nothing.

        Args:
            query: The text.
            k: How many documents to return.
            filter: Admits documents by their metadata, in both rankings.
            fusion: `"rrf"` adds 1 / (60 + rank) of both, so that their scores need not compare;
                `"scores"` adds both scores, each scaled to [0, 1] among the candidates.
            weight: The share of the words, between 0 (vectors only) and 1.
            fetch_k: Candidates of each ranking. None takes `4 * k`, and at least 50.
            **how: `nprobe` or `ef_search`.

        Returns:
            Documents, best first, with fused scores: higher is better. They compare within one
            search only.

        Raises:
            TypeError: The query is no text.
            ValueError: A number is out of its range, or there is no such fusion.
        """
        (query,) = strings([query], "query")
        k = _at_least_one("k", k)
        fetch_k = None if fetch_k is None else _at_least_one("fetch_k", fetch_k)
        plan = fusions.plan(fusion, weight, fetch_k, k)
        where = None if filter is None else compile_filter(filter)
        vector = self._prepare([self._embedding.embed_query(query)], _name_query)
        fuse = partial(self._fuse, query, vector, plan)
        hits = self._collection.fused(
            vector, k, fuse, where, self._effort(how), fetch_k=plan.fetch_k
        )
        self._route.report()
        return _scored(hits)

    async def ahybrid_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Run `hybrid_search` in a thread."""
        return await run_in_executor(None, self.hybrid_search, query, k, **kwargs)

    async def ahybrid_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """Run `hybrid_search_with_score` in a thread."""
        return await run_in_executor(None, self.hybrid_search_with_score, query, k, **kwargs)

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Search as `search_type` says: LangChain's names, and `"hybrid"`."""
        if search_type == "hybrid":
            return self.hybrid_search(query, **kwargs)
        if search_type not in (known := FAISSRetriever.allowed_search_types):
            raise ValueError(f"unknown search_type {search_type!r}; known: {', '.join(known)}")
        return super().search(query, search_type, **kwargs)

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Run `search` in a thread."""
        return await run_in_executor(None, self.search, query, search_type, **kwargs)

    def merge_from(self, other: FAISSVectorStore) -> None:
        """Add all documents of another store; its document replaces one with the same id here.

        Raises:
            TypeError: It is no `FAISSVectorStore`; `from_community` makes one of a FAISS store of
                langchain-community.
            ValueError: The metrics or the widths of the vectors differ.
            StoreError: It holds vectors of another model.
        """
        if not isinstance(other, FAISSVectorStore):
            raise TypeError(
                f"a FAISSVectorStore is needed, not {type(other).__name__}; from_community makes "
                "one of a FAISS store of langchain-community"
            )
        if other is self:
            return
        if other.metric != self._metric:
            raise ValueError(
                f"a store of metric {other.metric!r} cannot be merged into one of {self._metric!r}"
            )
        if other.embeddings is not self._embedding:
            embed_text = partial(_embed_text, self._embedding)
            identities.accept(other._identify(), self._embedding, embed_text)
        batch, vectors = other._collection.export()
        if vectors is not None:
            self._collection.put(batch, vectors)

    def as_retriever(self, **kwargs: Any) -> FAISSRetriever:
        """Return a retriever; arguments are the fields of `FAISSRetriever`."""
        tags = kwargs.pop("tags", None) or self._get_retriever_tags()
        return FAISSRetriever(vectorstore=self, tags=tags, **kwargs)

    def save_local(
        self, folder_path: str | PathLike[str], *, overwrite: bool = False, timeout: float = TIMEOUT
    ) -> None:
        """Save to a folder; a store that is there is replaced, and stays whole until the end.

        The first save embeds one fixed text, by which `load_local` knows the model again. Writers
        of a folder wait for one another. One that loaded from it, or saved to it, does not replace
        what another has saved there since. Who loads waits for nobody.

        Args:
            folder_path: The folder.
            overwrite: Replace what another has saved there since.
            timeout: Seconds to wait for another writer.

        Raises:
            OSError: The folder cannot be written; what was there is untouched.
            StoreError: Another writer has saved there since, or is still saving, or what is there
                is a store that cannot be read; it is not overwritten.
        """
        self._collection.save(
            Path(folder_path), self._identify(), overwrite=overwrite, timeout=timeout
        )

    @classmethod
    def load_local(
        cls,
        folder_path: str | PathLike[str],
        embedding: Embeddings,
        *,
        mmap: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load what `save_local` saved. Nothing in the folder is executed.

        Args:
            folder_path: The folder.
            embedding: The model the store was built with. It is known by its name, or else by the
                vector it makes of one fixed text.
            mmap: Leave the vectors in the file, and let searches read what they need of it: for
                indexes larger than memory. Texts and metadata are loaded; of the index file only
                the size is checked. The first change reads the vectors into memory after all.
            **kwargs: Arguments of the constructor, but for the metric and the index kind, which are
                the store's.

        Raises:
            StoreError: There is no store, a newer version wrote it, a file is missing or damaged,
                or another model built it.
        """

        def accept(manifest: Manifest) -> None:
            if numbers:  # what the caller gave is no damage of the store
                _get_kind(manifest, numbers)
            identities.accept(manifest.identity, embedding, partial(_embed_text, embedding))

        numbers: dict[str, int] = {
            name: value for name in _NUMBERS if (value := kwargs.pop(name, None)) is not None
        }
        read_index = partial(_read_index, numbers=numbers, mapped=mmap)
        loaded = folders.load(
            Path(folder_path), read_index=read_index, accept=accept, whole=not mmap
        )
        index = loaded.index
        named: dict[str, Any] = index.parameters
        store = cls(embedding, metric=index.metric, index=index.kind, **named, **kwargs)
        store._identity = loaded.manifest.identity
        store._collection = store._collect(index=loaded.index, documents=loaded.documents)
        store._collection.know(Path(folder_path), loaded.manifest)
        return store

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a store of texts; further arguments go to the constructor."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_embeddings(
        cls,
        text_embeddings: Iterable[tuple[str, ArrayLike]],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a store of texts and their vectors; further arguments go to the constructor."""
        store = cls(embedding, **kwargs)
        store.add_embeddings(text_embeddings, metadatas, ids=ids)
        return store

    @classmethod
    def from_community(
        cls,
        folder_or_store: Any,
        embedding: Embeddings,
        *,
        normalize_L2: bool | None = None,  # noqa: N803 - its name there
        index_name: str = "index",
        metadata: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        check_model: bool = True,
        limits: Limits | None = None,
        **kwargs: Any,
    ) -> Self:
        """Move in from langchain-community's `FAISS`: a live store, or a folder it was saved to.

        Searches find the same, with the same scores; where vectors are normalized the metric is
        `"cosine"`, and that store's score `d` is `1 - d / 2` here. Vectors are taken out of any
        index that gives them back, and no text is embedded but to know the model. The store that
        was given stays as it is.

        The folder's pickle is read by a program that knows documents and runs nothing: a pickle
        that asks for anything else is refused.

        Args:
            folder_or_store: The folder, or the store.
            embedding: The model the store was built with.
            normalize_L2: What the store was made with: a folder does not say. None takes it from a
                live store.
            index_name: What `save_local` was given there.
            metadata: Called with the metadata of each document; returns what JSON can hold. Without
                it tuples and sets become lists, with a warning, and other objects are refused.
            check_model: Embed a few documents again, to refuse another model's vectors.
            limits: How much the pickle may hold.
            **kwargs: Arguments of the constructor, but for the metric.

        Raises:
            StoreError: There is no such store, its pickle was refused, its parts do not belong
                together, a document's metadata is not JSON, or another model built it.
            VectorError: Its index cannot be taken over.
            TypeError: It is neither a folder nor a store.
        """
        if isinstance(folder_or_store, str | PathLike):
            folder = Path(folder_or_store)
            source = community.open_folder(folder, index_name, limits)
            found = foreign.load(folder / f"{index_name}.faiss")
        else:
            source = community.take_store(folder_or_store)
            found = foreign.take(folder_or_store.index)
        if normalize_L2 is None:
            normalize_L2 = bool(getattr(folder_or_store, "_normalize_L2", False))  # noqa: N806
        own_relevance = getattr(folder_or_store, "override_relevance_score_fn", None)
        if own_relevance is not None:
            kwargs.setdefault(
                "relevance_score_fn",
                (lambda score: own_relevance(2 - 2 * score)) if normalize_L2 else own_relevance,
            )
        store = cls(embedding, metric="cosine" if normalize_L2 else found.metric, **kwargs)
        moved = source.move(found.numbers, metadata)
        if check_model:
            ask = partial(
                embed, embedding, metric="ip", dimension=None, name="text {} again".format
            )
            community.accept_model(embedding, moved.texts, found.vectors, ask)
        batch = check(moved.texts, moved.metadatas, moved.ids)
        store._collection.put(batch, store._prepare(found.vectors, batch.name))
        for reason in moved.changed:
            warnings.warn(f"moving in: {reason}", GPUWarning, stacklevel=2)
        return store

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance

    def _collect(self, **contents: Any) -> Collection:
        make = partial(self._kind.create, metric=self._metric)
        self._words = BM25()
        return Collection(make, self._route.search, words=self._words, **contents)

    def _prepare(self, vectors: Sequence[ArrayLike] | Matrix, name: Callable[[int], str]) -> Matrix:
        return prepare(
            vectors,
            count=len(vectors),
            metric=self._metric,
            dimension=self._collection.dimension,
            name=name,
        )

    def _find(
        self, vectors: Sequence[ArrayLike], k: int, filter: Filter | None, how: SearchOptions
    ) -> list[list[Hit]]:
        where = None if filter is None else compile_filter(filter)
        queries = self._prepare(vectors, _name_query)
        found = self._collection.search(queries, _at_least_one("k", k), where, self._effort(how))
        self._route.report()
        return found

    def _fuse(
        self, query: str, vector: Matrix, plan: fusions.Plan, near: Rows, allowed: Rows | None
    ) -> tuple[NDArray[np.floating], Rows]:
        index = self._collection.index
        _, worded = self._words.search(query, plan.fetch_k, allowed)
        if plan.by == "rrf" or index is None:
            return fusions.fuse_ranks(near, worded, plan.weight)
        rows = np.union1d(near, worded)
        nearness = fusions.nearness(vector[0], index.vectors(rows), self._metric)
        return fusions.fuse_scores(rows, nearness, self._words.scores(query, rows), plan.weight)

    def _effort(self, how: SearchOptions) -> Effort:
        if not how:
            return EFFORT
        known = Effort(how.get("nprobe"), how.get("ef_search"))
        _refuse({name: value for name, value in how.items() if name not in known._fields})
        self._kind.check(known)
        return known

    def _identify(self) -> identities.Identity:
        model, revision = identities.names(self._embedding)
        if self._identity is None:
            probe = _embed_text(self._embedding, identities.PROBE)
            self._identity = identities.Identity(model, revision, tuple(probe.tolist()))
        if model is None:
            return self._identity
        # The model may have moved since; its vector of the text stays the first one, so that small
        # differences cannot add up from save to save.
        return replace(self._identity, model=model, revision=revision)


class FAISSRetriever(VectorStoreRetriever):
    """The retriever of a `FAISSVectorStore`.

    `search_type` is `"similarity"`, `"mmr"`, `"similarity_score_threshold"` (with
    `search_kwargs={"score_threshold": 0.5}`, a relevance), or `"hybrid"` (vectors and words).
    Documents are fresh copies with `metadata["score"]`: the store's score, the relevance where a
    threshold was asked for, or the fused score.

    Attributes:
        vectorstore: The store.
        k: How many documents to return. `search_kwargs["k"]` overrides it, and `invoke(..., k=...)`
            overrides both.
    """

    allowed_search_types: ClassVar[tuple[str, ...]] = (
        *VectorStoreRetriever.allowed_search_types,
        "hybrid",
    )

    vectorstore: FAISSVectorStore
    k: int = 4

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - part of the interface
        **kwargs: Any,
    ) -> list[Document]:
        options = {"k": self.k} | self.search_kwargs | kwargs
        store = self.vectorstore
        if self.search_type == "hybrid":
            found = store.hybrid_search_with_score(query, **options)
        elif self.search_type == "mmr":
            vector = store.embeddings.embed_query(query)
            found = store.max_marginal_relevance_search_with_score_by_vector(vector, **options)
        elif self.search_type == "similarity_score_threshold":
            found = store.similarity_search_with_relevance_scores(query, **options)
        else:
            found = store.similarity_search_with_score(query, **options)
        for document, score in found:
            document.metadata["score"] = score
        return _unscored(found)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        search = partial(self._get_relevant_documents, run_manager=run_manager.get_sync())
        return await run_in_executor(None, search, query, **kwargs)


def _embed_text(embedding: Embeddings, text: str) -> NDArray[np.float32]:
    rows = embed(embedding, [text], metric="ip", dimension=None, name=lambda _: "the test text")
    vector: NDArray[np.float32] = rows[0]
    return vector


_NUMBERS = ("train_size", "nprobe", "ef_search")


def _read_index(
    path: Path, manifest: Manifest, numbers: dict[str, int], *, mapped: bool
) -> VectorIndex:
    if manifest.metric not in METRICS:
        raise ValueError(f"unknown metric {manifest.metric!r}")
    if unknown := manifest.parameters.keys() - _NUMBERS:
        raise ValueError(f"unknown index parameter {min(unknown)!r}")
    return _get_kind(manifest, manifest.parameters | numbers).load(
        path, manifest.metric, mapped=mapped
    )


def _get_kind(manifest: Manifest, numbers: Mapping[str, int]) -> kinds.Kind:
    effort = Effort(numbers.get("nprobe"), numbers.get("ef_search"))
    return kinds.get(manifest.kind, train_size=numbers.get("train_size"), effort=effort)


def _document(entry: Entry) -> Document:
    return Document(id=entry.id, page_content=entry.text, metadata=decode_metadata(entry.metadata))


def _scored(hits: list[Hit]) -> Scored:
    return [(_document(hit.entry), hit.score) for hit in hits]


def _unscored(found: Scored) -> list[Document]:
    return [document for document, _ in found]


def _name_query(position: int) -> str:
    return f"query {position}"


def _at_least_one(name: str, value: int) -> int:
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


def _refuse(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise TypeError(f"FAISSVectorStore does not know the argument {next(iter(kwargs))!r}")


__all__ = ["FAISSRetriever", "FAISSVectorStore"]
