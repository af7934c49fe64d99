"""The components that a plan places: chat models, encoders, indexes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from langchain_gpu.models.info import CACHE_BITS, ModelInfo

Engine = Literal["llama_cpp", "transformers"]
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "float8": 1, "nf4": 0.5625}
"""Bytes of one weight, by what it is loaded as; nf4 has a scale in float32 for every 64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A model that writes text.

    Attributes:
        info: The model, from its headers.
        name: Unique among the components of a plan.
        context: Tokens of one chat, prompt and answer together; None takes the most that fits on
            the GPUs, up to `Policy.context`.
        sequences: Chats at the same time, each with its own cache.
        cache_dtype: Type of the KV cache, a key of `models.info.CACHE_BITS`; transformers keeps its
            cache in what it computes in, whatever 16-bit type stands here.
        dtype: What safetensors are loaded as, a key of `DTYPE_BYTES`; None as they are. A GGUF file
            brings its own.
        engine: What runs it; None for llama.cpp with GGUF and transformers with safetensors.
        ubatch: Tokens llama.cpp computes in one step.

    Raises:
        ValueError: An unknown type, a number below 1, or a dtype for a GGUF file.
    """

    info: ModelInfo
    name: str = "chat"
    context: int | None = None
    sequences: int = 1
    cache_dtype: str = "float16"
    dtype: str | None = None
    engine: Engine | None = None
    ubatch: int = 512

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _known("dtype", self.dtype, DTYPE_BYTES)
        _known("cache_dtype", self.cache_dtype, CACHE_BITS)
        _positive(self.name, context=self.context, sequences=self.sequences, ubatch=self.ubatch)
        if self.info.role != "decoder":
            raise ValueError(f"{self.info.name} is an encoder: it cannot write text")
        if self.runs_on == "llama_cpp":
            _own_dtype(self.name, self.dtype, self.info)
        if self.runs_on == "transformers" and CACHE_BITS[self.cache_dtype] < _HALF:
            raise ValueError(
                f"{self.name}: cache_dtype={self.cache_dtype!r} is a type of llama.cpp; "
                f"transformers keeps its cache in the dtype it computes in: leave it out, or take "
                f"a GGUF file"
            )

    @property
    def role(self) -> str:
        """What it is to the policy."""
        return "chat"

    @property
    def runs_on(self) -> Engine:
        """What runs it."""
        return self.engine or ("llama_cpp" if self.info.format == "gguf" else "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A model that computes vectors or scores.

    Attributes:
        info: The model, from its headers.
        role: Who keeps the GPU when not all fit is decided by role.
        name: Unique among the components of a plan; None for the role.
        dtype: What is computed in, a key of `DTYPE_BYTES`; None for what suits each device.
        max_batch_tokens: Tokens of one forward pass; None for what keeps the device busy, or less
            where memory is short.
        max_length: Tokens of the longest text: a batch is never smaller.

    Raises:
        ValueError: An unknown type, a number below 1, or a dtype for a GGUF file.
    """

    info: ModelInfo
    role: Literal["embedder", "reranker"] = "embedder"
    name: str = ""
    dtype: str | None = None
    max_batch_tokens: int | None = None
    max_length: int = 512

    def __post_init__(self) -> None:
        """Refuse what cannot be; fill in the name."""
        _known("dtype", self.dtype, DTYPE_BYTES)
        object.__setattr__(self, "name", self.name or self.role)
        _own_dtype(self.name, self.dtype, self.info)
        _positive(self.name, max_batch_tokens=self.max_batch_tokens, max_length=self.max_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Vectors that are searched.

    Attributes:
        kind: Name or factory string, for the reader.
        rows: Vectors.
        dimension: Their width.
        bytes: What the index takes, by `search.kinds.bytes_needed`.
        temporary: What a GPU index takes besides, to compute with.
        name: Unique among the components of a plan.

    Raises:
        ValueError: A number below 1.
    """

    kind: str
    rows: int
    dimension: int
    bytes: int
    temporary: int = 0
    name: str = "index"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _positive(self.name, rows=self.rows, dimension=self.dimension, bytes=self.bytes)

    @property
    def role(self) -> str:
        """What it is to the policy."""
        return "index"


Component = Chat | Encoder | Index
_HALF = 16


def _known(name: str, value: str | None, known: Collection[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")


def _own_dtype(name: str, dtype: str | None, info: ModelInfo) -> None:
    if dtype is not None and info.format == "gguf":
        raise ValueError(
            f"{name}: dtype={dtype!r} is for safetensors, and a GGUF file's weights stay as they "
            f"lie in it ({info.dtype}): leave it out, or use another quantization"
        )


def _positive(owner: str, **numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{owner}: {name}={value} must be at least 1")


__all__ = ["DTYPE_BYTES", "Chat", "Component", "Encoder", "Engine", "Index"]
