"""Documents and their vectors, changed together and searched by many threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from langchain_gpu.store import changes
from langchain_gpu.store import folder as folders
from langchain_gpu.store.batch import Batch
from langchain_gpu.store.contracts import (
    Fuse,
    Hits,
    Index,
    Matrix,
    Near,
    Predicate,
    Rows,
    Search,
    Words,
)
from langchain_gpu.store.documents import Documents, Entry
from langchain_gpu.store.identity import Identity
from langchain_gpu.store.lock import TIMEOUT
from langchain_gpu.store.manifest import Manifest
from langchain_gpu.store.mapped import MappedDocuments
from langchain_gpu.store.nearest import admitted, check_width, nearest
from langchain_gpu.store.rwlock import ReadWriteLock


class Collection:
    """Documents and vectors, kept consistent by locks.

    Writers and saves run one at a time. They block searches only while rows change, not while
    anything is embedded, checked or written to disk. No lock is held while callers' code runs.
    """

    def __init__(
        self,
        make_index: Callable[[int], Index],
        search: Search,
        *,
        index: Index | None = None,
        documents: Documents | MappedDocuments | None = None,
        words: Words | None = None,
        forget: Callable[[], object] = lambda: None,
    ) -> None:
        """Start empty, or with an index and its documents.

        Args:
            make_index: Makes an empty index of a dimension; the first vectors decide which.
            search: Finds the nearest rows of queries in an index; -1 where there are fewer.
            index: Holds the vectors of `documents`.
            documents: The documents of these vectors.
            words: An empty word index, for `fused`.
            forget: Makes the search release its copy of an index. Called when the store is emptied.
        """
        self._make_index = make_index
        self._search = search
        self._index = index
        self._documents: Documents | MappedDocuments
        self._documents = Documents() if documents is None else documents
        self._words = words
        self._forget = forget
        self._writers = Lock()
        self._rwlock = ReadWriteLock()
        self._known: dict[Path, Manifest] = {}  # by folder, as this store left or found it

    def __len__(self) -> int:
        """Count the documents."""
        return len(self._documents)

    @property
    def index(self) -> Index | None:
        """The vectors, None before the first."""
        return self._index

    @property
    def dimension(self) -> int | None:
        """Width of the vectors, None before the first."""
        index = self._index
        return None if index is None else index.dimension

    def put(self, batch: Batch, vectors: Matrix) -> None:
        """Add documents; those whose id is here are replaced. All of them, or none.

        Args:
            batch: n documents.
            vectors: [n, dimension]

        Raises:
            ValueError: The vectors are not as wide as those that are here.
        """
        if not batch.ids:
            return
        with self._writers:
            index = self._index
            if index is None:
                index = self._make_index(vectors.shape[1])
            check_width("vectors", vectors, index)  # another thread may have stored the first
            documents = self._documents.whole()
            replaced = documents.rows_of(batch.ids)
            improved = index.improve(vectors)
            with self._rwlock.writing():
                if improved is not None:
                    improved()
                self._documents = documents
                changes.replace(index, documents, batch, vectors, replaced)
                self._index = index

    def delete(self, ids: Sequence[str]) -> int:
        """Remove the documents of those ids that are here; return how many."""
        with self._writers:
            rows = self._documents.rows_of(dict.fromkeys(ids))
            if self._index is None or not len(rows):
                return 0
            if len(rows) == len(self._documents):
                self._empty(self._make_index(self._index.dimension))
            else:
                documents = self._documents.whole()
                with self._rwlock.writing():
                    self._documents = documents
                    changes.remove(self._index, documents, rows)
                if (improved := self._index.improve()) is not None:
                    with self._rwlock.writing():
                        improved()
            return len(rows)

    def clear(self) -> None:
        """Remove everything; the next vectors may have another width."""
        with self._writers:
            self._empty(None)

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return the documents of those ids that are here, in the order of `ids`."""
        with self._rwlock.reading():
            entries = [self._documents.get(id_) for id_ in ids]
        return [entry for entry in entries if entry is not None]

    def entries(self) -> Iterator[Entry]:
        """Yield every document of this moment, oldest first. Texts are not copied."""
        self._documents.whole()
        with self._rwlock.reading():
            columns = self._documents.columns()
        return map(Entry, *columns)

    def search(self, queries: Matrix, k: int, where: Predicate | None = None, *how: Any) -> Hits:
        """Return the `k` nearest documents of each query, or all if there are fewer.

        Args:
            queries: [q, dimension]
            k: At least 1.
            where: Admits documents by their metadata, before the cut at `k`.
            how: Handed to the search function.
        """
        allowed = self._admitted(where)
        with self._rwlock.reading():
            near = self._nearest(queries, k, allowed, *how)
            return Hits(self._documents.pick(near.rows), near)

    def search_ids(
        self, queries: Matrix, k: int, where: Predicate | None = None, *how: Any
    ) -> tuple[list[str], Near]:
        """Return the ids of what `search` finds; texts in memory are not looked at."""
        allowed = self._admitted(where)
        with self._rwlock.reading():
            near = self._nearest(queries, k, allowed, *how)
            return self._documents.pick_ids(near.rows), near

    def candidates(
        self, query: Matrix, k: int, where: Predicate | None = None, *how: Any
    ) -> tuple[Hits, Matrix]:
        """Return the `k` nearest documents of one query, and their vectors [hits, dimension]."""
        allowed = self._admitted(where)
        with self._rwlock.reading():
            near = self._nearest(query, k, allowed, *how)
            hits = Hits(self._documents.pick(near.rows), near)
            if self._index is None or not near.rows:
                return hits, np.empty((0, query.shape[1]), dtype=np.float32)
            return hits, self._index.vectors(np.array(near.rows, dtype=np.int64))

    def fused(
        self,
        query: Matrix,
        k: int,
        fuse: Fuse,
        where: Predicate | None = None,
        *how: Any,
        fetch_k: int,
    ) -> Hits:
        """Return the `k` best documents of one query, by two rankings that `fuse` combines.

        Args:
            query: [1, dimension]
            k: At least 1.
            fuse: Gets the `fetch_k` nearest rows and the admitted rows; returns (scores, rows). It
                may read the index and the word index, which do not change meanwhile.
            where: Admits documents by their metadata, before any cut.
            how: Handed to the search function.
            fetch_k: At least `k`.
        """
        allowed = self._admitted(where)
        self._documents.whole()
        self._count_words()  # takes seconds the first time, and does not block writers here
        with self._rwlock.reading():
            if not len(self._documents):
                return Hits(Batch([], [], []), Near([], [], [0]))
            self._count_words(inside=True)  # documents that were added in between
            near = self._nearest(query, fetch_k, allowed, *how)
            scores, rows = fuse(np.array(near.rows, dtype=np.int64), allowed)
            best = rows[:k].tolist()
            return Hits(self._documents.pick(best), Near(scores[:k].tolist(), best, [len(best)]))

    def export(self) -> tuple[Batch, Matrix | None]:
        """Return every document with its vector [n, dimension]; None if there is no vector."""
        self._documents.whole()
        with self._rwlock.reading():
            batch = self._documents.columns()
            if self._index is None:
                return batch, None
            return batch, self._index.vectors(self._documents.rows())

    def know(self, folder: Path, manifest: Manifest) -> None:
        """Remember the manifest of `folder`, so that a save there notices another writer."""
        self._known[folder.resolve()] = manifest

    def save(
        self,
        folder: Path,
        identity: Identity,
        *,
        overwrite: bool | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Save to a folder. Searches go on meanwhile, writers wait.

        Args:
            folder: Where to.
            identity: Of the embedding model.
            overwrite: Replace what another writer has saved there. None does where this collection
                was never there.
            timeout: Seconds to wait for another writer.
        """
        with self._writers:
            known = self._known.get(folder.resolve())  # after the save of another thread
            index = self._index
            if index is None:
                index = self._make_index(len(identity.probe))
            manifest = folders.save(
                folder,
                index=index,
                documents=self._documents,
                identity=identity,
                known=known,
                overwrite=known is None if overwrite is None else overwrite,
                timeout=timeout,
            )
            self.know(folder, manifest)

    def _empty(self, index: Index | None) -> None:
        """Replace the index by an empty one: FAISS keeps the memory of removed vectors."""
        with self._rwlock.writing():
            self._documents = documents = Documents(self._documents.next_row)
            self._index = index
        self._forget()  # the store is empty: no search is using the copy
        if self._words is not None:
            self._words.follow(documents.next_row, documents.rows(), [])

    def _count_words(self, *, inside: bool = False) -> None:
        if self._words is None:
            raise TypeError("this collection has no index of words")
        with nullcontext() if inside else self._rwlock.reading():
            documents = self._documents
            if self._words.is_at(documents.next_row, len(documents)):
                return
            moment = documents.next_row, documents.rows(), documents.texts()
        self._words.follow(*moment)

    def _admitted(self, where: Predicate | None) -> Rows | None:
        if where is None:
            return None
        self._documents.whole()
        with self._rwlock.reading():
            rows, metadata = self._documents.rows(), self._documents.metadata()
        # A row that is removed before the search is not found, and row numbers are never reused.
        return admitted(where, rows, metadata)

    def _nearest(self, queries: Matrix, k: int, allowed: Rows | None, *how: Any) -> Near:
        k = min(k, len(self._documents) if allowed is None else len(allowed))
        if self._index is None or k == 0 or not len(queries):
            return Near([], [], [0] * len(queries))
        return nearest(self._search, self._index, queries, k, allowed, *how)


__all__ = ["Collection"]
