"""A lock for one writer of a folder at a time, among threads, processes and machines.

The operating system holds the lock and releases it when a process ends, however it ends: there are
no stale locks. The lock file stays, as two writers could get in while it is removed. Readers need
no lock: a file that a manifest names is never written to again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from langchain_gpu.events import GPUWarning, users_line
from langchain_gpu.store.errors import StoreLockedError
from langchain_gpu.utils.extras import require

NAME = ".lock"
TIMEOUT = 60.0  # seconds; a save of millions of documents takes less


@contextmanager
def locked(folder: Path, timeout: float = TIMEOUT) -> Iterator[None]:
    """Keep other writers out of a folder that exists.

    Args:
        folder: The folder.
        timeout: Seconds to wait for another writer.

    Raises:
        StoreLockedError: Another writer still held the lock.
        OSError: The folder cannot be written.
        ImportError: filelock is not installed.
    """
    filelock = require("filelock", extra="faiss")
    lock = filelock.FileLock(folder / NAME, timeout=timeout)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise StoreLockedError(
            f"another process has been saving to {folder} for {timeout:g} seconds: try again, or "
            "save to another folder; timeout=... waits longer"
        ) from error
    except NotImplementedError:
        warnings.warn(
            f"the file system of {folder} has no locks: nothing keeps two processes from saving to "
            "it at once",
            GPUWarning,
            stacklevel=users_line(),
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()


__all__ = ["NAME", "TIMEOUT", "locked"]
