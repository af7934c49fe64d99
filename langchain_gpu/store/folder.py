"""A store in a folder: each save writes a new generation of files, then the manifest.

`os.replace` of the manifest commits a save: before it the folder is the old store, after it the new
one. A file that a manifest names is never written to again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from langchain_gpu.store import manifest as manifests
from langchain_gpu.store.contracts import SavedIndex
from langchain_gpu.store.documents import Documents, parse
from langchain_gpu.store.errors import DamagedStoreError, StoreChangedError, StoreNotFoundError
from langchain_gpu.store.files import seal, sync_folder, verified, write_lines
from langchain_gpu.store.identity import Identity
from langchain_gpu.store.lock import TIMEOUT, locked
from langchain_gpu.store.manifest import (
    REMEDY,
    Manifest,
    documents_name,
    index_name,
    places_name,
)
from langchain_gpu.store.mapped import MappedDocuments, write_places

_OURS = re.compile(r"index-\d+\.faiss|documents-\d+\.jsonl|places-\d+\.npy|manifest-\d+\.tmp")


IndexT = TypeVar("IndexT", bound=SavedIndex)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[IndexT]):
    """A store as it was saved."""

    manifest: Manifest
    documents: Documents | MappedDocuments
    index: IndexT


def save(
    folder: Path,
    *,
    index: SavedIndex,
    documents: Documents | MappedDocuments,
    identity: Identity,
    known: Manifest | None = None,
    overwrite: bool = True,
    timeout: float = TIMEOUT,
) -> Manifest:
    """Write a store as the next generation of `folder`; a store that is there is replaced.

    A crash, a full disk or a refused write leaves the store that was there.

    Args:
        folder: Where to; made if it is not there.
        index: The vectors.
        documents: The documents of these vectors.
        identity: The embedding model.
        known: What this store was loaded from, or saved as, in this folder.
        overwrite: Replace what is there and is not `known`.
        timeout: Seconds to wait for another writer.

    Raises:
        OSError: The folder cannot be written.
        StoreLockedError: Another writer was still at it.
        StoreChangedError: What is there is not `known`.
        StoreError: The folder holds a store that cannot be read, so it is not overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder, timeout):
            return _save(folder, index, documents, identity, known=known, overwrite=overwrite)
    except OSError as error:
        if error.filename is None:  # a disk that is full does not say which
            error.filename = str(folder)
        raise


def _save(
    folder: Path,
    index: SavedIndex,
    documents: Documents | MappedDocuments,
    identity: Identity,
    *,
    known: Manifest | None,
    overwrite: bool,
) -> Manifest:
    generation = _next_generation(folder, known, overwrite=overwrite)
    index_path = folder / index_name(generation)
    documents_path = folder / documents_name(generation)
    places_path = folder / places_name(generation)
    temporary = folder / f"manifest-{generation}.tmp"
    files = (index_path, documents_path, places_path, temporary)
    with _removed_on_failure(folder, generation, files):
        index.save(index_path)
        ends = write_lines(documents_path, documents.lines())
        write_places(places_path, documents, ends)
        manifest = Manifest(
            generation=generation,
            kind=index.kind,
            metric=index.metric,
            dimension=index.dimension,
            count=len(documents),
            next_row=documents.next_row,
            identity=identity,
            index=seal(index_path),
            documents=seal(documents_path),
            places=seal(places_path),
            parameters=index.parameters,
        )
        temporary.write_text(manifest.to_json(), encoding="utf-8")
        seal(temporary)
        sync_folder(folder)  # the names of the new files, before the manifest tells them
        os.replace(temporary, folder / manifests.NAME)  # noqa: PTH105 - the word that is meant
    sync_folder(folder)
    _remove_others(folder, manifest)
    return manifest


def _next_generation(folder: Path, known: Manifest | None, *, overwrite: bool) -> int:
    """Return the generation that a save writes.

    Raises:
        StoreChangedError: What is there is not `known`, and must not be replaced.
    """
    try:
        there = manifests.read(folder)
    except StoreNotFoundError:
        return 1
    if overwrite or (known is not None and _same(there, known)):
        return there.generation + 1
    knows = "no store there" if known is None else f"generation {known.generation}"
    raise StoreChangedError(
        f"{folder} was saved by another writer: it is generation {there.generation} with "
        f"{there.count:,} documents, this store knows {knows}. Load it again and add there, save "
        "to another folder, or replace what the other wrote with overwrite=True"
    )


