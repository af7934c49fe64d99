"""What a model's KV cache takes, by plain arithmetic on what its headers say."""

from __future__ import annotations

from langchain_gpu.models.info import ModelInfo


def cache_bytes(model: ModelInfo, context: int, *, sequences: int = 1) -> int:
    """Bytes of keys and values in 16 bits; a layer with a window keeps its window only."""
    numbers = sum(
        min(context, layer.window or context) * (layer.keys + layer.values)
        for layer in model.caches
    )
    return 2 * sequences * numbers
