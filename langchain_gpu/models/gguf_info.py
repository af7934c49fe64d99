"""A GGUF model as `ModelInfo`, from the headers of its files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from langchain_gpu.models.ggml_types import FILE_TYPES
from langchain_gpu.models.gguf import GgufTensor, Head
from langchain_gpu.models.hf_config import MAX_LAYERS
from langchain_gpu.models.info import HeaderError, LayerCache, ModelInfo, Weights

_BLOCK = re.compile(r"blk\.(\d{1,5})\.")
_EMBEDDING = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
_ENCODERS = {
    "bert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
}
# llama.cpp knows these by the architecture where the file does not say: every n-th layer looks back
# over everything, the others a window.
_EVERY = {"cohere2": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "olmo2": 4}
_MAX_NUMBER = 1 << 40


def describe_gguf(name: str, head: Head, *, files: Mapping[str, int], source: str) -> ModelInfo:
    """Describe a GGUF model.

    Args:
        name: What was asked for.
        head: Its head; of several parts, the first's facts with the tensors of all.
        files: Its files with their bytes.
        source: Where they are, as a sentence.

    Raises:
        HeaderError: A key that is needed is missing or makes no sense; the message names it.
    """
    facts = _Facts(head, next(iter(files), name))
    layers = facts.number("block_count")
    if layers > MAX_LAYERS:
        raise HeaderError(f"{facts.file}: {layers:,} layers; {MAX_LAYERS:,} is the limit")
    groups: dict[int | str, list[GgufTensor]] = {}
    for key, tensor in head.weights.items():
        groups.setdefault(_group(key, layers), []).append(tensor)
    if missing := [layer for layer in range(layers) if layer not in groups]:
        raise HeaderError(
            f"{facts.file} names {layers} layers, but holds no tensors of layer {missing[0]}"
        )
    table = head.weights.get("token_embd.weight")
    encoder = facts.architecture in _ENCODERS or facts.get("attention.causal") is False
    experts = facts.optional("expert_count")
    widths = ("expert_feed_forward_length", "feed_forward_length")
    width = facts.most(*(widths if experts else widths[::-1]))
    return ModelInfo(
        name=name,
        format="gguf",
        architecture=facts.architecture,
        role="encoder" if encoder else "decoder",
        layers=layers,
        hidden=facts.number("embedding_length"),
        heads=facts.most("attention.head_count"),
        intermediate=width,
        vocab=table.shape[-1] if table and table.shape else facts.number("vocab_size"),
        context_length=facts.optional("context_length"),
        dtype=_dtype(head),
        embedding=_weights(groups.get("embedding", ())),
        blocks=tuple(_weights(groups[layer]) for layer in range(layers)),
        output=_weights(groups.get("output", ())),
        tied="output.weight" not in head.weights,
        caches=() if encoder else _caches(facts, layers),
        experts=(experts, facts.number("expert_used_count")) if experts else None,
        files=files,
        source=source,
    )


class _Facts:
    """The keys of one architecture: `"llama.block_count"` is asked for as `"block_count"`."""

    def __init__(self, head: Head, file: str) -> None:
        self.file = file
        self._facts = head.facts
        architecture = head.facts.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise HeaderError(f"{file} has no key 'general.architecture'")
        self.architecture = architecture

    def get(self, key: str) -> object:
        return self._facts.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        found = self.optional(key)
        if found is None:
            raise HeaderError(f"{self.file} has no key '{self.architecture}.{key}'")
        return found

    def optional(self, key: str) -> int | None:
        """Return a number from 1 up; 0 counts as missing, as in llama.cpp."""
        found = self.get(key)
        return self._whole(key, found) or None if found is not None else None

    def most(self, *keys: str) -> int:
        """Return the largest number of the first of `keys` that is there; it may be one a layer."""
        for key in keys:
            found = self.get(key)
            if found is None:
                continue
            items = found if isinstance(found, tuple) else (found,)
            if most := max((self._whole(key, item) for item in items), default=0):
                return most
        raise HeaderError(f"{self.file} has no key '{self.architecture}.{keys[0]}'")

    def each(self, key: str, layers: int, default: int) -> tuple[int, ...]:
        """Return one number per layer; the file may give one for all."""
        found = self.get(key)
        if found is None:
            return (default,) * layers
        if not isinstance(found, tuple):
            return (self._whole(key, found),) * layers
        if len(found) < layers:
            raise HeaderError(f"{self.file}: '{self.architecture}.{key}' has {len(found)} items")
        return tuple(self._whole(key, item) for item in found[:layers])

    def _whole(self, key: str, value: object) -> int:
        if not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
            raise HeaderError(
                f"{self.file}: '{self.architecture}.{key}' is {str(value)[:80]!r}, no whole number"
            )
        return int(value)


def _caches(facts: _Facts, layers: int) -> tuple[LayerCache, ...]:
    heads = facts.most("attention.head_count")
    key = facts.optional("attention.key_length") or facts.number("embedding_length") // heads
    value = facts.optional("attention.value_length") or key
    key_near = facts.optional("attention.key_length_swa") or key
    value_near = facts.optional("attention.value_length_swa") or value
    # Older files of DeepSeek lack it; llama.cpp then keeps keys and values decompressed.
    latent = facts.optional("attention.key_length_mla") is not None
    interval = facts.optional("full_attention_interval") or 1
    own = layers - (facts.optional("attention.shared_kv_layers") or 0)
    found = []
    kv_heads = facts.each("attention.head_count_kv", layers, heads)
    for layer, window in enumerate(_windows(facts, layers)):
        count = kv_heads[layer]
        if (layer + 1) % interval or layer >= own:  # keeps a state, or reads another layer's
            count = 0
        wide, tall = (key, value) if window is None else (key_near, value_near)
        values = 0 if latent else count * tall
        found.append(LayerCache(keys=count * wide, values=values, window=window))
    return tuple(found)


def _windows(facts: _Facts, layers: int) -> tuple[int | None, ...]:
    window = facts.optional("attention.sliding_window")
    if window is None:
        return (None,) * layers
    pattern = facts.get("attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        if len(pattern) < layers:
            raise HeaderError(f"{facts.file}: its sliding_window_pattern has {len(pattern)} items")
        return tuple(window if near else None for near in pattern[:layers])
    every = facts.optional("attention.sliding_window_pattern") or _EVERY.get(facts.architecture, 0)
    return tuple(window if every and (at + 1) % every else None for at in range(layers))


def _group(key: str, layers: int) -> int | str:
    block = _BLOCK.match(key)
    if block is not None:
        # Layers past the last predict further tokens and are not run.
        return int(block[1]) if int(block[1]) < layers else "output"
    return "embedding" if key.startswith(_EMBEDDING) else "output"


def _weights(group: Iterable[GgufTensor]) -> Weights:
    params = size = 0
    by_type: Counter[str] = Counter()
    for tensor in group:
        params += tensor.params
        size += tensor.bytes
        by_type[tensor.type] += tensor.bytes
    return Weights(params=params, bytes=size, by_type=by_type)


def _dtype(head: Head) -> str:
    kind = head.facts.get("general.file_type")
    if isinstance(kind, int) and kind in FILE_TYPES:
        return FILE_TYPES[kind]
    by_type = _weights(head.weights.values()).by_type
    return max(by_type, key=lambda word: by_type[word], default="F32")


__all__ = ["describe_gguf"]
