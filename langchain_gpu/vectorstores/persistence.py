"""Saving and loading a store, importing langchain-community's, merging stores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self

from langchain_core.embeddings import Embeddings

from langchain_gpu.events import GPUWarning, users_line
from langchain_gpu.search import foreign, kinds
from langchain_gpu.search.base import METRICS, Effort, VectorIndex
from langchain_gpu.search.embed import embed
from langchain_gpu.store import community
from langchain_gpu.store import folder as folders
from langchain_gpu.store import identity as identities
from langchain_gpu.store.batch import check
from langchain_gpu.store.lock import TIMEOUT
from langchain_gpu.store.manifest import Manifest
from langchain_gpu.store.pickled import Limits
from langchain_gpu.vectorstores.arguments import check_settings, refuse, refusing
from langchain_gpu.vectorstores.core import embed_text
from langchain_gpu.vectorstores.hybrid import Hybrid


class Persistent(Hybrid):
    """How a `FAISSVectorStore` is saved, loaded, merged and taken over."""

    def merge_from(self, other: Persistent) -> None:
        """Add all documents of another store; its document replaces one with the same id here.

        Raises:
            TypeError: It is no `FAISSVectorStore`; `from_community` makes one of a FAISS store of
                langchain-community.
            ValueError: The metrics or the widths of the vectors differ.
            StoreError: It holds vectors of another model.
        """
        if not isinstance(other, Persistent):
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
            ask = partial(embed_text, self._embedding)
            identities.accept(other._identify(), self._embedding, ask)
        batch, vectors = other._collection.export()
        if vectors is not None:
            self._collection.put(batch, vectors)

    def save_local(
        self,
        folder_path: str | PathLike[str],
        *,
        overwrite: bool | None = None,
        timeout: float = TIMEOUT,
        **kwargs: Any,
    ) -> None:
        """Save to a folder; a store that is there is replaced, and stays whole until the end.

        The first save embeds one fixed text, by which `load_local` knows the model again. Writers
        of a folder wait for one another. One that loaded from it, or saved to it, does not replace
        what another has saved there since. Who loads waits for nobody.

        Args:
            folder_path: The folder.
            overwrite: True replaces what another has saved there since; False replaces nothing that
                this store was neither loaded from nor saved as, also where it is new there.
            timeout: Seconds to wait for another writer.
            **kwargs: There are no further arguments; one that is named is an error.

        Raises:
            OSError: The folder cannot be written; what was there is untouched.
            StoreError: Another writer has saved there since, or is still saving, or what is there
                is a store that cannot be read; it is not overwritten.
            TypeError: An argument is unknown.
        """
        refuse(kwargs)
        self._collection.save(
            Path(folder_path), self._identify(), overwrite=overwrite, timeout=timeout
        )

    @classmethod
    @refusing
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
            mmap: Leave vectors and documents in their files, and let searches read what they need
                of them: for stores larger than memory, and to be ready at once. Only the sizes of
                the files are checked; a document that was damaged is named when it is read. A
                filter, `hybrid_search` and the first change read all documents into memory after
                all, and a change the vectors too.
            **kwargs: Arguments of the constructor, but for the metric and the index kind, which are
                the store's.

        Raises:
            StoreError: There is no store, a newer version wrote it, a file is missing or damaged,
                or another model built it.
        """
        check_settings(cls, kwargs)

        def accept(manifest: Manifest) -> None:
            if numbers:  # what the caller gave is not damage to the store
                _get_kind(manifest, numbers)
            identities.accept(manifest.identity, embedding, partial(embed_text, embedding))

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
            warnings.warn(f"moving in: {reason}", GPUWarning, stacklevel=users_line())
        return store


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


__all__ = ["Persistent"]
