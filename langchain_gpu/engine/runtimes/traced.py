"""A sentence-transformers model as one function of tensors.

For runtimes that compile a model they did not write: what is traced holds the pooling and the
normalization too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging as transformers_logging

NAMES = ("input_ids", "attention_mask", "token_type_ids")


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


__all__ = ["NAMES", "Traced", "quietly"]
