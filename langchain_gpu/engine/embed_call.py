"""The settings of one embedding call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.embedder import Embedder
from langchain_gpu.engine.encode_kwargs import EncodeKwargs, Kind
from langchain_gpu.engine.outputs import Output
from langchain_gpu.engine.tasks.embed import EmbedOptions


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """The settings of one call; those that depend on the model are resolved once it is loaded.

    Attributes:
        kind: Whether the texts are queries or documents.
        kwargs: sentence-transformers' arguments for texts of that kind.
        output: The width and the precision of what is returned.
        on_long: What happens to texts beyond the model's window.
    """

    kind: Kind
    kwargs: EncodeKwargs
    output: Output
    on_long: Literal["truncate", "mean", "error"]

    def options(self, embedder: Embedder) -> EmbedOptions:
        """Return the engine's options, with the model's prompt for this kind of text.

        Raises:
            ValueError: The model has no such prompt, or vectors of fewer dimensions than asked for.
        """
        self.width(embedder.engine.dimension)  # now, and not when all texts are embedded
        prompt = self.kwargs.resolve_prompt(embedder.encoder, self.kind)
        return EmbedOptions(prompt=prompt, task=self.kind, on_long=self.on_long)

    @property
    def plain(self) -> bool:
        """Whether vectors are returned as the engine computed them."""
        return self.output.plain and not self.kwargs.finishes

    @property
    def precision(self) -> str:
        """Number format of the result; at most one of the two settings is not float32."""
        kwargs, output = self.kwargs.precision, self.output.precision
        return kwargs if output == "float32" else output

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the array that is returned."""
        return self.kwargs.dtype if self.output.precision == "float32" else self.output.dtype

    def width(self, dimension: int) -> int:
        """Return the columns of the array that is returned, for a model of this dimension."""
        return self.output.width(self.kwargs.width(dimension))

    def finish(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Convert the engine's vectors (rows, dimension) to what is returned."""
        return self.output.apply(self.kwargs.finish(vectors))


__all__ = ["EmbedCall"]
