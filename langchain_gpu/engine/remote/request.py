"""The items of one request, and their positions in the caller's sequence."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.servers.errors import BadAnswerError

# The server tokenizes; these lengths only sort texts and fill reports. English has 4 to 5
# characters per token, and most models add two special tokens.
_CHARACTERS_PER_TOKEN = 4
_SPECIAL = 2

_KINDS = ("query", "document")


def estimate(texts: Sequence[str]) -> NDArray[np.int64]:
    """Guess the tokens of each text. Shape (texts,)."""
    characters = np.fromiter(map(len, texts), np.int64, len(texts))
    return characters // _CHARACTERS_PER_TOKEN + _SPECIAL


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        inputs: Texts, or rows of token ids.
        positions: Where they stand in the caller's sequence.
        options: How they are to be read.
        what: What an error calls one of them.
        suspected: A server that answers others failed with it: if it fails again, that is an
            answer, and it need not be asked over and over.
    """

    inputs: Sequence[Any]
    positions: Sequence[int]
    options: EmbedOptions
    what: str = "text"
    suspected: bool = False

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, part: slice) -> Request:
        return replace(self, inputs=self.inputs[part], positions=self.positions[part])


PROBE = Request(["dimension"], [0], EmbedOptions())
"""The first text a server is sent: it shows the model, the width and the form of its answers."""


@dataclass(frozen=True, slots=True)
class Items:
    """Everything that was given at once, from which requests take their part.

    Attributes:
        inputs: Texts, or rows of token ids.
        options: How they are to be read.
        start: Position of the first in the caller's sequence.
        what: What an error calls one of them.
    """

    inputs: Sequence[Any]
    options: EmbedOptions
    start: int
    what: str = "text"

    def request(self, rows: Sequence[int]) -> Request:
        """Take some of them."""
        inputs = [self.inputs[row] for row in rows]
        return Request(inputs, [self.start + row for row in rows], self.options, self.what)


@dataclass(frozen=True, slots=True)
class Fields:
    """More fields of a request's body, as the user wants them.

    Attributes:
        always: For every text.
        by_kind: For texts of the kinds `"query"` and `"document"`, on top of those.
    """

    always: Mapping[str, Any]
    by_kind: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, options: Mapping[str, Any], reserved: frozenset[str]) -> Fields:
        """Read a user's options.

        Raises:
            ValueError: An option is not the user's to set.
            TypeError: The value of a kind is not a mapping.
        """
        by_kind = {kind: options.get(kind) or {} for kind in _KINDS}
        for kind, fields in by_kind.items():
            if not isinstance(fields, Mapping):
                raise TypeError(f"the option {kind!r} must hold fields for texts of that kind")
        always = {name: value for name, value in options.items() if name not in _KINDS}
        for name in (name for fields in (always, *by_kind.values()) for name in fields):
            if name in reserved:
                raise ValueError(f"the option {name!r} is set by the encoder; leave it out")
        return cls(always, by_kind)

    def of_kind(self, kind: str | None) -> dict[str, Any]:
        """Return the fields for texts of this kind."""
        return {**self.always, **self.by_kind.get(kind or "", {})}


def read_vectors(rows: Sequence[Any], count: int, host: str) -> NDArray[np.float32]:
    """Read the vectors of an answer: lists of numbers, or base64 of little-endian float32.

    Args:
        rows: What stands where the vectors should be.
        count: How many there must be, at least one.
        host: Who answered, for the error.

    Returns:
        Shape (count, columns).

    Raises:
        BadAnswerError: They are not as many, or cannot be read.
    """
    if len(rows) != count:
        raise BadAnswerError(f"{host} returned {len(rows)} vectors for {count} texts")
    try:
        if isinstance(rows[0], str):
            data = [base64.b64decode(row, validate=True) for row in rows]
            return np.stack([np.frombuffer(each, "<f4") for each in data]).astype(np.float32)
        if not all(isinstance(row, list) for row in rows):
            raise ValueError("a vector is not a list of numbers")  # noqa: TRY301
        return np.array(rows, np.float32)
    except (ValueError, TypeError) as error:  # base64's own error is a ValueError
        raise BadAnswerError(f"{host} returned vectors that cannot be read: {error}") from None
