"""Read the header of a safetensors file.

The header is JSON of a fixed shape: it is read one entry at a time, so that a hostile one of up to
100 MB cannot grow into gigabytes of Python objects, as `json.loads` of the whole would let it. (The
`safetensors` library checks the same things in Rust, but maps the file and needs it on this disk;
huggingface_hub's `parse_safetensors_file_metadata` checks only that it is JSON.)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from langchain_gpu.models.info import HeaderError

_MAX_HEADER = 100_000_000  # the safetensors library's own limit
_MAX_DIMENSIONS = 64
_MAX_SHARDS = 10_000
BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one number, by the file's word for its type."""

_TEXT = rb'"(?:[^"\\]|\\.)*+"'
_NAME = re.compile(rb"\s*+(" + _TEXT + rb")\s*+:\s*+", re.DOTALL)
_ENTRY = re.compile(rb"\{[^{}]{0,4096}+\}")
_NOTES = re.compile(
    rb"\{\s*+(?:" + _TEXT + rb"\s*+:\s*+" + _TEXT + rb"\s*+(?:,\s*+(?=\")|(?=\})))*+\}",
    re.DOTALL,
)
_NEXT = re.compile(rb"\s*+([,}])")


@dataclass(frozen=True, slots=True)
class StTensor:
    """One tensor's entry in a header.

    Attributes:
        dtype: The file's word, one of `BITS`.
        shape: Rows first.
        params: Numbers in it, as stored.
        bytes: What it takes in the file.
        offset: Where it begins, counted from the end of the header.
    """

    dtype: str
    shape: tuple[int, ...]
    params: int
    bytes: int
    offset: int


def parse_st_header(file: BinaryIO, *, size: int, name: str) -> dict[str, StTensor]:
    """Read a header from an open file, from its present place: its first byte.

    Args:
        file: Read forward only, up to the end of the header.
        size: Bytes of the whole file.
        name: What errors call it.

    Raises:
        HeaderError: The file is cut short, damaged, or has a type that is not known here.
    """
    length = int.from_bytes(_read(file, 8, name) if size >= 8 else b"\xff" * 8, "little")  # noqa: PLR2004
    if length > min(size - 8, _MAX_HEADER):
        raise _error(name, f"it claims {length:,} bytes, the file has {size:,}")
    text = _read(file, length, name)
    tensors = _entries(text, name)
    end = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].bytes)):
        if tensor.offset != end:
            raise _error(name, f"{key!r} begins at {tensor.offset:,}; the one before ends at {end}")
        end += tensor.bytes
    if 8 + length + end != size:
        raise HeaderError(
            f"{name}: its tensors end at byte {8 + length + end:,}, the file at {size:,}: it is "
            f"cut short or was changed. Download it again."
        )
    return tensors


def parse_index(text: bytes, *, name: str) -> list[str]:
    """Return the shards that an index file (`model.safetensors.index.json`) names, sorted.

    Raises:
        HeaderError: It is no JSON, names no shards, or one that lies outside its folder.
    """
    index = parse_json(text, name=name)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise HeaderError(f"{name} has no weight_map: the field that names the weight files")
    if odd := [shard for shard in shards.values() if not isinstance(shard, str)]:
        raise HeaderError(f"{name}: weight_map names a {type(odd[0]).__name__}, no file")
    files = sorted(set(shards.values()))
    if len(files) > _MAX_SHARDS:
        raise HeaderError(f"{name} names {len(files):,} files; {_MAX_SHARDS:,} are the limit")
    for file in files:
        path = PurePosixPath(file)
        if (
            path.is_absolute()
            or ".." in path.parts
            or re.search(r"[\\:\x00]", file)
            or not file.endswith(".safetensors")
        ):
            raise HeaderError(f"{name}: weight_map names {file!r}, no .safetensors of its folder")
    return files


def parse_json(text: bytes, *, name: str) -> dict[str, Any]:
    """Parse a small JSON object, such as a configuration.

    Raises:
        HeaderError: It is no JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # nesting deeper than Python's stack
        raise HeaderError(f"{name} is no JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise HeaderError(f"{name} holds no JSON object")
    return found


def _entries(text: bytes, name: str) -> dict[str, StTensor]:
    tensors: dict[str, StTensor] = {}
    at = len(text) - len(text.lstrip())
    if text[at : at + 1] != b"{":
        raise _error(name, "it does not begin with {")
    at += 1
    more = not re.compile(rb"\s*+\}").match(text, at)
    if not more:
        at = text.index(b"}", at) + 1
    seen_notes = False
    while more:
        key_match = _NAME.match(text, at)
        if key_match is None:
            raise _error(name, f"no tensor's name at its byte {at:,}")
        key = _decode(key_match[1], name)
        notes = key == "__metadata__" and not seen_notes
        body = (_NOTES if notes else _ENTRY).match(text, key_match.end())
        behind = _NEXT.match(text, body.end()) if body else None
        if body is None or behind is None:
            raise _error(name, f"{str(key)[:200]!r} has a malformed entry")
        if not isinstance(key, str) or key in tensors:
            raise _error(name, f"{str(key)[:200]!r} appears in it twice")
        if notes:
            seen_notes = True
        else:
            tensors[key] = _tensor(key, _decode(body[0], name), name)
        at, more = behind.end(), behind[1] == b","
    if text[at:].strip():
        raise _error(name, f"something follows its end at byte {at:,}")
    return tensors


def _tensor(key: str, entry: Any, name: str) -> StTensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise _error(name, f"{key!r} lacks its dtype, shape or data_offsets") from error
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _error(name, f"{key!r} has the type {dtype!r}, which is not known here")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        raise _error(name, f"{key!r} has no shape")
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise _error(name, f"{key!r} has a size or an offset that is not a whole number")
    params = math.prod(shape)
    if params * bits != 8 * (end - start):
        raise _error(name, f"{key!r}: {shape} of {dtype} does not take {end - start:,} bytes")
    return StTensor(dtype, tuple(shape), params, end - start, start)


def _decode(piece: bytes, name: str) -> Any:
    try:
        return json.loads(piece)
    except (ValueError, RecursionError) as error:
        raise _error(name, f"it is no JSON: {str(error)[:200]}") from error


def _read(file: BinaryIO, count: int, name: str) -> bytes:
    pieces = []
    while count:
        piece = file.read(min(count, 1 << 20))
        if not piece:
            raise _error(name, "the file ends within it")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _error(name: str, reason: str) -> HeaderError:
    return HeaderError(f"{name} has no header that can be read: {reason}")


__all__ = ["BITS", "StTensor", "parse_index", "parse_json", "parse_st_header"]
