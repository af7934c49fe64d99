"""The models that are measured: real weights, or random ones of a real configuration."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from benchmarks.workloads import WINDOW
from langchain_gpu.models.resolve import resolve

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BERT_BASE = "bert-base"
DECODER = "qwen2.5-0.5b"
RERANKER = "minilm-reranker"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def prepare(name: str, scratch: Path, *, tokenizer: Path | None = None) -> Path:
    """Return the folder of a model that reads WINDOW tokens.

    Args:
        name: A folder, a model's name, or `"bert-base"` or `"qwen2.5-0.5b"` for random weights of
            that configuration: speed does not depend on the weights, and no hub is needed.
            `"minilm-reranker"` is MiniLM with a random head for scores.
        scratch: An empty folder to write to.
        tokenizer: Folder that has MiniLM, whose tokenizer is BERT's; its package if None.
    """
    if name == DECODER:
        return _decoder(scratch / DECODER, tokenizer or resolve(MINILM).path)
    if name == RERANKER:
        return _reranker(scratch / RERANKER, tokenizer or resolve(MINILM).path)
    if name == BERT_BASE:
        return _bert_base(scratch / "bert-base", tokenizer or resolve(MINILM).path)
    return _widened(resolve(name).path, scratch / Path(name).name)


def convert_in(scratch: Path) -> None:
    """Have converted models kept there: those of a passing folder would pile up in the cache.

    Processes started later do the same. Call it when the models' files have been found.
    """
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")


def _widened(source: Path, target: Path) -> Path:
    """Link to a model's files, with the window its positions allow in place of a smaller one.

    all-MiniLM-L6-v2 says 256 and knows 512 positions; cut to 256, long texts would be short ones.
    """
    said = source / "sentence_bert_config.json"
    settings = json.loads(said.read_text(encoding="utf-8")) if said.exists() else {}
    if settings.get("max_seq_length", WINDOW) >= WINDOW:
        return source
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.name != said.name:
            (target / path.name).symlink_to(path.resolve())
    settings["max_seq_length"] = WINDOW
    (target / said.name).write_text(json.dumps(settings), encoding="utf-8")
    return target


def _bert_base(target: Path, tokenizer: Path) -> Path:
    """Write BERT-base with random weights and MiniLM's tokenizer, which is BERT's own."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel

    parts = target / "parts"
    parts.mkdir(parents=True)
    for name in _TOKENIZER:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, parts / name)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30522, max_position_embeddings=WINDOW)
    BertModel(config).save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=WINDOW)
    pooling = Pooling(config.hidden_size, "mean")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    model.save(str(target / "model"))
    return target / "model"


def _decoder(target: Path, tokenizer: Path) -> Path:
    """Write a Qwen2.5 with random weights, and the words of MiniLM's tokenizer for its own."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=30720,  # room for what the tokenizer's class adds
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=102,
        pad_token_id=0,
    )
    with torch.device("cpu"):
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(target)
    names = ["input_ids", "attention_mask"]
    AutoTokenizer.from_pretrained(tokenizer, model_input_names=names).save_pretrained(target)
    return target


def _reranker(target: Path, source: Path) -> Path:
    """Write a cross-encoder of MiniLM's weights: its scores mean nothing, but differ."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, dtype=torch.float32
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target
