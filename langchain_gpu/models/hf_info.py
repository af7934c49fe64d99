"""A Hugging Face model as `ModelInfo`: from its configuration, and its safetensors if present."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_gpu.models.hf_config import Architecture
from langchain_gpu.models.hf_params import count_params
from langchain_gpu.models.hf_quantization import stored_params
from langchain_gpu.models.info import HeaderError, ModelInfo, Weights
from langchain_gpu.models.st_header import StTensor

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
}
_DTYPE_BITS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
}
# Towers beside the language model have layers of their own.
_BESIDE = re.compile(
    r"(?:^|\.)(?:vision|visual|audio|image|multi_modal|mm_|embed_vision|embed_audio|mtp)"
)
_BLOCK = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d{1,5})\.")
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embeddings?|embed_tokens\w*|embed_positions|embed_in|wte|wpe|word_embeddings)"
    r"(?:\.|$)"
)


def describe_config(name: str, model: Architecture, *, source: str) -> ModelInfo:
    """Describe a model whose weights are not at hand: numbers and bytes are arithmetic.

    Raises:
        HeaderError: The family is not one whose weights can be counted from a configuration.
    """
    counts = count_params(model)
    bits = _DTYPE_BITS.get(model.dtype)
    if bits is None:
        raise HeaderError(
            f"{model.fields.file}: 'dtype' is {model.dtype!r}; known: {', '.join(_DTYPE_BITS)}"
        )
    packing = model.quantization
    packed = float(bits)
    if packing is not None:
        if packing.bits is None:
            raise HeaderError(
                f"{model.fields.file}: 'quantization_config' of method {packing.method!r} does not "
                f"say its bits; give it its .safetensors too"
            )
        packed = packing.bits + packing.overhead
    dense = bits if packing is None or packing.experts_only else packed

    def weights(plain: int, layer: float = 0, experts: int = 0) -> Weights:
        outside = plain * bits // 8
        inside = int(layer * dense / 8 + experts * packed / 8)
        by_type: Counter[str] = Counter()
        for word, size in ((model.dtype, outside), (_word(model), inside)):
            if size:
                by_type[word] += size
        return Weights(params=plain + int(layer) + experts, bytes=outside + inside, by_type=by_type)

    blocks = tuple(
        weights(0, layer, experts)
        for layer, experts in zip(counts.blocks, counts.experts, strict=True)
    )
    return ModelInfo(
        name=name,
        format="config",
        dtype=_word(model),
        embedding=weights(counts.embedding),
        blocks=blocks,
        output=weights(counts.output),
        source=source,
        **_shape(model),
    )


def describe_safetensors(
    name: str,
    model: Architecture,
    tensors: Mapping[str, StTensor],
    *,
    files: Mapping[str, int],
    source: str,
) -> ModelInfo:
    """Describe a model by the headers of its weights; parts beside the language model are output.

    Raises:
        HeaderError: The weights lack layers that the configuration names.
    """
    groups: dict[int | str, list[tuple[str, StTensor]]] = {}
    for key, tensor in tensors.items():
        groups.setdefault(_group(key, model.layers), []).append((key, tensor))
    missing = [layer for layer in range(model.layers) if layer not in groups]
    if 0 < len(missing) < model.layers:
        raise HeaderError(
            f"{name}: {model.fields.file} names {model.layers} layers, but the weights have none "
            f"for layer {missing[0]}: files are missing, or belong to another model"
        )
    by_type: Counter[str] = Counter()
    for tensor in tensors.values():
        by_type[tensor.dtype] += tensor.bytes
    most = max(by_type, key=lambda word: by_type[word], default="F32")
    return ModelInfo(
        name=name,
        format="safetensors",
        dtype=_word(model) if model.quantization else _DTYPES.get(most, most.lower()),
        embedding=_weights(model, groups.get("embedding", ())),
        blocks=tuple(_weights(model, groups.get(layer, ())) for layer in range(model.layers)),
        output=_weights(model, groups.get("output", ())),
        files=files,
        source=source,
        **_shape(model),
    )


def _group(key: str, layers: int) -> int | str:
    if _BESIDE.search(key):
        return "output"
    block = _BLOCK.search(key)
    if block is not None:
        # Layers past the last predict further tokens (DeepSeek V3) and are not run.
        return int(block[1]) if int(block[1]) < layers else "output"
    return "embedding" if _EMBEDDING.search(key) else "output"


def _weights(model: Architecture, group: Iterable[tuple[str, StTensor]]) -> Weights:
    params = size = 0
    by_type: Counter[str] = Counter()
    for key, tensor in group:
        params += stored_params(key, tensor.dtype, tensor.params, model.quantization)
        size += tensor.bytes
        by_type[_DTYPES.get(tensor.dtype, tensor.dtype.lower())] += tensor.bytes
    return Weights(params=params, bytes=size, by_type=by_type)


def _word(model: Architecture) -> str:
    return str(model.quantization) if model.quantization else model.dtype


def _shape(model: Architecture) -> dict[str, Any]:
    """Return what a `ModelInfo` says of the configuration alone, by its names."""
    return {
        "architecture": model.name,
        "role": model.role,
        "layers": model.layers,
        "hidden": model.hidden,
        "heads": model.heads,
        "intermediate": model.intermediate,
        "vocab": model.vocab,
        "context_length": model.context_length,
        "tied": model.tied,
        "caches": model.caches,
        "experts": model.experts,
    }


__all__ = ["describe_config", "describe_safetensors"]
