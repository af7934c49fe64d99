"""Converted models, cached on disk for the next start."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from langchain_gpu.events import users_line

logger = logging.getLogger(__name__)
_LIST = "files.json"  # what a folder holds, in bytes by name
_SCRATCH = ".making-"  # how the names of folders that are being filled begin
_DAY = 24 * 3600
_ABANDONED = _DAY  # seconds without a write: no conversion takes so long
_UNUSED = 90 * _DAY  # of another model, or for other versions of the tools than those in use


def conversion_folder(kind: str) -> Path:
    """Return where the models converted for the runtime `kind` lie, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "langchain-gpu" / kind


def fingerprint(path: Path, options: Mapping[str, Any], versions: Sequence[str]) -> str:
    """Return a name for all that a conversion depends on: files, options, versions of the tools."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([stats, sorted(options.items()), list(versions)], default=str)
    return f"{path.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def make_once(
    folder: Path, make: Callable[[Path], None]
) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """Return a folder that `make` has filled: an earlier process's, or one made now.

    The folder appears atomically; one that has lost files since is made again. Where the cache
    cannot be written, a warning says so and the files are in a temporary folder, which is returned
    too and must be kept as long as they are needed.

    Args:
        folder: Where it belongs.
        make: Fills an empty folder; whatever it raises leaves no trace.
    """
    _mark_used(folder)
    if _whole(folder):
        return folder, None
    if folder.is_dir():
        logger.warning("the converted model in %s is damaged; it is made again", folder)
    scratch: tempfile.TemporaryDirectory[str]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        scratch = tempfile.TemporaryDirectory(
            prefix=_SCRATCH, dir=folder.parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        warnings.warn(
            f"the converted model is not cached: {error}", RuntimeWarning, stacklevel=users_line()
        )
        scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        try:
            make(Path(scratch.name))
        except BaseException:
            scratch.cleanup()
            raise
        return Path(scratch.name), scratch
    with scratch:
        made = Path(scratch.name) / "made"
        made.mkdir()
        make(made)
        _seal(made)
        if folder.is_dir() and not _whole(folder):
            with suppress(OSError):  # another process was faster
                folder.rename(made.with_name("damaged"))
        try:
            made.rename(folder)
        except OSError:  # another process was faster; its files are as good
            if not _whole(folder):
                raise
    return folder, None


def _mark_used(folder: Path) -> None:
    with suppress(OSError):  # it is not made yet, or may not be written
        os.utime(folder / _LIST)


def _sweep(home: Path) -> None:
    """Remove what killed processes have left behind, and models that nobody has used for long.

    A process that still computes with such a model has it in memory, or its files open.
    """
    for sealed in home.glob(f"*/{_LIST}"):
        with suppress(OSError):  # another process removed it
            if time.time() - sealed.stat().st_mtime > _UNUSED:
                logger.info("%s was not used for 90 days, and is removed", sealed.parent)
                shutil.rmtree(sealed.parent, ignore_errors=True)
    for folder in home.glob(f"{_SCRATCH}*"):
        with suppress(OSError):  # another process removed it
            last = max(each.stat().st_mtime for each in (folder, *folder.rglob("*")))
            if folder.is_dir() and time.time() - last > _ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Flush the files to the disk, and store their sizes."""
    sizes = {}
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())  # else power lost later leaves names without contents
        sizes[file.relative_to(folder).as_posix()] = file.stat().st_size
    with (folder / _LIST).open("w", encoding="utf-8") as opened:
        json.dump(sizes, opened)
        opened.flush()
        os.fsync(opened.fileno())


def _whole(folder: Path) -> bool:
    """Whether a folder holds all its files in the sizes in which they were written.

    Power failures, full disks and tools that clear caches by age remove some.
    """
    try:
        sizes = json.loads((folder / _LIST).read_text("utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False
