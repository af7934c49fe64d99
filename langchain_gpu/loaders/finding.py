"""The files below paths, in a stable order."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from langchain_gpu.loaders.reading import SUFFIXES, reason, source_name

SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A file or folder that could not be read, and why."""

    source: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies under the given paths.

    Attributes:
        files: Absolute paths, each once: sorted within a folder, folders in the order given.
        failed: Folders that could not be listed and things that are not regular files.
        left_out: How many files of other types were passed over, by suffix.
    """

    files: tuple[Path, ...]
    failed: tuple[Failure, ...]
    left_out: Mapping[str, int]


def find_files(
    paths: Iterable[str | os.PathLike[str]], *, exclude: Iterable[str | os.PathLike[str]] = ()
) -> Found:
    """Collect the files under `paths`.

    A file that is named itself is always taken, whatever its suffix. In a folder, files with a
    suffix out of `SUFFIXES` are taken; hidden files and folders (a leading dot), `node_modules`,
    `__pycache__` and virtual environments (a `pyvenv.cfg` inside) are passed over. Links to files
    are read, links to folders are not followed, so no loop can arise.

    Args:
        paths: Files and folders.
        exclude: Folders to pass over, for example the store that is being written.

    Raises:
        FileNotFoundError: One of `paths` does not exist; the message names it.
    """
    files: dict[Path, None] = {}
    failed: list[Failure] = []
    left_out: Counter[str] = Counter()
    excluded = {Path(folder).resolve() for folder in exclude}
    for given in paths:
        path = Path(os.path.abspath(given))  # noqa: PTH100 - `resolve` would follow links
        if not path.exists():
            raise FileNotFoundError(f"No such file or folder: {str(given)!r}")
        named = not path.is_dir()
        for file in [path] if named else _walk(path, excluded, failed):
            if not named and file.suffix.lower() not in SUFFIXES:
                left_out[file.suffix.lower() or "no suffix"] += 1
            elif error := _not_a_file(file):
                failed.append(Failure(source_name(file), error))
            else:
                files[file] = None
    return Found(files=tuple(files), failed=tuple(failed), left_out=dict(left_out))


def _walk(root: Path, excluded: set[Path], failed: list[Failure]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        failed.append(Failure(source_name(Path(error.filename)), reason(error)))

    for folder, subfolders, names in os.walk(root, onerror=note):
        here = Path(folder)
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".")
            and name not in SKIPPED_FOLDERS
            and not os.path.isfile(here / name / "pyvenv.cfg")  # noqa: PTH113 - Path's raises
            and not (excluded and (here / name).resolve() in excluded)
        )
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def _not_a_file(path: Path) -> str | None:
    """Say why `path` cannot be read as a file: opening a pipe or a device would wait forever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:  # a broken link, a link to itself
        return reason(error)
    return None if stat.S_ISREG(mode) else "not a regular file"
