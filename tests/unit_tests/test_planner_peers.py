"""The plan beside what other planners say of the same model; `docs/planning.md` has the reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import infer_auto_device_map  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, LlamaConfig
from xllamacpp import estimate_gpu_layers

from langchain_gpu.models.headers import read_info
from langchain_gpu.planner import Chat, ComponentPlan, Policy, plan
from tests.unit_tests.planned_models import (
    GIB,
    MIB,
    block_bytes,
    from_config,
    machine,
    write_llama_31_8b,
)
from tests.unit_tests.test_hf_config import LLAMA_3_8B

CONTEXT = 8192


def weights_on_gpu(found: ComponentPlan) -> int:
    return sum(
        term.bytes
        for share in found.shares
        if share.device != "cpu"
        for term in share.terms
        if term.what == "weights"
    )


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_31_8b(tmp_path_factory.mktemp("llama") / "Llama-3.1-8B-Q4_K_M.gguf")


@pytest.mark.parametrize("gib", [3, 4, 5, 6, 7, 8, 12])
def test_llama_cpp_by_ollamas_estimate(gguf: Path, gib: int) -> None:
    """Ollama counts attention without flash attention, so fewer layers fit."""
    there = [{"name": "CUDA0", "memory_free": gib * GIB, "memory_total": gib * GIB}]
    theirs = estimate_gpu_layers(there, str(gguf), [], CONTEXT, 512, 1, "f16")
    info = read_info(gguf)
    ours = plan([Chat(info=info, context=CONTEXT)], machine(gib), Policy(reserve=0))["chat"]
    assert ours.n_gpu_layers is not None
    assert theirs.layers <= ours.n_gpu_layers <= theirs.layers + 3
    assert ours.on("cuda:0") <= gib * GIB
    if ours.n_gpu_layers == theirs.layers == 33:
        # What it counts besides: the embedding table, which llama.cpp leaves to the CPU, a larger
        # buffer to compute in, and room for one more layer with its cache.
        (computed,) = (term.bytes for term in ours.shares[0].terms if term.what == "activations")
        layer = info.blocks[0].bytes + GIB // 32
        more = info.embedding.bytes + theirs.graph - computed + layer
        assert theirs.vram_size - ours.on("cuda:0") == pytest.approx(more, rel=0.01)


@pytest.mark.parametrize("gib", [6, 8, 12, 16, 20])
def test_transformers_by_accelerate(
    tmp_path: Path, gib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate counts weights alone: where it puts all of them, a chat may find no room."""
    shape = {k: v for k, v in LLAMA_3_8B.items() if k not in {"torch_dtype", "architectures"}}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=torch.bfloat16)
    theirs = infer_auto_device_map(
        model,
        max_memory={0: gib * GIB, "cpu": 64 * GIB},
        no_split_module_classes=["LlamaDecoderLayer"],
    )
    info = from_config(tmp_path, LLAMA_3_8B)
    layers = 32 if theirs.get("") == 0 else sum(
        place == 0 for name, place in theirs.items() if name.startswith("model.layers.")
    )  # fmt: skip
    ours = plan([Chat(info=info, context=CONTEXT)], machine(gib), Policy(reserve=0))["chat"]
    here = ours.shares[0]
    assert here.layers is not None
    assert here.bytes <= gib * GIB
    cache, computed = (
        sum(term.bytes for term in here.terms if term.what == what)
        for what in ("kv_cache", "activations")
    )
    needed = block_bytes(info, range(layers)) + cache + computed + 512 * MIB
    if layers > here.layers:  # what it puts there does not fit beside the cache
        assert needed + info.embedding.bytes > gib * GIB
    else:
        assert weights_on_gpu(ours) >= block_bytes(info, range(layers))
