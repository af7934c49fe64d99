"""A sentence-transformers model as one function of tensors, and the check of a converted copy.

For runtimes that compile a model they did not write: what is traced holds the pooling and the
normalization too, and nothing that came out of a conversion runs before it was compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from langchain_gpu.engine.encoder import Vectors

NAMES = ("input_ids", "attention_mask", "token_type_ids")
LEAST_COSINE = 0.99999


class Traced(torch.nn.Module):
    """The modules as one function of tensors, which is what can be traced.

    The transformer may compute in half precision; what follows it gets float32.

    Args:
        modules: sentence-transformers' modules, the transformer first.
    """

    def __init__(self, modules: torch.nn.Sequential) -> None:
        super().__init__()
        self.transformer, *rest = modules
        self.rest = torch.nn.ModuleList(rest)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the embeddings, shape (rows, dimension), or the scores, shape (rows, labels).

        All three inputs have the shape (rows, tokens).
        """
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        features = self.transformer(features)
        if "token_embeddings" in features:
            features["token_embeddings"] = features["token_embeddings"].float()
        features = self.finish(features)
        name = "sentence_embedding" if "sentence_embedding" in features else "scores"
        return features[name].float()

    def finish(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Do what follows the transformer."""
        for module in self.rest:
            features = module(features)
        return features


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress warnings: tracing warns of every branch, and the result is verified anyway."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)


def likeness(left: Vectors, right: Vectors) -> float:
    """Return how alike two results are, 1.0 for the same: the least cosine of their rows.

    A single number per row has no direction: there it is 1 less a hundredth of the largest
    difference, so that `LEAST_COSINE` means a thousandth.
    """
    if left.shape[1] > 1:
        return float(cosines(left, right).min())
    return 1.0 - float(np.abs(left.astype(np.float64) - right).max()) / 100


def cosines(left: Vectors, right: Vectors) -> Any:
    """Return the cosine of each pair of rows, shape (rows,); NaN where a row is NaN or zero."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (left * right).sum(axis=1) / norms
