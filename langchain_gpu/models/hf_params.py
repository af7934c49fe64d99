"""The number of a model's weights, computed from its configuration.

Every family's formula is held against transformers' own classes by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from langchain_gpu.models.hf_config import Architecture
from langchain_gpu.models.info import HeaderError


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers in a model's weights.

    Attributes:
        embedding: Tables of words, positions and types, with their norm.
        blocks: Of each layer, without its experts.
        experts: Of each layer's experts.
        output: Final norm, output matrix (0 where tied), heads.
    """

    embedding: int
    blocks: tuple[int, ...]
    experts: tuple[int, ...]
    output: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + sum(self.blocks) + sum(self.experts) + self.output


@dataclass(frozen=True, slots=True)
class _Family:
    """What sets a family of decoders apart from Llama.

    Attributes:
        qkv_bias: Query, key and value have a bias whatever `attention_bias` says.
        head_norm: Query and key are normed, head by head.
        wide_norm: Query and key are normed over all heads at once.
        norms: Norms of the stream's width in a block.
        sinks: One number a head that attention may fall to.
    """

    qkv_bias: bool = False
    head_norm: bool = False
    wide_norm: bool = False
    norms: int = 2
    sinks: bool = False


_DECODERS = {
    "llama": _Family(),
    "mistral": _Family(),
    "mixtral": _Family(),
    "ministral": _Family(),
    "phi3": _Family(),
    "smollm3": _Family(),
    "granite": _Family(),
    "qwen2": _Family(qkv_bias=True),
    "qwen2_moe": _Family(qkv_bias=True),
    "qwen2_vl_text": _Family(qkv_bias=True),
    "qwen2_5_vl_text": _Family(qkv_bias=True),
    "qwen3": _Family(head_norm=True),
    "qwen3_moe": _Family(head_norm=True),
    "olmo2": _Family(wide_norm=True),
    "olmo3": _Family(wide_norm=True),
    "gemma": _Family(),
    "gemma2": _Family(norms=4),
    "gemma3_text": _Family(head_norm=True, norms=4),
    "gpt_oss": _Family(sinks=True),
    "deepseek_v2": _Family(),
    "deepseek_v3": _Family(),
}
_BERT_LIKE = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet"}
_CAN_COUNT = sorted({*_DECODERS, *_BERT_LIKE, "modernbert"})


def count_params(model: Architecture) -> Counts:
    """Count the weights of a model of a known family; those of a vision part are left out.

    Raises:
        HeaderError: The family's formula is not known here, or a field of it is missing.
    """
    if model.family in _DECODERS:
        return _decoder(model, _DECODERS[model.family])
    if model.family in _BERT_LIKE:
        return _bert(model)
    if model.family == "modernbert":
        return _modernbert(model)
    raise HeaderError(
        f"{model.fields.file}: how many weights a model of type {model.family!r} has is not known "
        f"from its configuration; give it its .safetensors too. Known: {', '.join(_CAN_COUNT)}"
    )


def _decoder(model: Architecture, family: _Family) -> Counts:
    hidden = model.hidden
    attention = (
        _latent(model) if model.fields.optional("kv_lora_rank") else _attention(model, family)
    )
    blocks, experts = [], []
    for layer in range(model.layers):
        rest = attention + family.norms * hidden
        own = 0
        if model.experts is not None and _has_experts(model, layer):
            shared, own = _mixture(model)
            rest += shared
        else:
            rest += _feed_forward(model)
        blocks.append(rest)
        experts.append(own)
    matrix = 0 if model.tied or not model.name.endswith("ForCausalLM") else model.vocab * hidden
    if model.name.endswith("ForConditionalGeneration") and not model.tied:
        matrix = model.vocab * hidden
    return Counts(model.vocab * hidden, tuple(blocks), tuple(experts), hidden + matrix)


def _attention(model: Architecture, family: _Family) -> int:
    fields, hidden = model.fields, model.hidden
    query, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    numbers = 2 * hidden * query + 2 * hidden * keys
    if family.qkv_bias:
        numbers += query + 2 * keys
    elif fields.flag("attention_bias", default=model.family == "gpt_oss"):
        numbers += query + 2 * keys + hidden
    if family.head_norm:
        numbers += 2 * model.head_dim
    if family.wide_norm:
        numbers += query + keys
    return numbers + (model.heads if family.sinks else 0)


