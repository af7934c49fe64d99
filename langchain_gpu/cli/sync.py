"""Synchronize a store with files: add, update and delete only what changed.

The store itself remembers what it holds (`stored_files`). There is no second file that could
disagree with it after a crash.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from langchain_core.documents import Document

from langchain_gpu.cli.stored_files import (
    FINGERPRINT,
    StoredFile,
    chunk_id,
    gone_files,
    stored_files,
)
from langchain_gpu.engine.prefetch import prefetch
from langchain_gpu.loaders import Chunker, Failure, Found, LoadError, load_file, source_name
from langchain_gpu.loaders.reading import reason
from langchain_gpu.vectorstores import FAISSVectorStore

FORMAT = 1  # raise it when files are read or cut differently: all are indexed again then
BATCH = 2048  # chunks embedded together, or more, as a file is seldom torn apart
TORN = 8192  # more chunks go into the store in parts
READ_AHEAD = 64  # files read and cut while others are embedded
SAVE_AFTER = 60.0  # most seconds of work that an interruption costs ...
SAVE_SHARE = 20  # ... unless saving itself would take more than a twentieth of the time


@dataclass(slots=True)
class Summary:
    """What a run did, counted in files; one that was stored in part counts as added."""

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

    A file that cannot be read keeps the chunks it had, and of one that changed those are embedded
    that did. Batches of whole files go into the store, very large ones in parts. It is saved now
    and then and at the end, if anything changed.
    """
    known = stored_files(store)
    gone = gone_files(known, found, paths)
    summary = Summary(failed=list(found.failed), deleted=len(gone))
    saver = _Saver(save)
    if gone:
        store.delete([id_ for source in gone for id_ in known[source].chunks])
        saver.dirty = True
    with _reading_ahead(_read(found.files, known, cut)) as reads:
        for batch in _batches(reads, summary, watcher):
            changed = [_changed(read, known) for read in batch]
            watcher.embedding(len(batch), sum(map(len, changed)))
            for part in _parts(store, changed):
                saver.save_if_due()  # never between the last part and taking out what is stale
                store.add_documents(part)
                saver.dirty = True
                summary.chunks += len(part)
            saver.dirty |= _finish(store, batch, known, summary)
            watcher.done(len(batch))
    saver.save_if_dirty()
    return summary


def _read(files: Iterable[Path], known: dict[str, StoredFile], cut: Cut) -> Iterator[_Read]:
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
        chunks = chunker.split(documents) if chunker else []
        for number, chunk in enumerate(chunks):
            chunk.id = chunk_id(source, number)
            chunk.metadata[FINGERPRINT] = _fingerprint_of(chunk) if number else fingerprint
        yield _Read(source, chunks=chunks)


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


def _fingerprint_of(chunk: Document) -> str:
    content = repr((chunk.page_content, sorted(chunk.metadata.items())))
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:16]


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


def _changed(read: _Read, known: dict[str, StoredFile]) -> list[Document]:
    """Return the chunks that the store does not have as they are now."""
    chunks = read.chunks or []
    held = known[read.source].chunks if read.source in known else {}
    return [chunk for chunk in chunks if held.get(str(chunk.id)) != chunk.metadata[FINGERPRINT]]


def _parts(store: FAISSVectorStore, files: Sequence[list[Document]]) -> Iterator[list[Document]]:
    """Yield what goes into the store together.

    A store that has the first chunk of a file has all of it. So of a torn one that chunk goes first
    and comes last: it may be the old one, and the file become again what it was.
    """
    together = [chunk for chunks in files for chunk in chunks]
    if len(together) <= TORN:
        yield from filter(None, [together])
        return
    store.delete([str(chunks[0].id) for chunks in files if chunks])
    late = [chunk for chunks in files for chunk in (*chunks[1:], *chunks[:1])]
    yield from (late[at : at + BATCH] for at in range(0, len(late), BATCH))


def _finish(
    store: FAISSVectorStore, batch: list[_Read], known: dict[str, StoredFile], summary: Summary
) -> bool:
    """Take out chunks that their files no longer have, and count files; say if any went."""
    stale: list[str] = []
    for read in batch:
        chunks = read.chunks or []
        old = known.get(read.source)
        if old is not None:
            stale += old.chunks.keys() - {str(chunk.id) for chunk in chunks}
        if chunks:
            if "encoding" in chunks[0].metadata:
                summary.guessed.append(read.source)
            is_new = old is None or old.fingerprint is None
            summary.added += is_new
            summary.updated += not is_new
        else:
            summary.empty += old is None
            summary.deleted += old is not None
    if stale:
        store.delete(stale)
    return bool(stale)


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
