"""Synchronize a store with files: add, update and delete only what changed.

The store itself remembers what it holds: each chunk's metadata has its file's `source` and
`fingerprint`. There is no second file that could disagree with it after a crash.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from langchain_core.documents import Document

from langchain_gpu.engine.prefetch import prefetch
from langchain_gpu.loaders import Chunker, Failure, Found, LoadError, load_file, source_name
from langchain_gpu.loaders.reading import reason
from langchain_gpu.vectorstores import FAISSVectorStore

FINGERPRINT = "fingerprint"
FORMAT = 1  # raise it when files are read or cut differently: all are indexed again then
BATCH = 2048  # chunks embedded together; a file is never torn apart, so it may be more
READ_AHEAD = 64  # files read and cut while others are embedded
SAVE_AFTER = 60.0  # most seconds of work that an interruption costs ...
SAVE_SHARE = 20  # ... unless saving itself would take more than a twentieth of the time


@dataclass(slots=True)
class Summary:
    """What a run did, counted in files."""

    added: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    empty: int = 0
    chunks: int = 0
    guessed: list[str] = field(default_factory=list)  # whose encoding is a guess
    failed: list[Failure] = field(default_factory=list)

    @property
    def indexed(self) -> int:
        """Files that were embedded."""
        return self.added + self.updated

    @property
    def read(self) -> int:
        """Files that could be read."""
        return self.indexed + self.unchanged + self.empty


@dataclass(frozen=True, slots=True)
class Cut:
    """How files are cut: the chunker, made once and only if a file changed, and its settings.

    Attributes:
        make_chunker: May load the model.
        settings: Part of each fingerprint: files are indexed again where it changed.
    """

    make_chunker: Callable[[], Chunker]
    settings: str


class Watcher(Protocol):
    """Is told how far a run is."""

    def embedding(self, files: int, chunks: int) -> None:
        """Say that so many files come next, with so many chunks."""

    def done(self, files: int) -> None:
        """Say that so many more files are done."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A file as the store holds it."""

    fingerprint: str
    ids: list[str]


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that was looked at: its chunks, or neither where it is unchanged, or an error."""

    source: str
    chunks: list[Document] | None = None
    error: str | None = None


def sync(
    store: FAISSVectorStore,
    found: Found,
    paths: Sequence[Path],
    *,
    cut: Cut,
    save: Callable[[], None],
    watcher: Watcher,
) -> Summary:
    """Index `found`, and delete from the store what is gone from under `paths`.

    A file that cannot be read keeps the chunks it had. Batches of whole files go into the store,
    which is saved now and then and at the end, if anything changed.
    """
    known = _known(store)
    gone = _gone(known, found, paths)
    summary = Summary(failed=list(found.failed), deleted=len(gone))
    saver = _Saver(save)
    if gone:
        store.delete([id_ for source in gone for id_ in known[source].ids])
        saver.dirty = True
    with _reading_ahead(_read(found.files, known, cut)) as reads:
        for batch in _batches(reads, summary, watcher):
            watcher.embedding(len(batch), sum(len(read.chunks or ()) for read in batch))
            saver.dirty |= _put(store, batch, known, summary)
            watcher.done(len(batch))
            saver.save_if_due()
    saver.save_if_dirty()
    return summary


def stored_under(store: FAISSVectorStore, paths: Iterable[Path]) -> int:
    """Count the stored files that are one of `paths` or lie under one."""
    return len(_under(_known(store), paths))


def _known(store: FAISSVectorStore) -> dict[str, _Known]:
    """Return the files a store holds. Documents that were added by other means are not ours."""
    known: dict[str, _Known] = {}
    for document in store.iter_documents():
        source, fingerprint = map(document.metadata.get, ("source", FINGERPRINT))
        if isinstance(source, str) and isinstance(fingerprint, str) and document.id is not None:
            known.setdefault(source, _Known(fingerprint, [])).ids.append(document.id)
    return known


def _under(known: Iterable[str], paths: Iterable[Path]) -> list[str]:
    roots = [source_name(path) for path in paths]
    folders = tuple(root.rstrip(os.sep) + os.sep for root in roots)
    return [source for source in known if source in roots or source.startswith(folders)]


def _gone(known: Iterable[str], found: Found, paths: Iterable[Path]) -> list[str]:
    here = {source_name(path) for path in found.files}
    return [source for source in _under(known, paths) if source not in here and _vanished(source)]


def _vanished(source: str) -> bool:
    try:
        os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may well be there, behind a folder that is closed to us
        return False
    return False


def _read(files: Iterable[Path], known: dict[str, _Known], cut: Cut) -> Iterator[_Read]:
    chunker: Chunker | None = None
    for path in files:
        source = source_name(path)
        try:
            data = path.read_bytes()
            fingerprint = _fingerprint(data, cut.settings)
            if source in known and known[source].fingerprint == fingerprint:
                yield _Read(source)
                continue
            documents = load_file(path, data=data)
        except (LoadError, OSError) as error:
            yield _Read(source, error=reason(error))
            continue
        if documents and chunker is None:
            chunker = cut.make_chunker()
        for document in documents:
            document.metadata[FINGERPRINT] = fingerprint
        yield _Read(source, chunks=chunker.split(documents) if chunker else [])


@contextmanager
def _reading_ahead(reads: Iterator[_Read]) -> Iterator[Iterator[_Read]]:
    """Read and cut files while others are embedded; stop reading when the work stops."""
    iterator = prefetch(reads, depth=READ_AHEAD)
    try:
        yield iterator
    finally:
        iterator.close()


def _fingerprint(data: bytes, settings: str) -> str:
    digest = hashlib.sha256(f"{FORMAT} {settings}\n".encode())
    digest.update(data)
    return digest.hexdigest()[:32]


def _batches(reads: Iterable[_Read], summary: Summary, watcher: Watcher) -> Iterator[list[_Read]]:
    """Count the files that need no work; gather the others."""
    batch: list[_Read] = []
    chunks = 0
    for read in reads:
        if read.chunks is None:
            if read.error is None:
                summary.unchanged += 1
            else:
                summary.failed.append(Failure(read.source, read.error))
            watcher.done(1)
            continue
        batch.append(read)
        chunks += len(read.chunks)
        if chunks >= BATCH:
            yield batch
            batch, chunks = [], 0
    if batch:
        yield batch


def _put(
    store: FAISSVectorStore, batch: list[_Read], known: dict[str, _Known], summary: Summary
) -> bool:
    """Put chunks in, take out those their files no longer have; say if anything changed."""
    documents: list[Document] = []
    stale: list[str] = []
    for read in batch:
        chunks = read.chunks or []
        for number, chunk in enumerate(chunks):
            chunk.id = f"{read.source}#{number}"
        documents += chunks
        old = known.get(read.source)
        if old is not None:
            stale += set(old.ids).difference(str(chunk.id) for chunk in chunks)
        if chunks:
            if "encoding" in chunks[0].metadata:
                summary.guessed.append(read.source)
            summary.added += old is None
            summary.updated += old is not None
        else:
            summary.empty += old is None
            summary.deleted += old is not None
    if documents:
        store.add_documents(documents)
    if stale:
        store.delete(stale)
    summary.chunks += len(documents)
    return bool(documents or stale)


class _Saver:
    """Saves when enough work would be lost, and when it is worth the time."""

    def __init__(self, save: Callable[[], None]) -> None:
        self.dirty = False
        self._save = save
        self._saved = time.monotonic()
        self._took = 0.0

    def save_if_due(self) -> None:
        if time.monotonic() - self._saved > max(SAVE_AFTER, SAVE_SHARE * self._took):
            self.save_if_dirty()

    def save_if_dirty(self) -> None:
        if not self.dirty:
            return
        started = time.monotonic()
        self._save()
        self._saved = time.monotonic()
        self._took = self._saved - started
        self.dirty = False