def _latent(model: Architecture) -> int:
    """Multi-head latent attention, of DeepSeek V2 and V3."""
    fields, hidden, heads = model.fields, model.hidden, model.heads
    latent, rotated = fields.number("kv_lora_rank"), fields.number("qk_rope_head_dim")
    plain, value = fields.number("qk_nope_head_dim"), fields.number("v_head_dim")
    query_rank = fields.optional("q_lora_rank")
    query = heads * (plain + rotated)
    numbers = hidden * query
    if query_rank is not None:
        numbers = hidden * query_rank + query_rank + query_rank * query
    numbers += hidden * (latent + rotated) + latent
    return numbers + latent * heads * (plain + value) + heads * value * hidden


def _feed_forward(model: Architecture) -> int:
    fields, hidden = model.fields, model.hidden
    width = fields.number("intermediate_size")
    bias = fields.flag("mlp_bias")
    return 3 * hidden * width + (2 * width + hidden if bias else 0)


def _has_experts(model: Architecture, layer: int) -> bool:
    fields = model.fields
    dense = fields.values.get("mlp_only_layers")
    if isinstance(dense, list) and layer in dense:
        return False
    if layer < (fields.optional("first_k_dense_replace", least=0) or 0):
        return False
    step = fields.optional("decoder_sparse_step", "moe_layer_freq") or 1
    return (layer + 1) % step == 0 if "decoder_sparse_step" in fields.values else layer % step == 0


def _mixture(model: Architecture) -> tuple[int, int]:
    """Return the router with the experts that every token meets, and all others."""
    fields, hidden = model.fields, model.hidden
    count = (model.experts or (0, 0))[0]
    width = fields.number("moe_intermediate_size", "intermediate_size")
    shared = hidden * count
    own = count * 3 * hidden * width
    if model.family == "gpt_oss":
        return shared + count, own + count * (2 * width + hidden)  # biases
    if model.family == "deepseek_v3":
        shared += count  # e_score_correction_bias
    shared += 3 * hidden * width * (fields.optional("n_shared_experts", least=0) or 0)
    if (extra := fields.optional("shared_expert_intermediate_size", least=0)) is not None:
        shared += 3 * hidden * extra + hidden
    return shared, own


def _bert(model: Architecture) -> Counts:
    fields, hidden, width = model.fields, model.hidden, model.intermediate
    table = fields.optional("embedding_size") or hidden  # ELECTRA's small ones
    positions = fields.number("max_position_embeddings")
    types = fields.optional("type_vocab_size", least=0)
    if types is None:
        types = 0 if model.family == "mpnet" else 2
    embedding = (model.vocab + positions + types + 2) * table
    if table != hidden:
        embedding += table * hidden + hidden
    block = 4 * (hidden * hidden + hidden) + 2 * hidden * width + width + 5 * hidden
    output = 0
    if model.family == "mpnet":
        output += (fields.optional("relative_attention_num_buckets") or 32) * model.heads
    dense = hidden * hidden + hidden
    name = model.name
    if name.endswith("ForMaskedLM"):
        output += dense + 2 * hidden + model.vocab
    elif name.endswith("ForSequenceClassification"):
        output += dense + (hidden + 1) * _labels(model)
    elif model.family != "electra":
        output += dense  # the pooler
    return Counts(embedding, (block,) * model.layers, (0,) * model.layers, output)


def _modernbert(model: Architecture) -> Counts:
    hidden, width = model.hidden, model.fields.number("intermediate_size")
    block = 4 * hidden * hidden + 3 * hidden * width + 2 * hidden
    blocks = (block - hidden, *(block,) * (model.layers - 1))  # the first has no norm before it
    output = hidden
    if model.name.endswith("ForMaskedLM"):
        output += hidden * hidden + hidden + model.vocab
    elif model.name.endswith("ForSequenceClassification"):
        output += hidden * hidden + hidden + (hidden + 1) * _labels(model)
    return Counts((model.vocab + 1) * hidden, blocks, (0,) * model.layers, output)


def _labels(model: Architecture) -> int:
    labels = model.fields.outer.get("id2label")
    if isinstance(labels, dict) and labels:
        return len(labels)
    return model.fields.optional("num_labels") or 2


__all__ = ["Counts", "count_params"]
