"""Documents to be added, with all checks that need no embedding."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from langchain_gpu.store.errors import DocumentError
from langchain_gpu.store.json_text import decode, encode

_BAD_JSON = (TypeError, ValueError, RecursionError)


class Batch(NamedTuple):
    """Documents in columns: lists of the same length.

    Attributes:
        ids: Unique in what is to be stored; random where none was given.
        texts: One for each id.
        metadata: JSON, one for each id.
    """

    ids: list[str]
    texts: list[str]
    metadata: list[str]

    def name(self, position: int) -> str:
        """Name a document in an error."""
        return f"document {position} (id {self.ids[position]!r})"


def check(
    texts: Iterable[str],
    metadatas: Iterable[dict[str, Any] | None] | None = None,
    ids: Iterable[str | None] | None = None,
) -> Batch:
    """Check documents, and give ids to those that have none.

    Raises:
        TypeError: A text or an id is not a string, or a string was given for the list of them.
        DocumentError: The numbers differ, an id appears twice, or metadata is not JSON.
    """
    texts = strings(texts, "text")
    if metadatas is None:
        metadata = ["{}"] * len(texts)
    else:
        metadata = [encode_metadata(value, position) for position, value in enumerate(metadatas)]
        _check_count(len(texts), len(metadata), "metadatas")
    if ids is None:
        ids = random_ids(len(texts))
    else:
        given = _listed(ids)
        _check_count(len(texts), len(given), "ids")
        fresh = iter(random_ids(sum(id_ is None for id_ in given)))
        ids = strings([next(fresh) if id_ is None else id_ for id_ in given], "id")
    if len(set(ids)) != len(ids):
        raise _repeated(ids)
    return Batch(ids, texts, metadata)


def strings(values: Iterable[Any], what: str) -> list[str]:
    """Return `values` as a list of strings; `what` is each of them called.

    Raises:
        TypeError: One is not a string, or a single string was given for the list of them.
    """
    found = _listed(values)
    if set(map(type, found)) <= {str}:
        return found
    for position, value in enumerate(found):
        if not isinstance(value, str):
            raise TypeError(f"{what} {position} is {type(value).__name__}, not str: {value!r:.60}")
    return found


def random_ids(count: int) -> list[str]:
    """Return `count` ids of 128 random bits, drawn at once: `uuid4` costs a system call each."""
    digits = secrets.token_hex(16 * count)
    return [digits[start : start + 32] for start in range(0, 32 * count, 32)]


def encode_metadata(metadata: Any, position: int) -> str:
    """Return metadata as JSON text that decodes to an equal dictionary.

    Dates and datetimes stay what they are, and NumPy's numbers become Python's.

    Raises:
        DocumentError: It does not: a key that is not a string, a tuple, NaN, any other object.
    """
    if metadata is None:
        return "{}"
    if not isinstance(metadata, dict):
        kind = type(metadata).__name__
        raise DocumentError(f"the metadata of document {position} is a {kind}, not a dictionary")
    if not metadata:
        return "{}"
    try:
        text = encode(metadata)
        if decode(text) == metadata:  # JSON turns 1 into "1" as a key and (1, 2) into [1, 2]
            return text
    except _BAD_JSON:
        pass
    raise _not_json(metadata, position)


def decode_metadata(text: str) -> dict[str, Any]:
    """Return a fresh dictionary."""
    if text == "{}":
        return {}
    metadata: dict[str, Any] = decode(text)
    return metadata


def _not_json(metadata: dict[Any, Any], position: int) -> DocumentError:
    remedy = "keep str, int, float, bool, None, dates, and lists and dictionaries of them"
    for key, value in metadata.items():
        if not isinstance(key, str):
            return DocumentError(
                f"the metadata of document {position} has the key {key!r}, which is not a string"
            )
        try:
            text = encode({key: value})
            why = None if decode(text) == {key: value} else "JSON would change it"
        except _BAD_JSON as error:
            why = str(error)
        if why is not None:
            kind = type(value).__name__
            return DocumentError(
                f"the metadata of document {position} is not JSON at key {key!r} ({kind}): {why}; "
                f"{remedy}"
            )
    return DocumentError(f"the metadata of document {position} is not JSON; {remedy}")


def _listed(values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str | bytes):
        raise TypeError(f"a list is needed, not a single {type(values).__name__}: {values!r:.60}")
    return list(values)


def _check_count(wanted: int, given: int, what: str) -> None:
    if wanted != given:
        raise DocumentError(f"{wanted} texts came with {given} {what}")


def _repeated(ids: Sequence[str]) -> DocumentError:
    seen: dict[str, int] = {}
    for position, id_ in enumerate(ids):
        if id_ in seen:
            return DocumentError(
                f"the id {id_!r} appears twice in one call, for documents {seen[id_]} and "
                f"{position}: the second would replace the first; drop one, or give them two ids"
            )
        seen[id_] = position
    raise AssertionError("no id comes twice")


__all__ = [
    "Batch",
    "check",
    "decode_metadata",
    "encode_metadata",
    "random_ids",
    "strings",
]
