"""Small models with random weights, one for each way a real one may behave."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

WORDS = [
    *("the", "a", "of", "and", "to", "in", "is", "it", "gpu", "cpu", "memory"),
    *("batch", "token", "text", "model", "fast", "slow", "one", "two"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?:")
WINDOW = 32
LONG_WINDOW = 1024


def build(folder: Path, name: str) -> str:
    """Save the tiny model called `name` under `folder` and return its path."""
    torch.manual_seed(0)
    makers: dict[str, Callable[[Path], SentenceTransformer | SparseEncoder]] = {
        "bert": _bert,
        "bert-without-prompt": _bert_without_prompt,
        "bert-two-heads": _bert_two_heads,
        "bert-short": _bert_short,
        "bert-left-cut": _bert_left_cut,
        "sparse": _sparse,
        "roberta-cls": _roberta,
        "xlm-roberta": _xlm_roberta,
        "modernbert": _modernbert,
        "mpnet": _mpnet,
        "qwen3-last-token": _qwen3,
        "modernbert-long": partial(_modernbert, window=LONG_WINDOW),
        "qwen3-long": partial(_qwen3, window=LONG_WINDOW, spread=_SHARP),
        "gemma3-long": _gemma3,
        "t5": _t5,
        "static": _static,
        "nan": _nan,
    }
    model = makers[name](folder)
    path = folder / name
    model.save(str(path))
    return str(path)


def _tokenizer(
    side: str = "right", *, bert: bool = True, window: int = WINDOW, **more: Any
) -> PreTrainedTokenizerFast:
    vocabulary = SPECIAL + WORDS + LETTERS + [f"##{letter}" for letter in LETTERS]
    backend = Tokenizer(
        models.WordPiece({word: row for row, word in enumerate(vocabulary)}, unk_token="[UNK]")  # noqa: S106
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    template = "[CLS] $A [SEP]" if bert else "$A [SEP]"
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=window,
        padding_side=side,
        model_input_names=[*names, "token_type_ids"] if bert else names,
        **more,
        **{f"{each.strip('[]').lower()}_token": each for each in SPECIAL},
    )


_SHARP = 0.4  # of random weights: enough for tokens to attend to some and not to others
_SIZES: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(WORDS) + 2 * len(LETTERS),
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _transformer(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> Transformer:
    parts = folder / "parts"
    model.save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    return Transformer(str(parts))


def _bert(folder: Path) -> SentenceTransformer:
    bert = BertModel(BertConfig(max_position_embeddings=WINDOW, pad_token_id=0, **_SIZES))
    modules = [_transformer(folder, bert, _tokenizer()), Pooling(24, "mean"), Normalize()]
    return SentenceTransformer(
        modules=modules, prompts={"query": "query: ", "passage": "the text: "}, device="cpu"
    )


def _bert_without_prompt(folder: Path) -> SentenceTransformer:
    model = _bert(folder)
    model.set_pooling_include_prompt(include_prompt=False)
    return model


def _bert_two_heads(folder: Path) -> SentenceTransformer:
    """A model that tells queries from documents behind the transformer, not before it."""
    heads = [Dense(24, 24), Dense(24, 24)]
    router = Router.for_query_document(query_modules=heads[:1], document_modules=heads[1:])
    return SentenceTransformer(modules=[*list(_bert(folder))[:2], router], device="cpu")


def _bert_short(folder: Path) -> SentenceTransformer:
    """A model whose own settings keep some leading dimensions."""
    model = _bert(folder)
    model.truncate_dim = 8
    return model


def _bert_left_cut(folder: Path) -> SentenceTransformer:
    """A model that reads the end of a long text."""
    bert = BertModel(BertConfig(max_position_embeddings=WINDOW, pad_token_id=0, **_SIZES))
    tokenizer = _tokenizer(window=WINDOW - 2, truncation_side="left")
    modules = [_transformer(folder, bert, tokenizer), Pooling(24, "mean"), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def _sparse(folder: Path) -> SparseEncoder:
    """No embedder: a model with a number for each word of its vocabulary."""
    parts = folder / "parts"
    BertForMaskedLM(BertConfig(pad_token_id=0, **_SIZES)).save_pretrained(parts)
    _tokenizer().save_pretrained(parts)
    return SparseEncoder(str(parts), device="cpu")


def _roberta(folder: Path) -> SentenceTransformer:
    config = RobertaConfig(
        max_position_embeddings=WINDOW + 2, pad_token_id=0, type_vocab_size=1, **_SIZES
    )
    modules = [
        _transformer(folder, RobertaModel(config), _tokenizer(bert=False)),
        Pooling(24, "cls"),
    ]
    return SentenceTransformer(modules=modules, device="cpu")


def _xlm_roberta(folder: Path) -> SentenceTransformer:
    config = XLMRobertaConfig(
        max_position_embeddings=WINDOW + 2,
        pad_token_id=0,
        type_vocab_size=1,
        initializer_range=_SHARP,
        **_SIZES,
    )
    transformer = _transformer(folder, XLMRobertaModel(config), _tokenizer(bert=False))
    modules = [transformer, Pooling(24, ["mean", "max", "weightedmean"])]
    return SentenceTransformer(modules=modules, device="cpu")


def _modernbert(folder: Path, window: int = WINDOW) -> SentenceTransformer:
    """Layers that see all tokens and layers that see three to each side, by turns."""
    config = ModernBertConfig(
        max_position_embeddings=2 * window,
        local_attention=6,
        layer_types=["full_attention", "sliding_attention"],
        initializer_range=_SHARP,
        **dict.fromkeys(["pad_token_id", "cls_token_id", "bos_token_id", "eos_token_id"], 0),
        sep_token_id=0,
        **_SIZES,
    )
    transformer = _transformer(
        folder, ModernBertModel(config), _tokenizer(bert=False, window=window)
    )
    return SentenceTransformer(modules=[transformer, Pooling(24, "cls")], device="cpu")


def _mpnet(folder: Path) -> SentenceTransformer:
    config = MPNetConfig(max_position_embeddings=WINDOW + 2, pad_token_id=0, **_SIZES)
    transformer = _transformer(folder, MPNetModel(config), _tokenizer(bert=False))
    return SentenceTransformer(
        modules=[transformer, Pooling(24, "mean"), Normalize()], device="cpu"
    )


def _qwen3(folder: Path, window: int = WINDOW, spread: float = 0.02) -> SentenceTransformer:
    config = Qwen3Config(
        max_position_embeddings=2 * window,
        num_key_value_heads=1,
        head_dim=12,
        pad_token_id=0,
        initializer_range=spread,
        **_SIZES,
    )
    modules = [
        _transformer(folder, Qwen3Model(config), _tokenizer("left", bert=False, window=window)),
        Pooling(24, "lasttoken"),
        Normalize(),
    ]
    return SentenceTransformer(modules=modules, device="cpu")


def _gemma3(folder: Path) -> SentenceTransformer:
    """A model whose buffers are not all float32: it scales embeddings in what it computes in."""
    config = Gemma3TextConfig(
        max_position_embeddings=LONG_WINDOW,
        num_key_value_heads=1,
        head_dim=12,
        pad_token_id=0,
        initializer_range=_SHARP,
        **_SIZES,
    )
    transformer = _transformer(
        folder, Gemma3TextModel(config), _tokenizer(bert=False, window=LONG_WINDOW)
    )
    return SentenceTransformer(modules=[transformer, Pooling(24, "mean")], device="cpu")


def _t5(folder: Path) -> SentenceTransformer:
    """A model of which transformers keeps one matrix a layer in float32 where float16 is asked."""
    sizes = {"d_model": 24, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=_SIZES["vocab_size"], pad_token_id=0, **sizes)
    transformer = _transformer(folder, T5EncoderModel(config), _tokenizer(bert=False))
    return SentenceTransformer(modules=[transformer, Pooling(24, "mean")], device="cpu")


def _static(_: Path) -> SentenceTransformer:
    weights = np.random.default_rng(0).normal(size=(_SIZES["vocab_size"], 24)).astype(np.float32)
    embedding = StaticEmbedding(_tokenizer().backend_tokenizer, embedding_weights=weights)
    return SentenceTransformer(modules=[embedding], device="cpu")


def _nan(folder: Path) -> SentenceTransformer:
    """A model that breaks on the word "slow", as half precision breaks on some texts."""
    model = _bert(folder)
    row = len(SPECIAL) + WORDS.index("slow")
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight[row] = torch.nan
    return model
