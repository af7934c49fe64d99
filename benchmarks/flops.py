"""How much arithmetic a text takes, from a model's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Feed-forward blocks of two matrices, and of three (a gate).
_PLAIN = {"bert", "roberta", "xlm-roberta", "mpnet", "electra", "camembert"}
_GATED = {"modernbert", "qwen2", "qwen3", "llama", "mistral"}
_CAUSAL = {"qwen2", "qwen3", "llama", "mistral"}


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model's `config.json`."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def linear_weights(config: Mapping[str, Any]) -> int:
    """Count the weights every token is multiplied with: those of the layers' matrices.

    Raises:
        ValueError: The model's type is not known here.
    """
    kind, hidden = config["model_type"], config["hidden_size"]
    if kind not in _PLAIN | _GATED:
        raise ValueError(f"no count of the weights of a model of type {kind!r}")
    inner, keys = _widths(config)
    attention = 2 * hidden * inner + 2 * hidden * keys
    matrices = 3 if kind in _GATED else 2
    feed_forward = matrices * hidden * config["intermediate_size"]
    total: int = config["num_hidden_layers"] * (attention + feed_forward)
    return total


def flops(config: Mapping[str, Any], lengths: NDArray[np.int64]) -> float:
    """Return the floating-point operations of texts of these lengths in tokens.

    Per token 2 x linear weights + 4 x S x h x layers, where S is its text's length and h the width
    of the attention; half of the second where a token sees only those before it. Look-ups,
    normalizations and activations are left out, as is usual.

    Raises:
        ValueError: The model's type is not known here.
    """
    sizes = np.asarray(lengths, np.float64)
    pairs = 2 if config["model_type"] in _CAUSAL else 4
    attention = pairs * _widths(config)[0] * config["num_hidden_layers"]
    return float((2 * linear_weights(config) * sizes + attention * sizes**2).sum())


def _widths(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the widths of queries and of keys, over all heads."""
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    return heads * head, (config.get("num_key_value_heads") or heads) * head
