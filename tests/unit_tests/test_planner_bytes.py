"""The planner's arithmetic, against published numbers and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from langchain_gpu.models.headers import read_info
from langchain_gpu.models.info import ModelInfo
from langchain_gpu.planner import Chat, ComponentPlan, Encoder, Policy, plan
from langchain_gpu.planner.layout import lay
from langchain_gpu.planner.pools import make_pools
from langchain_gpu.planner.suggest import BITS, with_bits
from tests.unit_tests.planned_models import (
    GIB,
    LLAMA_31_8B_Q4_K_M,
    MIB,
    RERANKER,
    from_config,
    machine,
    uneven,
    write_llama_31_8b,
)
from tests.unit_tests.test_hf_config import (
    BGE_M3,
    DEEPSEEK_V3,
    GEMMA_3_4B,
    GPT_OSS_20B,
    LLAMA_3_8B,
    MIXTRAL_8X7B,
    QWEN_3_8B,
)

DEEPSEEK_V2_LITE = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "v_head_dim": 128,
    "vocab_size": 102400,
}
# Gigabytes of the files that are published for Llama 3.1 8B Instruct.
PUBLISHED = {
    "F16": 16.07,
    "Q8_0": 8.54,
    "Q6_K": 6.60,
    "Q5_K_M": 5.73,
    "Q4_K_M": 4.92,
    "Q4_K_S": 4.69,
    "Q3_K_M": 4.02,
    "Q3_K_S": 3.66,
    "Q2_K": 3.18,
}
PLENTY = machine(4000, ram=9000)


def chat_plan(info: ModelInfo, **settings: Any) -> ComponentPlan:
    return plan([Chat(info=info, **settings)], PLENTY)["chat"]


@pytest.fixture
def llama_gguf(tmp_path: Path) -> ModelInfo:
    return read_info(write_llama_31_8b(tmp_path / "Llama-3.1-8B-Q4_K_M.gguf"))


@pytest.mark.parametrize(
    ("config", "gigabytes"),
    [
        (LLAMA_3_8B, 16.06),
        (QWEN_3_8B, 16.38),
        (GEMMA_3_4B, 7.77),  # without its vision part
        (MIXTRAL_8X7B, 93.4),
        (DEEPSEEK_V2_LITE, 31.4),
    ],
    ids=["llama3", "qwen3", "gemma3", "mixtral", "deepseek-v2-lite"],
)
def test_weights_in_bfloat16(tmp_path: Path, config: dict[str, Any], gigabytes: float) -> None:
    found = chat_plan(from_config(tmp_path, config), context=4096)
    assert found.decision == "whole"
    assert found.bytes_for("weights") == pytest.approx(gigabytes * 1e9, rel=0.005)


@pytest.mark.parametrize(
    ("config", "dtype", "gigabytes"),
    [(BGE_M3, None, 2 * 0.568), (BGE_M3, "float32", 4 * 0.568), (RERANKER, None, 2 * 0.568)],
    ids=["bge-m3", "bge-m3 in float32", "bge-reranker-v2-m3"],
)
def test_weights_of_encoders(
    tmp_path: Path, config: dict[str, Any], dtype: str | None, gigabytes: float
) -> None:
    found = plan([Encoder(info=from_config(tmp_path, config), dtype=dtype)], PLENTY)["embedder"]
    assert found.bytes_for("weights") == pytest.approx(gigabytes * 1e9, rel=0.005)
    assert found.bytes_for("kv_cache") == 0


def test_a_gguf_file_counts_as_it_lies_there(llama_gguf: ModelInfo) -> None:
    found = chat_plan(llama_gguf)
    assert found.n_gpu_layers == 33
    assert found.bytes_for("weights") == llama_gguf.weight_bytes
    assert found.bytes_for("weights") == pytest.approx(LLAMA_31_8B_Q4_K_M, rel=0.003)


@pytest.mark.parametrize(("quantization", "gigabytes"), PUBLISHED.items())
def test_estimated_quantizations(tmp_path: Path, quantization: str, gigabytes: float) -> None:
    shrunk = with_bits(from_config(tmp_path, LLAMA_3_8B), quantization)
    assert shrunk.weight_bytes == pytest.approx(gigabytes * 1e9, rel=0.02)
    assert shrunk.format == "gguf"


def test_every_quantization_is_tested() -> None:
    assert list(PUBLISHED) == list(BITS)


@pytest.mark.parametrize(
    ("dtype", "block", "rest"),
    [("float32", 4, 4), ("float16", 2, 2), ("int8", 1, 2), ("nf4", 0.5625, 2)],
)
def test_only_blocks_are_packed(tmp_path: Path, dtype: str, block: float, rest: float) -> None:
    """bitsandbytes leaves the embedding table and the output matrix in 16 bits."""
    info = from_config(tmp_path, LLAMA_3_8B)
    blocks = sum(each.params for each in info.blocks)
    outside = info.embedding.params + info.output.params
    expected = block * blocks + rest * outside
    assert chat_plan(info, dtype=dtype).bytes_for("weights") == pytest.approx(expected, rel=1e-6)


def test_cache_of_llama_3_8b(tmp_path: Path, llama_gguf: ModelInfo) -> None:
    for info in (from_config(tmp_path, LLAMA_3_8B), llama_gguf):
        for context, bytes_ in ((8192, GIB), (4096, GIB // 2), (256, 256 * 128 * 1024)):
            assert chat_plan(info, context=context).bytes_for("kv_cache") == bytes_
        four = chat_plan(info, context=8192, sequences=4)
        assert four.bytes_for("kv_cache") == 4 * GIB


@pytest.mark.parametrize(
    ("cache_dtype", "bits"), [("float32", 32), ("q8_0", 8.5), ("q5_0", 5.5), ("q4_0", 4.5)]
)
def test_cache_types_of_llama_cpp(llama_gguf: ModelInfo, cache_dtype: str, bits: float) -> None:
    found = chat_plan(llama_gguf, context=8192, cache_dtype=cache_dtype)
    assert found.bytes_for("kv_cache") == GIB * bits / 16
    assert cache_dtype in next(
        term.formula for term in found.shares[0].terms if term.what == "kv_cache"
    )


def test_llama_cpp_rounds_a_cache_up_to_256_tokens(llama_gguf: ModelInfo) -> None:
    assert chat_plan(llama_gguf, context=1000).bytes_for("kv_cache") == 1024 * 128 * 1024


def test_transformers_keeps_its_cache_in_what_it_computes_in(tmp_path: Path) -> None:
    info = from_config(tmp_path, LLAMA_3_8B)
    assert chat_plan(info, context=1000).bytes_for("kv_cache") == 1000 * 128 * 1024
    in_32 = chat_plan(info, context=1000, dtype="float32")
    assert in_32.bytes_for("kv_cache") == 2 * 1000 * 128 * 1024
    packed = chat_plan(info, context=1000, dtype="nf4")
    assert packed.bytes_for("kv_cache") == 1000 * 128 * 1024
    with pytest.raises(ValueError, match=r"cache_dtype='q8_0' is a type of llama.cpp; .* GGUF"):
        Chat(info=info, cache_dtype="q8_0")


def test_cache_of_qwen_3(tmp_path: Path) -> None:
    found = chat_plan(from_config(tmp_path, QWEN_3_8B), context=4096)
    assert found.bytes_for("kv_cache") == 4096 * 2 * 36 * 8 * 128 * 2


@pytest.mark.parametrize(("config", "layers"), [(DEEPSEEK_V3, 61), (DEEPSEEK_V2_LITE, 27)])
def test_latent_attention_keeps_576_numbers(
    tmp_path: Path, config: dict[str, Any], layers: int
) -> None:
    found = chat_plan(from_config(tmp_path, config), context=4096)
    assert found.bytes_for("kv_cache") == 4096 * layers * 576 * 2


def test_only_the_global_layers_of_gemma_3_grow(tmp_path: Path) -> None:
    info = from_config(tmp_path, GEMMA_3_4B)
    row = 2 * 4 * 256 * 2  # keys and values, heads, their width, bytes
    short, long = (chat_plan(info, context=count).bytes_for("kv_cache") for count in (8192, 32_768))
    assert long == row * (5 * 32_768 + 29 * 1024)
    assert long - short == row * 5 * (32_768 - 8192)
    # llama.cpp computes 512 tokens at a time, and keeps them beside the window.
    llama = chat_plan(info, context=32_768, engine="llama_cpp")
    assert llama.bytes_for("kv_cache") == row * (5 * 32_768 + 29 * 1536)


def test_experts_that_rest_weigh_and_do_not_compute(tmp_path: Path) -> None:
    two = from_config(tmp_path / "two", MIXTRAL_8X7B)
    all_ = from_config(tmp_path / "all", {**MIXTRAL_8X7B, "num_experts_per_tok": 8})
    assert chat_plan(two).bytes_for("weights") == chat_plan(all_).bytes_for("weights")
    assert chat_plan(two).bytes_for("activations") < chat_plan(all_).bytes_for("activations")


def test_layers_without_a_cache_take_none(tmp_path: Path) -> None:
    kinds = ["linear_attention"] * 24 + ["full_attention"] * 8
    info = from_config(tmp_path, {**LLAMA_3_8B, "layer_types": kinds})
    found = chat_plan(info, context=8192)
    assert found.bytes_for("kv_cache") == GIB // 4
    formula = next(term.formula for term in found.shares[0].terms if term.what == "kv_cache")
    assert formula == "(8 layers x 2,048 x 8,192 tokens) x 2 B (bfloat16)"


def test_packed_experts(tmp_path: Path) -> None:
    found = chat_plan(from_config(tmp_path, GPT_OSS_20B), context=8192)
    assert found.bytes_for("weights") == pytest.approx(13.76e9, rel=0.005)


def test_a_batch_is_counted_by_its_tokens(tmp_path: Path) -> None:
    info = from_config(tmp_path, BGE_M3)
    each = 2 * (3 * 1024 + 2 * 4096)
    found = plan([Encoder(info=info, max_batch_tokens=4096)], PLENTY)["embedder"]
    assert (found.max_batch_tokens, found.dtype) == (4096, "bfloat16")
    assert found.bytes_for("activations") == 4096 * each
    # One text is longer than a batch: it is computed alone.
    long = plan([Encoder(info=info, max_batch_tokens=4096, max_length=8192)], PLENTY)["embedder"]
    assert long.bytes_for("activations") == 8192 * each


def test_a_cpu_keeps_copies_of_what_it_multiplies_faster_in_another_order(
    llama_gguf: ModelInfo,
) -> None:
    copied = sum(block.by_type["Q4_K"] for block in llama_gguf.blocks)
    (cpu,) = machine(ram=64)
    for device, more in ((cpu, copied), (replace(cpu, isa=()), 0)):
        found = plan([Chat(info=llama_gguf)], [device])["chat"]
        assert found.decision == "cpu"
        assert found.bytes_for("weights") == llama_gguf.weight_bytes + more
        # The file's pages of what was copied are never read again: the system may drop them.
        assert found.kept_on("cpu") == found.bytes - more


def test_a_tied_matrix_is_there_twice_where_two_devices_need_it() -> None:
    info = uneven(tied=True)
    gguf = plan([Chat(info=info)], machine(24))["chat"]
    assert gguf.bytes_for("weights") == info.weight_bytes + info.embedding.bytes
    assert {share.device for share in gguf.shares} == {"cuda:0", "cpu"}
    torch = plan([Chat(info=uneven(tied=True, gguf=False))], machine(24))["chat"]
    assert torch.bytes_for("weights") == info.weight_bytes
    # transformers leaves the one matrix where the table is, also when layers lie elsewhere.
    parted = lay(
        Chat(info=uneven(tied=True, gguf=False)),
        512,
        make_pools(machine(24))[:1],
        make_pools(machine(24))[1],
        on_gpu=1,
        embedding_on_cpu=False,
    )
    assert parted is not None
    weights = [term.bytes for share in parted for term in share.terms if term.what == "weights"]
    assert (len(parted), sum(weights)) == (2, info.weight_bytes)


def test_terms_add_up_to_what_is_given_away(llama_gguf: ModelInfo) -> None:
    found = plan([Chat(info=llama_gguf, context=8192)], machine(24), Policy(reserve=0))
    chat = found["chat"]
    summed = sum(
        chat.bytes_for(what) for what in ("weights", "kv_cache", "activations", "index", "overhead")
    )
    assert summed == chat.bytes == sum(pool.used for pool in found.pools)
    assert chat.as_dict()["total_bytes"] == chat.bytes
    assert chat.bytes_for("overhead") == 512 * MIB
