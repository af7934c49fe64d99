"""Foreign metadata, converted to what JSON can hold.

Its size is counted on the way: objects that are shared are small in a pickle, and large as JSON.
"""

from __future__ import annotations

import math
from datetime import date
from typing import Any

from langchain_gpu.store.errors import DocumentError
from langchain_gpu.store.pickled import Limits, RefusedPickleError, Thing

_ALLOWANCE = 16 << 20  # bytes a small file may grow to, whatever it is


class Plain:
    """Converts the metadata of documents, one by one.

    Attributes:
        listed: Documents in whose metadata something became a list.
    """

    def __init__(self, limits: Limits, size: int | None) -> None:
        """Start counting.

        Args:
            limits: How much is taken.
            size: Bytes of the file it comes from, None if it comes from none.
        """
        self.listed = 0
        self._limits = limits
        self._left = math.inf if size is None else _ALLOWANCE + limits.growth * size
        self._values = 0
        self._found_others = False

    def add(self, size: int) -> None:
        """Count bytes that will be written.

        Raises:
            RefusedPickleError: They are far more than were read.
        """
        self._left -= size
        if self._left < 0:
            raise RefusedPickleError(
                f"the documents are more than {self._limits.growth} times what the file holds, by "
                "pointing to the same parts again and again; Limits(growth=...) allows more"
            )

    def take(self, metadata: Any, id_: str) -> dict[str, Any]:
        """Return a document's metadata as what JSON can hold.

        Raises:
            DocumentError: It holds something else.
            RefusedPickleError: It is too deep or too large.
        """
        if not isinstance(metadata, dict):
            raise DocumentError(
                f"the metadata of document {id_!r} is a {type(metadata).__name__}, not a dictionary"
            )
        self._values, self._found_others = 0, False
        try:
            taken = self._take(metadata, self._limits.depth)
        except _NotPlainError as error:
            raise DocumentError(
                f"the metadata of document {id_!r} {error}; metadata=function says what to keep "
                "instead"
            ) from error
        self.listed += self._found_others
        return taken  # type: ignore[no-any-return]

    def _take(self, value: Any, depth: int) -> Any:
        self._values += 1
        if self._values > self._limits.values:
            raise RefusedPickleError(f"a document has more than {self._limits.values:,} values")
        if value is None or isinstance(value, bool):
            self.add(16)
            return value
        if isinstance(value, str):
            self.add(len(value) + 16)
            return value
        if isinstance(value, date):  # a datetime is one
            self.add(64)
            return value
        if isinstance(value, int | float):
            if not math.isfinite(value):
                raise _NotPlainError(f"holds {value}, which JSON does not have")
            self.add(16)
            return value
        if not depth:
            raise RefusedPickleError(f"metadata is more than {self._limits.depth} levels deep")
        self.add(16)
        if isinstance(value, dict):
            return {self._key(key): self._take(inner, depth - 1) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            self._found_others |= not isinstance(value, list)
            values = value if isinstance(value, list | tuple) else sorted(value, key=repr)
            return [self._take(inner, depth - 1) for inner in values]
        kind = value.name if isinstance(value, Thing) else type(value).__name__
        raise _NotPlainError(f"holds a {kind}, which JSON does not have")

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise _NotPlainError(f"has the key {key!r:.60}, which is not a string")
        self.add(len(key))
        return key


class _NotPlainError(Exception):
    """A value that JSON cannot hold."""


__all__ = ["Plain"]
