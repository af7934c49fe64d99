"""The shape of a model, from its Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_gpu.models.hf_fields import Fields
from langchain_gpu.models.hf_quantization import Quantization, read_quantization
from langchain_gpu.models.info import HeaderError, LayerCache, Role

MAX_LAYERS = 10_000
_ENCODERS = {
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "eurobert",
    "modernbert",
    "mpnet",
    "new",  # Alibaba's gte
    "nomic_bert",
    "roberta",
    "xlm-roberta",
}
# Where no `layer_types` stand: every n-th layer looks back over everything, the others a window.
_EVERY = {
    "cohere2": 4,
    "gemma2": 2,
    "gemma3_text": 6,
    "gemma3n_text": 5,
    "gpt_oss": 2,
    "llama4_text": 4,
    "olmo3": 4,
}
_ALL_SLIDE = {"mistral", "mixtral", "phi3", "phimoe", "starcoder2"}
_SOME_SLIDE = {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen2_vl_text", "qwen2_5_vl_text"}
# What families call the width of the feed-forward part.
_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "ffn_hidden_size")
_TIED = {"gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "cohere", "cohere2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model's shape; see `ModelInfo` for the fields the two share.

    Attributes:
        name: The class that loads it: `"LlamaForCausalLM"`.
        family: Its `model_type`: `"llama"`.
        kv_heads: Key and value heads.
        head_dim: Width of one head.
        fields: The configuration itself, of the language model's part.
        quantization: How its weights are stored, if not in `dtype`.
    """

    name: str
    family: str
    role: Role
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context_length: int | None
    dtype: str
    tied: bool
    caches: tuple[LayerCache, ...]
    experts: tuple[int, int] | None
    fields: Fields
    quantization: Quantization | None


