"""FAISS as a LangChain vector store: no pickle, filters before the cut, the GPU where it works."""

# ruff: noqa: A002 - `filter` is LangChain's name for it

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from numpy.typing import ArrayLike

from langchain_gpu.search.embed import embed
from langchain_gpu.search.filters import Filter, compile_filter
from langchain_gpu.store.batch import check, strings
from langchain_gpu.utils.integers import at_least_one
from langchain_gpu.vectorstores.arguments import check_settings, documents_of, refuse
from langchain_gpu.vectorstores.core import document_of
from langchain_gpu.vectorstores.persistence import Persistent
from langchain_gpu.vectorstores.retriever import FAISSRetriever


class FAISSVectorStore(Persistent):
    """A vector store in memory, searched by FAISS, saved to a folder without pickle.

    Setup:
        `pip install "langchain-gpu[faiss]"`, or the extra `faiss-gpu` or `faiss-gpu-cuvs` instead.

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

    Filters are dictionaries (`$eq $ne $in $nin $gt $gte $lt $lte $contains $exists $and $or $not`)
    or functions of the metadata. They are applied before the cut at `k`: `k` documents are found if
    that many match. `langchain_gpu.search.filters` says how each operator treats missing fields.

    A call adds all of its documents or none; a document whose id exists already is replaced.
    Metadata holds what JSON does, and dates and datetimes; documents come back as fresh copies.
    Threads may search while others add. The `a...` methods run in a thread.

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
    flat, and exact, until there are enough vectors to train from; the change is logged, and
    `index_shape` says what the index is now. The compressed kinds return vectors as they were
    rounded: `merge_from` and MMR work with those.

    The CPU index is what is changed and saved. On a GPU a copy of it is searched, which is rebuilt
    at the first search after a change. FAISS searches on NVIDIA cards. Torch searches on the
    others, and does what FAISS cannot (filters, a very large `k`) if the process has loaded it. The
    CPU does what no GPU can; a `FallbackWarning` says so once. `device` says where searches run,
    with the reason.
    """

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed and add texts; those whose id exists already are replaced.

        If one text cannot be embedded or stored, none is.

        Args:
            texts: The texts.
            metadatas: One dictionary for each text, of what JSON can hold; NaN is refused.
            ids: One for each text; a missing one, or None, becomes a random one.
            batch_size: Texts per call of the embedding. None leaves it to the store.
            **kwargs: None; another name is a TypeError.

        Returns:
            The ids.

        Raises:
            TypeError: A text or an id is not a string.
            ValueError: An id appears twice, metadata is not JSON, or a vector has the wrong width
                or holds NaN; the message names the document.
        """
        refuse(kwargs)
        batch = check(texts, metadatas, ids)
        vectors = embed(
            self._embedding,
            batch.texts,
            metric=self._metric,
            dimension=self._collection.dimension,
            name=batch.name,
            size=None if batch_size is None else at_least_one("batch_size", batch_size),
            allocate=self._allocate,
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
        """Add texts with vectors that you have already, for example `zip(texts, array)`.

        Otherwise as `add_texts`.
        """
        texts: list[str] = []
        rows: list[ArrayLike] = []
        for text, row in text_embeddings:  # a list of the pairs would set the garbage collector off
            texts.append(text)
            rows.append(row)
        batch = check(texts, metadatas, ids)
        vectors = self._prepare(rows, batch.name)
        del texts, rows  # 100,000 views of rows take 10 MB, while the index grows
        self._collection.put(batch, vectors)
        return batch.ids

    # LangChain's own reads the documents several times: of an iterator, such as a loader's
    # `lazy_load()`, nothing is left after the first, and nothing would be stored.
    def add_documents(self, documents: Iterable[Document], **kwargs: Any) -> list[str]:
        """Embed and add documents, under their ids if they have any; otherwise as `add_texts`.

        Raises:
            TypeError: One of them is not a `Document`; none is added.
        """
        return super().add_documents(documents_of(documents), **kwargs)

    async def aadd_documents(self, documents: Iterable[Document], **kwargs: Any) -> list[str]:
        """Do the same as `add_documents` without blocking."""
        return await super().aadd_documents(documents_of(documents), **kwargs)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Remove documents.

        Args:
            ids: Those that are not here are ignored. None removes every document.
            **kwargs: None; another name is a TypeError.

        Returns:
            True.
        """
        refuse(kwargs)
        if ids is None:
            self._collection.clear()
        else:
            self._collection.delete(strings(ids, "id"))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents of those ids that are here, in the order of `ids`."""
        return list(starmap(document_of, self._collection.get(strings(ids, "id"))))

    def iter_documents(self, filter: Filter | None = None) -> Iterator[Document]:
        """Yield the documents of this moment, oldest first, made one by one."""
        admits = None if filter is None else compile_filter(filter)
        documents = starmap(document_of, self._collection.entries())
        return (found for found in documents if admits is None or admits(found.metadata))

    def as_retriever(self, **kwargs: Any) -> FAISSRetriever:
        """Return a retriever; arguments are the fields of `FAISSRetriever`."""
        tags = kwargs.pop("tags", None) or self._get_retriever_tags()
        return FAISSRetriever(vectorstore=self, tags=tags, **kwargs)

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], embedding: Embeddings, **kwargs: Any
    ) -> Self:
        """Make a store of documents; further arguments go to the constructor."""
        return super().from_documents(documents_of(documents), embedding, **kwargs)

    @classmethod
    async def afrom_documents(
        cls, documents: Iterable[Document], embedding: Embeddings, **kwargs: Any
    ) -> Self:
        """Do the same as `from_documents` without blocking."""
        return await super().afrom_documents(documents_of(documents), embedding, **kwargs)

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
        check_settings(cls, kwargs)
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
        check_settings(cls, kwargs)
        store = cls(embedding, **kwargs)
        store.add_embeddings(text_embeddings, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_embeddings(
        cls,
        text_embeddings: Iterable[tuple[str, ArrayLike]],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Do the same as `from_embeddings` without blocking."""
        make = cls.from_embeddings
        return await run_in_executor(None, make, text_embeddings, embedding, metadatas, **kwargs)


__all__ = ["FAISSVectorStore"]
