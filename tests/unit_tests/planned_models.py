"""Models to plan for: published shapes as headers, with no weights, and small uneven ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_gpu.hardware.devices import Device
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.info import LayerCache, ModelInfo, Weights
from langchain_gpu.planner import imagined
from tests.unit_tests.test_hf_config import BGE_M3
from tests.unit_tests.tiny_gguf import head_and_rest

MIB, GIB = 2**20, 2**30
F32, Q4_K, Q6_K = 0, 12, 14
RERANKER = {
    **BGE_M3,
    "architectures": ["XLMRobertaForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
}
# As published, in front of the language model's own: 4.92 GB with its tokenizer.
LLAMA_31_8B_Q4_K_M = 4_920_739_232


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    """A model's folder with its configuration alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def from_config(folder: Path, config: Mapping[str, Any]) -> ModelInfo:
    """A model by its configuration."""
    return read_info(write_config(folder, config))


def write_llama_31_8b(file: Path) -> Path:
    """Llama 3.1 8B as llama.cpp's quantize tool lays out a Q4_K_M: a head, and a hole for the rest.

    The tool gives values and the feed-forward part's way back more bits in half of the layers:
    the first and last eighth, and every third between them.
    """
    facts: dict[str, Any] = {
        "general.architecture": "llama",
        "general.file_type": 15,
        "llama.block_count": 32,
        "llama.context_length": 131_072,
        "llama.embedding_length": 4096,
        "llama.feed_forward_length": 14_336,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "llama.vocab_size": 128_256,
        "tokenizer.ggml.tokens": ["x"] * 128_256,
    }
    tensors: dict[str, tuple[int, tuple[int, ...]]] = {
        "token_embd.weight": (Q4_K, (4096, 128_256)),
        "output.weight": (Q6_K, (4096, 128_256)),
        "output_norm.weight": (F32, (4096,)),
    }
    for layer in range(32):
        more = Q6_K if layer < 4 or layer >= 28 or layer % 3 == 0 else Q4_K
        shapes = {
            "attn_norm": (F32, (4096,)),
            "attn_q": (Q4_K, (4096, 4096)),
            "attn_k": (Q4_K, (4096, 1024)),
            "attn_v": (more, (4096, 1024)),
            "attn_output": (Q4_K, (4096, 4096)),
            "ffn_norm": (F32, (4096,)),
            "ffn_gate": (Q4_K, (4096, 14_336)),
            "ffn_up": (Q4_K, (4096, 14_336)),
            "ffn_down": (more, (14_336, 4096)),
        }
        tensors |= {f"blk.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    head, rest = head_and_rest(facts, tensors)
    with file.open("wb") as opened:
        opened.write(head)
        opened.truncate(len(head) + rest)  # a hole takes no space on a disk
    return file


def uneven(
    *,
    layers: int = 6,
    gguf: bool = True,
    tied: bool = False,
    base: int = 100 * MIB,
    step: int = MIB,
    keys: int = 512,
    kind: str = "BF16",
) -> ModelInfo:
    """A decoder no two of whose layers weigh the same, so that their sum tells which they are."""
    return ModelInfo(
        name="uneven",
        format="gguf" if gguf else "safetensors",
        architecture="llama",
        role="decoder",
        layers=layers,
        hidden=256,
        heads=4,
        intermediate=512,
        vocab=1000,
        context_length=65_536,
        dtype="Q8_0" if gguf else "bfloat16",
        embedding=Weights(params=50 * MIB // 2, bytes=50 * MIB, by_type={"BF16": 50 * MIB}),
        blocks=tuple(
            Weights(
                params=(base + step * 2**layer) // 2,
                bytes=base + step * 2**layer,
                by_type={kind: base + step * 2**layer},
            )
            for layer in range(layers)
        ),
        output=Weights(params=0, bytes=0)
        if tied
        else Weights(params=60 * MIB // 2, bytes=60 * MIB, by_type={"BF16": 60 * MIB}),
        tied=tied,
        caches=(LayerCache(keys=keys, values=keys),) * layers,
    )


def block_bytes(info: ModelInfo, layers: range) -> int:
    """What some of its layers weigh."""
    return sum(info.blocks[layer].bytes for layer in layers)


def machine(*gpus: float, ram: float = 64) -> list[Device]:
    """GPUs and memory in GiB."""
    return imagined([int(count * GIB) for count in gpus], int(ram * GIB))
