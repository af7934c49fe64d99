"""Read the header of a GGUF file.

A file from the internet may claim anything. Here every length is compared with what is left of the
file before a byte of it is read, so a damaged or hostile file costs at most one pass over its own
bytes, of which a head may have 256 MiB. The `gguf` package's own `GGUFReader` maps the file and
trusts its counts: in a file of 100 bytes a list that claims 2**40 numbers keeps it looping, and a
cut one ends in an IndexError.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from langchain_gpu.models.bounded_reader import BoundedReader
from langchain_gpu.models.ggml_types import GGML_TYPES
from langchain_gpu.models.info import HeaderError

MAGIC = b"GGUF"
"""First bytes of every GGUF file."""
VERSIONS = (2, 3)
"""Versions of the format that are known here and to llama.cpp."""
_FORMS = {
    kind: struct.Struct("<" + form)
    for kind, form in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_MAX_KEY = 65_535
_MAX_NAME = 1_024  # llama.cpp itself takes 63 bytes
_MAX_TEXT = 16 << 20  # the longest texts are chat templates and licences
_MAX_ITEMS = 4_096  # lists of numbers kept: one number a layer; a vocabulary's scores are not
_MAX_ITEMS_IN_ALL = 1 << 18
_MAX_HEAD = 256 << 20  # the largest vocabularies take some 20 MB
_MAX_ENTRIES = 200_000  # keys, or tensors; the largest models have a few thousand
_MAX_DIMENSIONS = 4
_MAX_DEPTH = 4
_ALIGNMENT = 32
_KEY_BYTES, _TENSOR_BYTES = 13, 24  # the shortest there can be


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor's entry in a head.

    Attributes:
        shape: Sizes as they lie in the file: columns, then rows.
        type: Name of its ggml type, for example `"Q4_K"`.
        params: Numbers in it.
        bytes: What it takes in the file, without padding.
        offset: Where it begins, counted from the end of the head.
    """

    shape: tuple[int, ...]
    type: str
    params: int
    bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a GGUF file.

    Attributes:
        facts: What it says, by key, for example `"general.architecture"`; of lists only those of up
            to 4,096 numbers are kept (262,144 in all), as tuples.
        weights: Its tensors by name.
        lengths: How long each list is, by key: the vocabulary's for example.
        data_start: Where the tensors' bytes begin.
    """

    facts: Mapping[str, Any]
    weights: Mapping[str, GgufTensor]
    lengths: Mapping[str, int] = field(default_factory=dict)
    data_start: int = 0

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its weights by name, as they lie in the file: columns, then rows."""
        return {name: tensor.shape for name, tensor in self.weights.items()}


def read_head(path: Path) -> Head:
    """Read the head of a GGUF file of version 2 or 3 on this machine.

    Raises:
        HeaderError: The file is cut short, damaged, big-endian, or of a version or with a tensor
            type that is not known here.
    """
    with path.open("rb") as file:
        return parse_head(file, size=path.stat().st_size, name=path.name)


def parse_head(file: BinaryIO, *, size: int, name: str) -> Head:
    """Read a head from an open file, from its present place: its first byte.

    Args:
        file: Read forward only, in pieces of up to 1 MiB, up to the end of the head.
        size: Bytes of the whole file.
        name: What errors call it.

    Raises:
        HeaderError: See `read_head`.
    """
    return _Parser(file, size, name).parse()


