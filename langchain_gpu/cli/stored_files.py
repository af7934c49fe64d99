"""The files a store holds, by the metadata of their chunks.

Each chunk has its file's `source` and a `fingerprint`: the first one's is that of the whole file,
and it is written with the last of the others or after them; theirs are of themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from langchain_gpu.loaders import Found, source_name
from langchain_gpu.vectorstores import FAISSVectorStore

FINGERPRINT = "fingerprint"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the store holds it: the fingerprints of its chunks, by their ids."""

    source: str
    chunks: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str | None:
        """Of the whole file; None where an interrupted run left only a part of it."""
        return self.chunks.get(chunk_id(self.source, 0))


def chunk_id(source: str, number: int) -> str:
    """Return the id of one chunk of a file."""
    return f"{source}#{number}"


def stored_files(store: FAISSVectorStore) -> dict[str, StoredFile]:
    """Return the files a store holds. Documents that were added by other means are not ours."""
    known: dict[str, StoredFile] = {}
    for document in store.iter_documents():
        source, fingerprint = map(document.metadata.get, ("source", FINGERPRINT))
        if isinstance(source, str) and isinstance(fingerprint, str) and document.id is not None:
            known.setdefault(source, StoredFile(source)).chunks[document.id] = fingerprint
    return known


def stored_under(store: FAISSVectorStore, paths: Iterable[Path]) -> int:
    """Count the stored files that are one of `paths` or lie under one."""
    return len(_under(stored_files(store), paths))


def gone_files(known: Iterable[str], found: Found, paths: Sequence[Path]) -> list[str]:
    """Return the stored files that are no longer under `paths`."""
    here = {source_name(path) for path in found.files}
    return [source for source in _under(known, paths) if source not in here and _vanished(source)]


def _under(known: Iterable[str], paths: Iterable[Path]) -> list[str]:
    roots = {source_name(path).rstrip(os.sep) for path in paths}
    return [source for source in known if not roots.isdisjoint(_with_folders(source))]


def _with_folders(source: str) -> Iterator[str]:
    """Yield a file and the folders it lies in, from the nearest up to the root, which is ''."""
    separator = os.sep
    while separator:
        yield source
        source, separator, _ = source.rpartition(os.sep)


def _vanished(source: str) -> bool:
    try:
        os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may well be there, behind a folder that is closed to us
        return False
    return False


__all__ = ["FINGERPRINT", "StoredFile", "chunk_id", "gone_files", "stored_files", "stored_under"]
