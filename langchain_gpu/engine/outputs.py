"""Fewer dimensions and smaller number formats for the vectors that are returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Precision = Literal["float32", "float16", "int8"]
_INT8 = 127
_TINY = np.finfo(np.float32).tiny  # what zeros are divided by


@dataclass(frozen=True, slots=True)
class Output:
    """The form in which vectors are returned.

    Attributes:
        truncate_dim: Keep this many leading dimensions, for models trained for that (Matryoshka);
            shortened vectors are rescaled to the norm they had, so that units stay units. None
            keeps all.
        precision: `"float16"` rounds to about three digits. `"int8"` scales every vector by itself
            so that its largest component becomes 127 or -127, and rounds: the scale is dropped,
            which cosine similarity does not see and inner products do. A vector's int8 form does
            not depend on what else was embedded with it.
    """

    truncate_dim: int | None = None
    precision: Precision = "float32"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""
        return np.dtype(self.precision)

    @property
    def plain(self) -> bool:
        """Whether vectors go out as the engine made them."""
        return self == Output()

    def width(self, dimension: int) -> int:
        """Return the width of a vector that the model makes `dimension` wide.

        Raises:
            ValueError: It is to be cut to more dimensions than it has.
        """
        if self.truncate_dim is None:
            return dimension
        if self.truncate_dim > dimension:
            raise ValueError(
                f"truncate_dim={self.truncate_dim}, but the model's vectors have {dimension}"
            )
        return self.truncate_dim

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[Any]:
        """Return the vectors in this form. Shape (n, width)."""
        if self.plain:
            return vectors
        width = self.width(vectors.shape[1])
        if width < vectors.shape[1]:
            before = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors[:, :width]
            after = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(after, _TINY) * before
        if self.precision == "int8":
            largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
            vectors = np.rint(vectors / np.maximum(largest, _TINY) * _INT8)
        form: NDArray[Any] = vectors.astype(self.dtype)
        return form
