"""Keep the leading dimensions of vectors, as a module of a model."""

from __future__ import annotations

from typing import Any

import torch


class TruncateDim(torch.nn.Module):
    """Keeps the leading dimensions, as `encode` of sentence-transformers does behind its modules.

    Args:
        width: How many; vectors that have no more stay as they are.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Shorten `sentence_embedding`, which has the shape [rows, dimension]."""
        features["sentence_embedding"] = features["sentence_embedding"][:, : self._width]
        return features


__all__ = ["TruncateDim"]
