"""The keyword arguments of sentence-transformers' `encode`, with the meaning they have there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.backends import TextEncoder
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.utils.extras import require
from langchain_gpu.utils.integers import at_least_one

Kind = Literal["query", "document"]

# Prompt names that `encode_query` and `encode_document` of sentence-transformers look for.
_PROMPT_NAMES: dict[Kind, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
# What each precision is stored in; the last two put eight dimensions into one number.
_PRECISIONS = {
    "float32": "float32",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "int8",
    "ubinary": "uint8",
}
_RANGED = ("int8", "uint8")
_BITS = ("binary", "ubinary")
_WHOLE = ("batch_size", "truncate_dim")
_NAMES = ("prompt", "prompt_name")
# They choose the container of the result, which is fixed here.
_CONTAINERS = {"convert_to_numpy", "convert_to_tensor"}
_ELSEWHERE = {
    "device": "the argument device=",
    "pool": "device=[...] with several devices",
    "chunk_size": "nothing: chunks are planned by the engine",
    "output_value": "nothing: only sentence embeddings are returned",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeKwargs:
    """How texts are read and what is done to their vectors.

    Attributes:
        prompt: Put before every text; `""` for none, None for the model's own.
        prompt_name: Name of one of the model's prompts.
        batch_size: Texts per forward pass at most.
        show_progress_bar: Show a bar.
        normalize_embeddings: Scale vectors to length 1.
        truncate_dim: Keep this many leading dimensions.
        precision: What is returned; anything but float32 is sentence-transformers' quantization.
    """

    prompt: str | None = None
    prompt_name: str | None = None
    batch_size: int | None = None
    show_progress_bar: bool | None = None
    normalize_embeddings: bool = False
    truncate_dim: int | None = None
    precision: str = "float32"

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> EncodeKwargs:
        """Read a dictionary of keyword arguments.

        Raises:
            TypeError: A value is of another type; the message names it.
            ValueError: A name or a value has no meaning here; the message says what has.
        """
        for name in kwargs:
            if name in _ELSEWHERE:
                raise ValueError(f"encode_kwargs[{name!r}] is not used; use {_ELSEWHERE[name]}")
            if name not in cls.__slots__ and name not in _CONTAINERS:
                known = ", ".join(cls.__slots__)
                raise ValueError(f"encode_kwargs[{name!r}] is unknown; known: {known}")
        given = {name: kwargs[name] for name in kwargs if name not in _CONTAINERS}
        for name, value in given.items():
            called = f"encode_kwargs[{name!r}]"
            if name in _WHOLE and value is not None:
                given[name] = at_least_one(called, value)
            if name in _NAMES and not isinstance(value, str | None):
                raise TypeError(f"{called} must be a str, not {value!r}")
        found = cls(**given)
        if found.precision not in _PRECISIONS:
            known = ", ".join(_PRECISIONS)
            raise ValueError(f"precision {found.precision!r} is not one of {known}")
        return found

    def with_default_prompt(self, name: str) -> EncodeKwargs:
        """Take the prompt of this name where none is given or named."""
        told = self.prompt is not None or self.prompt_name is not None
        return self if told else replace(self, prompt_name=name)

    def resolve_prompt(self, encoder: TextEncoder, kind: Kind) -> str:
        """Choose the prompt: given, named, the model's own for this kind of text, its default.

        Raises:
            ValueError: The model has no prompt of that name.
        """
        if self.prompt is not None:
            return self.prompt
        prompts = encoder.prompts
        if self.prompt_name is not None and self.prompt_name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise ValueError(f"the model has no prompt named {self.prompt_name!r}; it has: {known}")
        own = [name for name in _PROMPT_NAMES[kind] if name in prompts]
        for name in (self.prompt_name, *own, encoder.default_prompt_name):
            if name is not None:
                return prompts.get(name) or ""
        return ""

    @property
    def finishes(self) -> bool:
        """Whether `finish` does anything."""
        return (
            self.normalize_embeddings
            or self.truncate_dim is not None
            or self.precision != "float32"
        )

    @property
    def row_by_row(self) -> bool:
        """Whether a vector comes out the same whatever else it is finished with."""
        return self.precision not in _RANGED

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers that `finish` returns."""
        return np.dtype(_PRECISIONS[self.precision])

    def width(self, dimension: int) -> int:
        """Return how many numbers `finish` makes of a vector of `dimension`."""
        kept = dimension if self.truncate_dim is None else min(self.truncate_dim, dimension)
        return -(-kept // 8) if self.precision in _BITS else kept

    def finish(self, vectors: Vectors) -> NDArray[Any]:
        """Shorten, normalize and quantize vectors, in the order sentence-transformers does.

        Shape (n, width), in `dtype`.
        """
        if not len(vectors):
            return np.empty((0, self.width(vectors.shape[1])), self.dtype)
        if self.truncate_dim is not None:
            vectors = np.ascontiguousarray(vectors[:, : self.truncate_dim])
        if self.normalize_embeddings:
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(norms, 1e-12)
        if self.precision == "float32":
            return vectors
        util = require("sentence_transformers.util", extra="local")
        quantized: NDArray[Any] = util.quantize_embeddings(vectors, precision=self.precision)
        return quantized
