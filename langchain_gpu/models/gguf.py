"""What a GGUF file says of itself, without loading it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a GGUF file.

    Attributes:
        facts: What it says, by key, for example `"general.architecture"`; lists are left out.
        tensors: Shapes of its weights by name, as they lie in the file: columns, then rows.
    """

    facts: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]


def read_head(path: Path) -> Head:
    """Read the head of a GGUF file of version 2 or 3.

    Raises:
        ValueError: The file ends within its head, or the head holds something unknown.
    """
    facts: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with path.open("rb") as file:
        try:
            _, _, tensors, count = struct.unpack("<4sIQQ", file.read(24))
            for _ in range(count):
                name = _string(file)
                value = _value(file, *struct.unpack("<I", file.read(4)))
                if value is not None:
                    facts[name] = value
            for _ in range(tensors):
                name = _string(file)
                (sizes,) = struct.unpack("<I", file.read(4))
                shapes[name] = struct.unpack(f"<{sizes}Q", file.read(8 * sizes))
                struct.unpack("<IQ", file.read(12))  # its type and its place
        # A damaged length is larger than any memory.
        except (struct.error, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
            raise ValueError(f"{path.name} has no head that can be read: {error!r}") from error
    return Head(facts, shapes)


def _string(file: BinaryIO) -> str:
    return file.read(*struct.unpack("<Q", file.read(8))).decode()


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _FORMS:
            file.seek(count * struct.calcsize("<" + _FORMS[inner]), 1)
        else:
            for _ in range(count):
                _value(file, inner)
        return None
    form = "<" + _FORMS[kind]
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]
