"""GGUF files written by hand: any key, any tensor type, no weights worth the name."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from langchain_gpu.models.ggml_types import GGML_TYPES

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
ALIGNMENT = 32
_FORMS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?", UINT64: "<Q"}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value_of(value: Any) -> bytes:
    """A value with its type in front; lists take the type of their first item."""
    kind, body = _pack(value)
    return struct.pack("<I", kind) + body


def _pack(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return UINT32, struct.pack("<I", value)
    if isinstance(value, float):
        return FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return STRING, text(value)
    packed = [_pack(item) for item in value]
    kind = packed[0][0] if packed else UINT32
    return ARRAY, struct.pack("<IQ", kind, len(packed)) + b"".join(body for _, body in packed)


def gguf(
    facts: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, tuple[int, ...]]],
    *,
    version: int = 3,
) -> bytes:
    """A whole file: `tensors` are ggml types and shapes by name; their bytes are zeros."""
    head, rest = head_and_rest(facts, tensors, version=version)
    return head + bytes(rest)


def head_and_rest(
    facts: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, tuple[int, ...]]],
    *,
    version: int = 3,
) -> tuple[bytes, int]:
    """What stands in front of the tensors' bytes, and how many of these there are."""
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(facts))
    for key, value in facts.items():
        head += text(key) + value_of(value)
    offset = 0
    for name, (kind, shape) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        size = math.prod(shape) // GGML_TYPES[kind].block * GGML_TYPES[kind].bytes
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    return head + bytes(-len(head) % ALIGNMENT), offset


def decoder(
    architecture: str = "llama",
    facts: Mapping[str, Any] | None = None,
    *,
    layers: int = 2,
    kind: int = 8,
    tied: bool = True,
) -> tuple[dict[str, Any], dict[str, tuple[int, tuple[int, ...]]]]:
    """Facts and tensors of a small decoder: hidden 64, heads 4, vocabulary 96."""
    told = {
        "general.architecture": architecture,
        f"{architecture}.block_count": layers,
        f"{architecture}.embedding_length": 64,
        f"{architecture}.feed_forward_length": 128,
        f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 2,
        f"{architecture}.context_length": 512,
    }
    told |= {
        key if key.startswith(("general.", "split.")) else f"{architecture}.{key}": value
        for key, value in (facts or {}).items()
    }
    tensors: dict[str, tuple[int, tuple[int, ...]]] = {"token_embd.weight": (kind, (64, 96))}
    for layer in range(layers):
        tensors[f"blk.{layer}.attn_norm.weight"] = (0, (64,))
        tensors[f"blk.{layer}.ffn_up.weight"] = (kind, (64, 128))
    tensors["output_norm.weight"] = (0, (64,))
    if not tied:
        tensors["output.weight"] = (kind, (64, 96))
    return told, tensors
