"""Converted models, kept on disk for the next start."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def kept_folder(kind: str) -> Path:
    """Return where the models converted for the runtime `kind` lie, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "langchain-gpu" / kind


def fingerprint(path: Path, options: Mapping[str, Any], tools: tuple[ModuleType, ...]) -> str:
    """Name what a conversion depends on: the files as they are, the options, the versions."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    versions = [tool.__version__ for tool in tools]
    text = json.dumps([stats, sorted(options.items()), versions], default=str)
    return f"{path.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def make_once(
    folder: Path, make: Callable[[Path], None]
) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """Return a folder that `make` has filled: an earlier process's, or one made now.

    It appears whole or not at all. Where the cache cannot be written, a warning says so and the
    files lie in a temporary folder, which is returned too and is to be kept as long as they are
    needed.

    Args:
        folder: Where it belongs.
        make: Fills an empty folder; whatever it raises leaves no trace.
    """
    if folder.is_dir():
        return folder, None
    scratch: tempfile.TemporaryDirectory[str]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True)
    except OSError as error:
        warnings.warn(f"the converted model is not cached: {error}", RuntimeWarning, stacklevel=2)
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
        try:
            made.rename(folder)
        except OSError:  # another process was faster; its files are as good
            if not folder.is_dir():
                raise
    return folder, None
