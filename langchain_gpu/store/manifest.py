"""The manifest: the one file that says which others are the store.

`format_version` says how to read it, and the files it names. A version of this package reads its
own format and all before it: `UPGRADES[n]` turns the values of a manifest of format n into those of
n + 1, one step after another, and what a step cannot know it takes from a default. Nothing is
written while a store is read: the next save writes the newest format, and the older generation goes
as any other. A newer format is refused, with the pip line, and never overwritten.

| format | since | |
|---|---|---|
| 1 | | later fields with a default (`parameters`) need no new number |
| 2 | 0.1 | `places`: where each document's line starts; without it all lines are read |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from langchain_gpu.store.errors import DamagedStoreError, StoreNotFoundError, StoreVersionError
from langchain_gpu.store.identity import Identity

NAME = "manifest.json"
FORMAT = 2
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda values: values | {"places": None},
}
REMEDY = "restore the folder from a copy, or build the store again"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the store: its name inside the folder, its size and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store is.

    Attributes:
        generation: Counts the saves into this folder; part of the files' names.
        kind: Index kind, for example `"flat"`.
        metric: `"cosine"`, `"ip"` or `"l2"`.
        dimension: Width of the vectors.
        count: Documents, and vectors.
        next_row: The row the next document gets; rows are never used twice.
        identity: The embedding model.
        index: The vectors by row.
        documents: The documents by row, as lines of JSON.
        places: Where each of these lines starts, and whose it is; None in a store of format 1.
        parameters: Numbers the kind was given, such as `nprobe`. Stores of the exact kind have
            none, and older ones lack the field.
    """

    generation: int
    kind: str
    metric: str
    dimension: int
    count: int
    next_row: int
    identity: Identity
    index: File
    documents: File
    places: File | None
    parameters: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        return json.dumps({"format_version": FORMAT, **asdict(self)}, indent=1)


def index_name(generation: int) -> str:
    """Name the index file of a generation."""
    return f"index-{generation}.faiss"


def documents_name(generation: int) -> str:
    """Name the documents file of a generation."""
    return f"documents-{generation}.jsonl"


def places_name(generation: int) -> str:
    """Name the file that says where each line of the documents starts."""
    return f"places-{generation}.npy"


def read(folder: Path) -> Manifest:
    """Read the manifest of a store.

    Raises:
        StoreNotFoundError: There is none.
        StoreVersionError: A newer version wrote it.
        DamagedStoreError: It cannot be understood, or names a file it may not name.
    """
    path = folder / NAME
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreNotFoundError(_nothing(folder)) from error
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(f"{path} is not JSON ({error}): {REMEDY}") from error
    try:
        version = _take(values, "format_version", int)
        if version > FORMAT:
            raise StoreVersionError(
                f"{path} has format {version}, this version of langchain-gpu reads up to {FORMAT}: "
                "pip install --upgrade langchain-gpu"
            )
        for older in range(version, FORMAT):
            values = UPGRADES[older](values)
        return _manifest(values)
    except (KeyError, TypeError, OverflowError) as error:
        raise DamagedStoreError(f"{path} is not a manifest ({error}): {REMEDY}") from error
    except _NotOurs as error:
        raise DamagedStoreError(f"{path} {error}: {REMEDY}") from error


class _NotOurs(Exception):  # noqa: N818 - never leaves this file
    """A manifest names a file that is not its own."""


def _manifest(values: Any) -> Manifest:
    generation = _take(values, "generation", int)
    identity = _take(values, "identity", dict)
    return Manifest(
        generation=generation,
        kind=_take(values, "kind", str),
        metric=_take(values, "metric", str),
        dimension=_take(values, "dimension", int),
        count=_take(values, "count", int),
        next_row=_take(values, "next_row", int),
        identity=Identity(
            model=_optional(identity, "model"),
            revision=_optional(identity, "revision"),
            probe=_probe(identity),
            text=_take(identity, "text", str),
        ),
        index=_file(_take(values, "index", dict), index_name(generation)),
        documents=_file(_take(values, "documents", dict), documents_name(generation)),
        places=_places(values, generation),
        parameters=_numbers(values),
    )


def _probe(values: Mapping[str, Any]) -> tuple[float, ...]:
    numbers = _take(values, "probe", list)
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("'probe' holds something other than numbers")
    return tuple(map(float, numbers))


def _places(values: Mapping[str, Any], generation: int) -> File | None:
    if values["places"] is None:
        return None
    return _file(_take(values, "places", dict), places_name(generation))


def _numbers(values: Mapping[str, Any]) -> dict[str, int]:
    if "parameters" not in values:
        return {}
    numbers = _take(values, "parameters", dict)
    return {name: _take(numbers, name, int) for name in numbers}


def _file(values: Mapping[str, Any], expected: str) -> File:
    name = _take(values, "name", str)
    if name != expected:  # so no name can lead out of the folder, or to another generation
        raise _NotOurs(f"names the file {name!r} where only {expected!r} may stand")
    return File(name, _take(values, "size", int), _take(values, "sha256", str))


def _take(values: Any, key: str, kind: type[T]) -> T:
    if not isinstance(values, dict):
        raise TypeError(f"a dictionary is needed, not {type(values).__name__}")
    value = values[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key!r} is {value!r:.60}")
    return value


def _optional(values: Mapping[str, Any], key: str) -> str | None:
    return None if values[key] is None else _take(values, key, str)


def _nothing(folder: Path) -> str:
    if (folder / "index.pkl").exists():
        return (
            f"{folder} holds a pickled store of langchain-community: move it in with "
            "FAISSVectorStore.from_community, or langchain-gpu import-faiss, which run no pickle"
        )
    return f"{folder} holds no store ({NAME} is missing): save one there with save_local"


__all__ = [
    "FORMAT",
    "NAME",
    "REMEDY",
    "UPGRADES",
    "File",
    "Manifest",
    "documents_name",
    "index_name",
    "places_name",
    "read",
]