def load(
    folder: Path,
    *,
    read_index: Callable[[Path, Manifest], IndexT],
    accept: Callable[[Manifest], None],
    whole: bool = True,
) -> Loaded[IndexT]:
    """Read the store in `folder`, whole or not at all.

    Args:
        folder: Where it was saved.
        read_index: Reads the index file of a manifest; RuntimeError and ValueError mean damage.
        accept: Raises if the manifest's store is not wanted; called before the big files are read.
        whole: Read all of each file, to compare its SHA-256. Else their sizes must do, and a
            document is read when it is asked for, unless the store is of a format without places.

    Raises:
        StoreError: One of its kinds; the message says which file and what to do.
    """
    while True:
        manifest = manifests.read(folder)
        accept(manifest)
        try:
            return _load(folder, manifest, read_index, whole=whole)
        except DamagedStoreError:
            # Since the manifest was read, another process's save may have removed this generation.
            if manifests.read(folder).generation == manifest.generation:
                raise


def _load(
    folder: Path,
    manifest: Manifest,
    read_index: Callable[[Path, Manifest], IndexT],
    *,
    whole: bool,
) -> Loaded[IndexT]:
    index_path = verified(folder, manifest.index, whole=whole)
    documents = _load_documents(folder, manifest, whole=whole)
    try:
        index = read_index(index_path, manifest)
    except (RuntimeError, ValueError) as error:
        raise DamagedStoreError(f"{index_path} cannot be read ({error}): {REMEDY}") from error
    if index.dimension != manifest.dimension:
        raise DamagedStoreError(
            f"{index_path} has {index.dimension} dimensions, the manifest says "
            f"{manifest.dimension}: {REMEDY}"
        )
    rows = np.sort(index.rows())
    if not manifest.count == len(documents) == len(rows):
        raise DamagedStoreError(
            f"{folder} has {len(documents)} documents and {len(rows)} vectors, the manifest says "
            f"{manifest.count}: {REMEDY}"
        )
    if not np.array_equal(rows, documents.rows()):
        raise DamagedStoreError(f"{folder}: vectors and documents have different rows: {REMEDY}")
    return Loaded(manifest, documents, index)


def _load_documents(
    folder: Path, manifest: Manifest, *, whole: bool
) -> Documents | MappedDocuments:
    places = None if manifest.places is None else verified(folder, manifest.places, whole=whole)
    path = verified(folder, manifest.documents, whole=whole or places is None)
    try:
        if places is not None and not whole:
            return MappedDocuments(path, places, manifest.next_row)
        with path.open("rb") as lines:
            return parse(lines, manifest.next_row)
    except (EOFError, OSError, ValueError) as error:
        raise DamagedStoreError(f"{path}: {error}; {REMEDY}") from error


def _same(left: Manifest, right: Manifest) -> bool:
    """Say whether two manifests are of one save; a folder that is made again starts a new count."""
    return (left.generation, left.index, left.documents) == (
        right.generation,
        right.index,
        right.documents,
    )


@contextmanager
def _removed_on_failure(folder: Path, generation: int, paths: Sequence[Path]) -> Iterator[None]:
    """Remove what an unfinished save wrote; not what the manifest names, interrupted or not."""
    try:
        yield
    except BaseException:
        if not _is_saved(folder, generation):
            for path in paths:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        raise


def _is_saved(folder: Path, generation: int) -> bool:
    try:
        return manifests.read(folder).generation == generation
    except StoreNotFoundError:
        return False


def _remove_others(folder: Path, manifest: Manifest) -> None:
    """Remove other generations. What cannot be removed does no harm: the next save tries again."""
    files = (manifest.index, manifest.documents, manifest.places)
    mine = {file.name for file in files if file is not None}
    with suppress(OSError):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in mine:
                path.unlink(missing_ok=True)


__all__ = ["Loaded", "load", "save"]