def read_config(config: Mapping[str, Any]) -> Architecture:
    """Read a configuration.

    The caches are what vLLM, SGLang, llama.cpp and transformers keep; of latent attention (MLA)
    older versions of transformers keep more, keys and values decompressed. A layer of a kind that
    keeps a state of fixed size instead of a cache (linear attention, Mamba) counts 0 per token.

    Args:
        config: The parsed file.

    Raises:
        HeaderError: A field that is needed is missing or makes no sense; the message names it.
    """
    file = "config.json"  # what errors call it
    fields = Fields.of(config, file)
    family = fields.family
    if config.get("is_encoder_decoder") is True:
        raise HeaderError(
            f"{file}: 'is_encoder_decoder' is true ({family}); encoders and decoders are "
            f"described here, models that are both are not"
        )
    layers = fields.number("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if layers > MAX_LAYERS:
        raise HeaderError(f"{file}: 'num_hidden_layers' is {layers:,}; {MAX_LAYERS:,} is the limit")
    hidden = fields.number("hidden_size", "n_embd", "d_model", "dim")
    heads = fields.number("num_attention_heads", "n_head", "n_heads", "num_heads")
    kv_heads = _kv_heads(fields, heads)
    head_dim = fields.optional("head_dim") or _default_head_dim(fields, hidden, heads)
    role = _role(fields)
    experts = _experts(fields)
    widths = _WIDTHS if experts is None else ("moe_intermediate_size", *_WIDTHS)
    tied = fields.values.get("tie_word_embeddings", fields.outer.get("tie_word_embeddings"))
    return Architecture(
        name=_name(fields),
        family=family,
        role=role,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=fields.most(*widths) or 4 * hidden,  # GPT-2 names none
        vocab=fields.number("vocab_size"),
        context_length=fields.optional("max_position_embeddings", "n_positions", "max_seq_len"),
        dtype=_dtype(fields),
        tied=tied if isinstance(tied, bool) else role == "encoder" or family in _TIED,
        caches=() if role == "encoder" else _caches(fields, layers, kv_heads, head_dim),
        experts=experts,
        fields=fields,
        quantization=read_quantization(fields.outer, file)
        or read_quantization(fields.values, file),
    )


def _windows(fields: Fields, layers: int) -> list[int | None]:
    """Return how many tokens each layer looks back: None for all, 0 for a layer without a cache.

    A family that is not known here and lists no `layer_types` is taken to look back over
    everything: the cache may then be smaller than said, never larger.

    Raises:
        HeaderError: `layer_types` holds a kind that is not known here, or a window is missing.
    """
    family = fields.family
    kinds = fields.listed("layer_types", layers)
    if kinds is not None:
        return [_window_of(kind, fields) for kind in kinds]
    window = fields.optional("sliding_window", "attention_chunk_size", least=0) or None
    if fields.values.get("use_sliding_window") is False or window is None:
        return [None] * layers
    if family in _EVERY:
        every = fields.optional("sliding_window_pattern", "_sliding_window_pattern")
        every = every or _EVERY[family]
        return [window if (layer + 1) % every else None for layer in range(layers)]
    if family in _SOME_SLIDE and fields.flag("use_sliding_window"):
        first = fields.optional("max_window_layers", least=0)
        return [window if layer >= (first or 0) else None for layer in range(layers)]
    return [window if family in _ALL_SLIDE else None] * layers


def _window_of(kind: object, fields: Fields) -> int | None:
    kind = kind if isinstance(kind, str) else repr(kind)
    if kind in {"full_attention", "attention"}:
        return None
    if kind == "sliding_attention":
        return fields.number("sliding_window")
    if kind == "chunked_attention":
        return fields.number("attention_chunk_size")
    if kind in {"linear_attention", "conv", "mamba", "recurrent"}:
        return 0
    raise HeaderError(f"{fields.file}: 'layer_types' holds {kind[:80]!r}, not known here")


def _caches(fields: Fields, layers: int, kv_heads: int, head_dim: int) -> tuple[LayerCache, ...]:
    latent = fields.optional("kv_lora_rank")
    keys = values = kv_heads * head_dim
    if latent is not None:
        keys, values = latent + fields.number("qk_rope_head_dim"), 0
    wide = fields.optional("global_head_dim")
    sharing = fields.optional("num_kv_shared_layers", least=0) or 0
    caches = []
    for layer, window in enumerate(_windows(fields, layers)):
        if window == 0 or layer >= layers - sharing:  # keeps a state, or reads another layer's
            caches.append(LayerCache(keys=0, values=0))
        elif window is None and wide is not None:  # Gemma 4
            heads = kv_heads
            if fields.flag("attention_k_eq_v"):
                heads = fields.optional("num_global_key_value_heads") or kv_heads
            caches.append(LayerCache(keys=heads * wide, values=heads * wide))
        else:
            caches.append(LayerCache(keys=keys, values=values, window=window))
    return tuple(caches)


def _kv_heads(fields: Fields, heads: int) -> int:
    if fields.values.get("multi_query") is True and not fields.flag("new_decoder_architecture"):
        return 1  # Falcon
    return fields.optional("num_key_value_heads", "num_kv_heads") or heads


def _default_head_dim(fields: Fields, hidden: int, heads: int) -> int:
    rotated, plain = fields.optional("qk_rope_head_dim"), fields.optional("qk_nope_head_dim")
    if rotated is not None and plain is not None:
        return rotated + plain
    if hidden % heads:
        raise HeaderError(
            f"{fields.file} has no field 'head_dim', and 'hidden_size' {hidden} is not a multiple "
            f"of 'num_attention_heads' {heads}"
        )
    return hidden // heads


def _experts(fields: Fields) -> tuple[int, int] | None:
    count = fields.optional("num_local_experts", "num_experts", "n_routed_experts", least=0)
    if not count or count == 1:
        return None
    return count, fields.number("num_experts_per_tok", "experts_per_token", "num_selected_experts")


def _name(fields: Fields) -> str:
    names = fields.outer.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return fields.family


def _role(fields: Fields) -> Role:
    if fields.family in _ENCODERS and fields.values.get("is_decoder") is not True:
        return "encoder"
    both_ways = fields.values.get("use_bidirectional_attention")  # "all" or "vision" in Gemma 4
    if both_ways is True or both_ways == "all" or fields.values.get("is_causal") is False:
        return "encoder"
    return "encoder" if _name(fields).endswith("ForMaskedLM") else "decoder"


def _dtype(fields: Fields) -> str:
    for values in (fields.values, fields.outer):
        for name in ("dtype", "torch_dtype"):
            value = values.get(name)
            if isinstance(value, str) and value:
                return value.removeprefix("torch.")
    return "float32"  # what torch makes where a configuration says nothing


__all__ = ["MAX_LAYERS", "Architecture", "read_config"]
