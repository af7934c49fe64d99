"""What a model is, in bytes and shapes; `models.headers` reads it without loading weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from langchain_gpu.models.ggml_types import CACHE_TYPES

WeightFormat = Literal["gguf", "safetensors", "config"]
Role = Literal["encoder", "decoder"]
CACHE_BITS: Mapping[str, float] = {name: kind.bits for name, kind in CACHE_TYPES.items()}
"""Bits of one number in a KV cache; blocks of 32 of llama.cpp's types carry their scales."""


class HeaderError(ValueError):
    """A header is damaged, or lacks what it must say; the message names the file and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """What one layer keeps of every token it has seen.

    Attributes:
        keys: Numbers per token for keys: KV heads times head size; with latent attention (MLA) the
            compressed vector and the rotated part together.
        values: Numbers per token for values; 0 with latent attention, which keeps one vector.
        window: Tokens this layer looks back; None for all.
    """

    keys: int
    values: int
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A group of tensors that is placed as one.

    Attributes:
        params: Numbers.
        bytes: What they take in their file; where only a configuration is known, in its dtype.
        by_type: The same bytes by tensor type, for example `{"Q4_K": ..., "F32": ...}`.
    """

    params: int = 0
    bytes: int = 0
    by_type: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model, as its headers describe it.

    Attributes:
        name: What was asked for.
        format: `"config"` where no weights' header was at hand: the bytes are then arithmetic.
        architecture: The file's own word: `"llama"`, `"BertModel"` and so on.
        role: An encoder keeps no cache; a decoder may write text (or embed, by its last token).
        layers: Number of blocks.
        hidden: Width of the residual stream.
        heads: Query heads.
        intermediate: Widest row inside a block's feed-forward part (per expert where it has them).
        vocab: Rows of the embedding table.
        context_length: The model's own window in tokens; None where it names none.
        dtype: Of most weights: `"bfloat16"`, `"Q4_K_M"` and so on.
        embedding: The table of token embeddings (word, position and type tables of encoders).
        blocks: One entry per layer.
        output: Everything else: final norm, output matrix (0 bytes where it is the embedding).
        tied: The output matrix is the embedding table.
        caches: One entry per layer of a decoder; empty for an encoder.
        experts: Experts per layer, and of these at work for one token; None for dense models.
        files: Names of the weight files with their bytes.
        source: Where the headers came from, as a sentence.
    """

    name: str
    format: WeightFormat
    architecture: str
    role: Role
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int
    context_length: int | None
    dtype: str
    embedding: Weights
    blocks: tuple[Weights, ...]
    output: Weights
    tied: bool = False
    caches: tuple[LayerCache, ...] = ()
    experts: tuple[int, int] | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    source: str = ""

    @property
    def params(self) -> int:
        """Numbers in all weights."""
        return sum(part.params for part in (self.embedding, *self.blocks, self.output))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, as they lie in their files."""
        return sum(part.bytes for part in (self.embedding, *self.blocks, self.output))


__all__ = [
    "CACHE_BITS",
    "HeaderError",
    "LayerCache",
    "ModelInfo",
    "Role",
    "WeightFormat",
    "Weights",
]
