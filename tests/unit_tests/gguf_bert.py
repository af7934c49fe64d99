"""A sentence-transformers BERT as a GGUF file, for the tests of llama.cpp."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_NORMAL, _CONTROL = 1, 3
_POOLING = {"mean": 1, "cls": 2, "rank": 4}
_OUTSIDE = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
# The head of a reranker: it pools, and scores.
_HEAD = {"pooler.dense": "cls", "classifier": "cls.output"}
_INSIDE = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_gguf(folder: Path, file: Path, *, pooling: str | None = "mean") -> Path:
    """Write the BERT in `folder` to `file`, in float32."""
    config = json.loads((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = [f"[unused{row}]" for row in range(config["vocab_size"])]
    for word, row in vocabulary.items():
        words[row] = word
    facts: dict[str, tuple[int, Any]] = {
        "general.architecture": (_STRING, "bert"),
        "general.file_type": (_UINT32, 0),
        "bert.block_count": (_UINT32, config["num_hidden_layers"]),
        "bert.context_length": (_UINT32, config["max_position_embeddings"]),
        "bert.embedding_length": (_UINT32, config["hidden_size"]),
        "bert.feed_forward_length": (_UINT32, config["intermediate_size"]),
        "bert.attention.head_count": (_UINT32, config["num_attention_heads"]),
        "bert.attention.layer_norm_epsilon": (_FLOAT32, config["layer_norm_eps"]),
        "bert.attention.causal": (_BOOL, False),
        "tokenizer.ggml.model": (_STRING, "bert"),
        "tokenizer.ggml.pre": (_STRING, "default"),
        "tokenizer.ggml.tokens": (_ARRAY, (_STRING, [_piece(word) for word in words])),
        "tokenizer.ggml.token_type": (
            _ARRAY,
            (_INT32, [_CONTROL if _special(word) else _NORMAL for word in words]),
        ),
        "tokenizer.ggml.token_type_count": (_UINT32, config["type_vocab_size"]),
        "tokenizer.ggml.bos_token_id": (_UINT32, vocabulary["[CLS]"]),
        "tokenizer.ggml.eos_token_id": (_UINT32, vocabulary["[SEP]"]),
        "tokenizer.ggml.seperator_token_id": (_UINT32, vocabulary["[SEP]"]),  # as it is spelled
        "tokenizer.ggml.padding_token_id": (_UINT32, vocabulary["[PAD]"]),
        "tokenizer.ggml.unknown_token_id": (_UINT32, vocabulary["[UNK]"]),
        "tokenizer.ggml.mask_token_id": (_UINT32, vocabulary["[MASK]"]),
    }
    if pooling is not None:
        facts["bert.pooling_type"] = (_UINT32, _POOLING[pooling])
    if pooling == "rank":  # what llama.cpp puts behind the query, and behind the document
        facts["tokenizer.ggml.add_sep_token"] = (_BOOL, False)
        facts["tokenizer.ggml.add_eos_token"] = (_BOOL, True)
    loaded = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("bert."): tensor for name, tensor in loaded.items()}
    tensors = {
        name: np.ascontiguousarray(weights[source], np.float32)
        for source, name in _names(config["num_hidden_layers"]).items()
        if source in weights
    }
    _write(file, facts, tensors)
    return file


def _special(word: str) -> bool:
    return word in {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def _piece(word: str) -> str:
    """llama.cpp marks where words begin, not where they go on."""
    if _special(word):
        return word
    return word[2:] if word.startswith("##") else "\u2581" + word


def _names(layers: int) -> dict[str, str]:
    pairs = _OUTSIDE | _HEAD
    for layer in range(layers):
        for source, name in _INSIDE.items():
            pairs[f"encoder.layer.{layer}.{source}"] = f"blk.{layer}.{name}"
    found = {}
    for source, name in pairs.items():
        if name.endswith(".weight"):
            found[source] = name
        else:
            found |= {f"{source}.{part}": f"{name}.{part}" for part in ("weight", "bias")}
    return found


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        inner, items = value
        body = b"".join(_value(inner, item) for item in items)
        return struct.pack("<IQ", inner, len(items)) + body
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}[kind], value)


def _write(
    file: Path, facts: dict[str, tuple[int, Any]], tensors: dict[str, np.ndarray[Any, Any]]
) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    for name, (kind, value) in facts.items():
        head += _text(name) + struct.pack("<I", kind) + _value(kind, value)
    offset = 0
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, offset)
        offset += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    with file.open("wb") as out:
        out.write(head + bytes(-len(head) % _ALIGNMENT))
        for tensor in tensors.values():
            out.write(tensor.tobytes() + bytes(-tensor.nbytes % _ALIGNMENT))