class _Parser(BoundedReader):
    """Walks over a head from its first byte."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        super().__init__(file, min(size, _MAX_HEAD), name)
        self._whole_size = size
        self._text_left = 4 * _MAX_TEXT
        self._items_left = _MAX_ITEMS_IN_ALL

    def parse(self) -> Head:
        tensors, keys = self._preamble()
        facts: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for _ in range(keys):
            key = self.text(_MAX_KEY, "a key")
            if key in facts or key in lengths:
                raise self.error(f"the key {key!r} appears in it twice")
            kind = self.uint32()
            if kind == _ARRAY:
                lengths[key], items = self._array(key)
                if items is not None:
                    facts[key] = items
            elif kind == _STRING:
                facts[key] = self.text(min(_MAX_TEXT, self._text_left), f"the text of {key!r}")
                self._text_left -= len(facts[key])
            else:
                facts[key] = self._number(kind, key)
        weights: dict[str, GgufTensor] = {}
        for _ in range(tensors):
            name = self.text(_MAX_NAME, "a tensor's name")
            if name in weights:
                raise self.error(f"the tensor {name!r} appears in it twice")
            weights[name] = self._tensor(name)
        start = self._check_places(weights, facts)
        return Head(facts, weights, lengths, start)

    def _preamble(self) -> tuple[int, int]:
        magic = self.take(4)
        if magic != MAGIC:
            raise self.error(f"it begins with {magic!r}, not with {MAGIC!r}")
        version = self.uint32()
        if version & 0xFFFF == 0:
            raise self.error("it is big-endian; convert it with gguf-convert-endian of `gguf`")
        if version not in VERSIONS:
            raise self.error(f"its version is {version}; versions 2 and 3 are known")
        tensors, keys = self.uint64(), self.uint64()
        for what, count, least in (("tensors", tensors, _TENSOR_BYTES), ("keys", keys, _KEY_BYTES)):
            if count > _MAX_ENTRIES or count * least > self.left():
                raise self.error(f"it claims {count:,} {what}, more than it has room for")
        return tensors, keys

    def _tensor(self, name: str) -> GgufTensor:
        dimensions = self.uint32()
        if dimensions > _MAX_DIMENSIONS:
            raise self.error(f"{name!r} claims {dimensions} dimensions; ggml has 4 at most")
        shape = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))
        kind, offset = self.uint32(), self.uint64()
        known = GGML_TYPES.get(kind)
        if known is None:
            raise self.error(f"{name!r} has the tensor type {kind}, which is not known here")
        params = math.prod(shape)
        if (shape[0] if shape else 1) % known.block:
            raise self.error(f"{name!r}: rows of {shape[:1]} are not whole blocks of {known.name}")
        return GgufTensor(shape, known.name, params, params // known.block * known.bytes, offset)

    def _check_places(self, weights: Mapping[str, GgufTensor], facts: Mapping[str, Any]) -> int:
        """Every tensor lies inside the file and on no other; returns where the first may lie."""
        alignment = facts.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self.error(f"general.alignment is {alignment!r}, not a power of two")
        start = -(-self.position() // alignment) * alignment
        end = 0
        for name, tensor in sorted(weights.items(), key=lambda item: item[1].offset):
            if tensor.offset < end or tensor.offset % alignment:
                raise self.error(f"{name!r} overlaps another tensor, or is not aligned")
            end = tensor.offset + tensor.bytes
            if start + end > self._whole_size:
                raise HeaderError(
                    f"{self.name} is cut short: {name!r} ends at byte {start + end:,}, the file "
                    f"at {self._whole_size:,}. Download it again."
                )
        return start

    def _array(self, key: str) -> tuple[int, tuple[Any, ...] | None]:
        """Return a list's length, and its numbers if they are few."""
        inner, count = self._array_head(key)
        form = _FORMS.get(inner)
        if form is not None and count <= min(_MAX_ITEMS, self._items_left):
            self._items_left -= count
            data = self.take(count * form.size)
            return count, tuple(value for (value,) in form.iter_unpack(data))
        waiting = [(inner, count)]
        while waiting:
            if len(waiting) > _MAX_DEPTH:
                raise self.error(f"the lists of {key!r} are nested more than {_MAX_DEPTH} deep")
            kind, left = waiting.pop()
            if kind in _FORMS:
                self.skip(left * _FORMS[kind].size)
            elif kind == _STRING:
                self.skip_texts(left, key)
            elif left:
                waiting += [(kind, left - 1), self._array_head(key)]
        return count, None

    def _array_head(self, key: str) -> tuple[int, int]:
        inner, count = self.uint32(), self.uint64()
        if inner in _FORMS:
            least = _FORMS[inner].size
        elif inner in {_STRING, _ARRAY}:
            least = 8 if inner == _STRING else 12
        else:
            raise self.error(f"the list {key!r} holds values of the unknown type {inner}")
        if count * least > self.left():
            raise self.error(f"the list {key!r} claims {count:,} items, more than it has room for")
        return inner, count

    def _number(self, kind: int, key: str) -> Any:
        form = _FORMS.get(kind)
        if form is None:
            raise self.error(f"{key!r} has a value of the unknown type {kind}")
        return form.unpack(self.take(form.size))[0]


__all__ = ["MAGIC", "VERSIONS", "GgufTensor", "Head", "parse_head", "read_head"]
