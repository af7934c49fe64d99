"""Files of a store: written with fsync, checked by size and SHA-256."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.store.errors import DamagedStoreError
from langchain_gpu.store.manifest import REMEDY, File

_LINES = 1024  # lines a write: a system call each would cost more than the encoding


def write_lines(path: Path, lines: Iterator[bytes]) -> NDArray[np.int64]:
    """Write lines; return where each of them ends, in bytes. Shape (lines,)."""
    sizes = array("q")
    with path.open("wb") as file:
        while block := list(islice(lines, _LINES)):
            file.write(b"".join(block))
            sizes.extend(map(len, block))
    return np.cumsum(np.array(sizes, dtype=np.int64))


def seal(path: Path) -> File:
    """Flush a written file to the disk; return its entry for the manifest."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return digest(path, path.name)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, the names of its files, to the disk."""
    if os.name == "nt":  # Windows has no handle of a folder to sync
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verified(folder: Path, file: File, *, whole: bool = True) -> Path:
    """Return the path of a file, after a check that it is as it was written.

    Args:
        folder: Where it is.
        file: What the manifest keeps of it.
        whole: Read all of it, to compare its SHA-256. Else its size must do.

    Raises:
        DamagedStoreError: It is missing, or not what was written.
    """
    path = folder / file.name
    try:
        found = digest(path, file.name) if whole else replace(file, size=path.stat().st_size)
    except OSError as error:
        raise DamagedStoreError(f"{path} is missing or unreadable ({error}): {REMEDY}") from error
    if found.size != file.size:
        raise DamagedStoreError(
            f"{path} has {found.size} bytes, {file.size} were written: it is cut off or replaced; "
            f"{REMEDY}"
        )
    if found.sha256 != file.sha256:
        raise DamagedStoreError(f"{path} is not what was written (its SHA-256 differs): {REMEDY}")
    return path


def digest(path: Path, name: str) -> File:
    """Read a file; return what a manifest keeps of it, under that name."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return File(name, file.tell(), sha256)


__all__ = ["digest", "seal", "sync_folder", "verified", "write_lines"]
