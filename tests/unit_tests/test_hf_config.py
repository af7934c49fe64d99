"""What a `config.json` says: held against transformers' classes and published numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_gpu.models.hf_config import read_config
from langchain_gpu.models.hf_info import describe_config
from langchain_gpu.models.hf_params import count_params
from langchain_gpu.models.info import HeaderError, ModelInfo
from tests.unit_tests.cache_sizes import cache_bytes

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN_HEAD = {**SMALL, "head_dim": 24}
LATENT = {
    **SMALL,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {**OWN_HEAD, "attention_bias": True, "mlp_bias": True}),
    ("LlamaModel", OWN_HEAD),
    ("MistralForCausalLM", {**OWN_HEAD, "sliding_window": 16}),
    ("Phi3ForCausalLM", SMALL),
    ("SmolLM3ForCausalLM", SMALL),
    ("GraniteForCausalLM", SMALL),
    ("MixtralForCausalLM", {**OWN_HEAD, **EXPERTS}),
    (
        "Qwen2ForCausalLM",
        {**SMALL, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    ),
    (
        "Qwen2MoeForCausalLM",
        {
            **SMALL,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 48,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
        },
    ),
    ("Qwen3ForCausalLM", {**OWN_HEAD, "tie_word_embeddings": True}),
    (
        "Qwen3MoeForCausalLM",
        {**OWN_HEAD, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    ("Olmo2ForCausalLM", SMALL),
    ("Olmo3ForCausalLM", {**SMALL, "sliding_window": 16}),
    ("GemmaForCausalLM", OWN_HEAD),
    ("Gemma2ForCausalLM", {**OWN_HEAD, "sliding_window": 16}),
    ("Gemma3ForCausalLM", {**OWN_HEAD, "num_hidden_layers": 7, "sliding_window": 8}),
    ("GptOssForCausalLM", {**OWN_HEAD, **EXPERTS, "sliding_window": 16}),
    ("DeepseekV2ForCausalLM", {**LATENT, "q_lora_rank": None}),
    ("DeepseekV3ForCausalLM", {**LATENT, "q_lora_rank": 20, "n_group": 2, "topk_group": 1}),
    ("BertModel", SMALL),
    ("RobertaModel", SMALL),
    ("XLMRobertaModel", SMALL),
    ("MPNetModel", SMALL),
    ("ElectraModel", {**SMALL, "embedding_size": 32}),
    ("BertForSequenceClassification", {**SMALL, "num_labels": 3}),
    ("XLMRobertaForSequenceClassification", {**SMALL, "num_labels": 1}),
    ("BertForMaskedLM", SMALL),
    ("ModernBertModel", SMALL),
    ("ModernBertForMaskedLM", SMALL),
    ("ModernBertForSequenceClassification", SMALL),
]


@pytest.mark.parametrize(("name", "values"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_weights_and_windows_are_those_of_transformers(name: str, values: dict[str, Any]) -> None:
    cls = getattr(transformers, name)
    config = cls.config_class(**values)
    config.architectures = [name]
    with torch.device("meta"):
        model = cls(config)
    weights = sum(weight.numel() for weight in model.parameters())
    weights += sum(b.numel() for key, b in model.named_buffers() if "correction_bias" in key)
    saved = json.loads(config.to_json_string(use_diff=False))
    assert count_params(read_config(saved)).total == weights
    if (kinds := saved.pop("layer_types", None)) is None or read_config(saved).role == "encoder":
        return
    # Older files list no layer_types: the same windows follow from the other fields.
    near = [cache.window is not None for cache in read_config(saved).caches]
    assert near == [kind == "sliding_attention" for kind in kinds]


LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN_3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# As published: what equals the class's defaults is left out.
GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
    "torch_dtype": "bfloat16",
}
GEMMA_3_12B = {
    **GEMMA_3_4B,
    "text_config": {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "model_type": "gemma3_text",
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "sliding_window": 1024,
    },
}
# As transformers saves it: one width for each layer.
GEMMA_3N: dict[str, Any] = {
    "architectures": ["Gemma3nForConditionalGeneration"],
    "model_type": "gemma3n",
    "text_config": {
        "head_dim": 256,
        "hidden_size": 2048,
        "intermediate_size": [8192] * 20 + [16384] * 15,
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
        "max_position_embeddings": 32768,
        "model_type": "gemma3n_text",
        "num_attention_heads": 8,
        "num_hidden_layers": 35,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 15,
        "sliding_window": 512,
        "vocab_size": 262400,
    },
    "torch_dtype": "bfloat16",
}
MIXTRAL_8X7B = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "v_head_dim": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
BGE_M3 = {
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 250002,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "torch_dtype": "float32",
}
GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "quantization_config": {
        "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
        "quant_method": "mxfp4",
    },
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
    "torch_dtype": "bfloat16",
}


def info(config: dict[str, Any]) -> ModelInfo:
    return describe_config("model", read_config(config), source="by hand")


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (LLAMA_3_8B, 8.03),
        (QWEN_3_8B, 8.19),
        (GEMMA_3_4B, 0.675 + 3.209),  # of its report, without the vision part
        (GEMMA_3_12B, 1.012 + 10.759),
        (MIXTRAL_8X7B, 46.7),
        (DEEPSEEK_V3, 671),
        (BGE_M3, 0.568),
        (GPT_OSS_20B, 20.91),
    ],
    ids=["llama3", "qwen3", "gemma3-4b", "gemma3-12b", "mixtral", "deepseek", "bge-m3", "gpt-oss"],
)
def test_published_sizes(config: dict[str, Any], billions: float) -> None:
    assert info(config).params == pytest.approx(billions * 1e9, rel=0.005)


def test_llama_3_8b() -> None:
    model = info(LLAMA_3_8B)
    assert model.weight_bytes == pytest.approx(16.06e9, rel=0.001)
    assert cache_bytes(model, 1) == 128 * 1024
    assert cache_bytes(model, 8192, sequences=4) == 4 * 8192 * 128 * 1024
    assert (model.role, model.dtype, model.tied) == ("decoder", "bfloat16", False)
    assert model.embedding.bytes == model.output.bytes - 2 * 4096 == 2 * 128256 * 4096


def test_qwen_3_8b() -> None:
    assert cache_bytes(info(QWEN_3_8B), 1000) == 1000 * 2 * 36 * 8 * 128 * 2


@pytest.mark.parametrize(("config", "far", "near"), [(GEMMA_3_4B, 5, 29), (GEMMA_3_12B, 8, 40)])
def test_gemma_3_looks_back_a_window_in_five_of_six_layers(
    config: dict[str, Any], far: int, near: int
) -> None:
    model = info(config)
    row = 2 * 2 * 256 * (4 if far == 5 else 8)  # keys and values, two bytes, heads
    assert cache_bytes(model, 32768) == row * (far * 32768 + near * 1024)
    assert [cache.window for cache in model.caches[:6]] == [1024] * 5 + [None]
    assert model.tied


def test_deepseek_v3_keeps_576_numbers_per_token_and_layer() -> None:
    model = info(DEEPSEEK_V3)
    assert {(cache.keys, cache.values) for cache in model.caches} == {(576, 0)}
    assert cache_bytes(model, 4096) == 4096 * 61 * 576 * 2
    assert model.experts == (256, 8)
    assert model.weight_bytes == pytest.approx(671e9, rel=0.01)  # fp8
    assert model.intermediate == 2048


def test_gpt_oss_packs_its_experts_only() -> None:
    model = info(GPT_OSS_20B)
    assert model.weight_bytes == pytest.approx(13.76e9, rel=0.005)  # its safetensors
    assert cache_bytes(model, 8192) == 2 * 2 * 8 * 64 * 12 * (8192 + 128)
    assert model.experts == (32, 4)


def test_an_encoder_keeps_no_cache() -> None:
    model = info(BGE_M3)
    assert (model.role, model.caches, cache_bytes(model, 512)) == ("encoder", (), 0)
    both_ways = {**QWEN_3_8B, "use_bidirectional_attention": True}
    assert info(both_ways).role == "encoder"


@pytest.mark.parametrize(
    ("packing", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, 4 + 20 / 64),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
            },
            8,
        ),
    ],
)
def test_packed_weights(packing: dict[str, Any], bits: float) -> None:
    plain, packed = info(LLAMA_3_8B), info({**LLAMA_3_8B, "quantization_config": packing})
    assert packed.params == plain.params
    assert packed.blocks[0].bytes == pytest.approx(plain.blocks[0].params * bits / 8, rel=1e-6)
    assert packed.embedding == plain.embedding


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "config.json has no field 'hidden_size' or"),
        ({"num_hidden_layers": "many"}, "config.json: 'num_hidden_layers' is 'many'"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1,000,000,000; 10,000 is the limit"),
        ({"num_attention_heads": True}, "'num_attention_heads' is True"),
        (
            {"num_attention_heads": 7},
            "no field 'head_dim', and 'hidden_size' 4096 is not a multiple",
        ),
        ({"vocab_size": -1}, "'vocab_size' is -1"),
        ({"model_type": None}, "'model_type' is missing"),
        ({"model_type": "rwkv"}, "type 'rwkv' has is not known from its configuration"),
        ({"is_encoder_decoder": True}, "'is_encoder_decoder' is true"),
        ({"torch_dtype": "int3"}, "'dtype' is 'int3'; known: "),
        (
            {"layer_types": ["full_attention"]},
            "'layer_types' is not a list with one item for each of 32 layers",
        ),
        ({"layer_types": [[]] * 32}, "'layer_types' holds '\\[\\]', not known here"),
        ({"layer_types": ["odd"] * 32}, "'layer_types' holds 'odd', not known here"),
        ({"layer_types": ["sliding_attention"] * 32}, "has no field 'sliding_window'"),
        ({"num_local_experts": 8}, "has no field 'num_experts_per_tok' or"),
        ({"quantization_config": []}, "'quantization_config' is not an object"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config has no field"),
        ({"quantization_config": {"quant_method": "hqq"}}, "'hqq' does not say its bits"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HeaderError, match=message):
        info({**LLAMA_3_8B, **change})


SOMETHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@settings(deadline=20_000)
@given(st.sampled_from([LLAMA_3_8B, GPT_OSS_20B, DEEPSEEK_V3, GEMMA_3_4B, BGE_M3]), st.data())
def test_any_value_anywhere_is_read_or_named(config: dict[str, Any], data: st.DataObject) -> None:
    inner = dict(config.get("text_config", {}))
    key = data.draw(st.sampled_from(sorted({*config, *inner, "head_dim", "layer_types", "dtype"})))
    value = data.draw(SOMETHING)
    changed = {**config, key: value}
    if inner and key in inner:
        changed = {**config, "text_config": {**inner, key: value}}
    try:
        assert info(changed).params >= 0
    except HeaderError as error:
        assert "config.json" in str(error)  # noqa: PT017


def test_widths_may_be_one_a_layer() -> None:
    info = read_config(GEMMA_3N)
    assert info.intermediate == 16384
    assert [cache.window for cache in info.caches if cache.keys] == ([512] * 4 + [None]) * 4
    with pytest.raises(HeaderError, match="'intermediate_size' is 'x'"):
        read_config({**LLAMA_3_8B, "intermediate_size": [14336, "x"]})
