"""From a reranker's logits to its scores."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
_TORCHS = "torch.nn."


def sigmoid(logits: Scores) -> Scores:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    positive = 1 / (1 + np.exp(-np.abs(logits)))
    return np.where(logits >= 0, positive, 1 - positive).astype(np.float32)


# What nearly all rerankers have, without torch.
_HERE: dict[str, Callable[[Scores], Scores]] = {
    "torch.nn.modules.activation.Sigmoid": sigmoid,
    "torch.nn.modules.linear.Identity": lambda logits: logits,
}


def name_of(function: Any) -> str:
    """Return the name by which `activate` finds a torch module again.

    Raises:
        ValueError: It is none of torch's own, or was made with arguments.
    """
    kind = type(function)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not name.startswith(_TORCHS) or repr(function) != f"{kind.__name__}()":
        raise ValueError(f"scores go through {function!r}")
    return name


def activate(name: str, logits: Scores) -> Scores:
    """Apply what `name_of` named. Any shape; the same one comes back."""
    if name in _HERE:
        return _HERE[name](logits)
    import torch

    module, _, kind = name.rpartition(".")
    with torch.inference_mode():
        activated: Scores = getattr(import_module(module), kind)()(torch.from_numpy(logits)).numpy()
    return activated


__all__ = ["Scores", "activate", "name_of", "sigmoid"]
