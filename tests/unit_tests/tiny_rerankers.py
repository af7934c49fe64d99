"""Small rerankers with random weights, one for each way a real one may behave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from tests.unit_tests.tiny_models import LETTERS, SPECIAL, WINDOW, WORDS

_SHARP = 0.4  # of random weights: enough for scores to spread
_SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": _SHARP,
}
_WORD_PIECES = SPECIAL + WORDS + LETTERS + [f"##{letter}" for letter in LETTERS]
PROMPT_WINDOW = 512

# Chats only, as Qwen3's: messages of other roles are left out.
CHAT = (
    "{% for message in messages %}{% if message.role in ['system', 'user', 'assistant'] %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A template that knows what a reranker is: other roles become other words.
ROLES = (
    "{% for message in messages %}"
    "{% if message.role == 'query' %}Q: {{ message.content }}\n"
    "{% elif message.role == 'document' %}D: {{ message.content }}\n"
    "{% elif message.role == 'system' %}{{ message.content }}\n{% endif %}"
    "{% endfor %}Answer: "
)


def build(folder: Path, name: str) -> str:
    """Save the tiny reranker called `name` under `folder` and return its path."""
    torch.manual_seed(0)
    path = folder / name
    kind, _, variant = name.partition("-")
    if kind == "qwen3":
        _qwen3(path, variant)
    else:
        {
            "bert": _bert,
            "roberta": _roberta,
            "xlm": _xlm_roberta,
            "modernbert": _modernbert,
        }[kind](path, variant)
    return str(path)


def _bert(path: Path, variant: str) -> None:
    labels = 3 if variant == "three-labels" else 1
    config = BertConfig(
        vocab_size=len(_WORD_PIECES),
        max_position_embeddings=WINDOW,
        pad_token_id=0,
        type_vocab_size=1 if variant == "typeless" else 2,
        num_labels=labels,
        **_SIZES,
    )
    model = BertForSequenceClassification(config)
    if variant == "nan":  # breaks on the word "slow", as half precision breaks on some texts
        with torch.no_grad():
            row = _WORD_PIECES.index("slow")
            model.bert.embeddings.word_embeddings.weight[row] = torch.nan
    typed = variant != "typeless"
    _save(model, _word_pieces("[CLS] $A [SEP] $B:1 [SEP]:1", types=typed), path)
    activations: dict[str, Any] = {
        "identity": torch.nn.Identity(),
        "tanh": torch.nn.Tanh(),
        "sigmoid": torch.nn.Sigmoid(),
    }
    if variant in activations:
        model = CrossEncoder(str(path), activation_fn=activations[variant], device="cpu")
        model.save_pretrained(str(path))


def _roberta(path: Path, _: str) -> None:
    config = RobertaConfig(**_positions())
    _save(RobertaForSequenceClassification(config), _two_separators(), path)


def _xlm_roberta(path: Path, _: str) -> None:
    config = XLMRobertaConfig(**_positions())
    _save(XLMRobertaForSequenceClassification(config), _two_separators(), path)


def _modernbert(path: Path, _: str) -> None:
    config = ModernBertConfig(
        vocab_size=len(_WORD_PIECES),
        max_position_embeddings=64,
        local_attention=6,
        layer_types=["full_attention", "sliding_attention"],
        num_labels=1,
        pad_token_id=0,
        cls_token_id=2,
        bos_token_id=2,
        sep_token_id=3,
        eos_token_id=3,
        **_SIZES,
    )
    tokenizer = _word_pieces("[CLS] $A [SEP] $B [SEP]", types=False)
    _save(ModernBertForSequenceClassification(config), tokenizer, path)


def _qwen3(path: Path, variant: str) -> None:
    """A language model; the variants are its chat template, its padding token and its head."""
    template = {"roles": ROLES, "bare": None, "classifier": None}.get(variant, CHAT)
    tokenizer = _byte_pairs(template, padded=variant != "unpadded")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=PROMPT_WINDOW,
        num_key_value_heads=1,
        head_dim=12,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        num_labels=1,
        tie_word_embeddings=True,
        **_SIZES,
    )
    kind = Qwen3ForSequenceClassification if variant == "classifier" else Qwen3ForCausalLM
    _save(kind(config), tokenizer, path)


def _positions() -> dict[str, Any]:
    """Settings of the models whose positions begin behind the padding id."""
    return {
        "vocab_size": len(_WORD_PIECES),
        "max_position_embeddings": WINDOW + 2,
        "pad_token_id": 0,
        "type_vocab_size": 1,
        "num_labels": 1,
        **_SIZES,
    }


def _two_separators() -> PreTrainedTokenizerFast:
    return _word_pieces("[CLS] $A [SEP] [SEP] $B [SEP]", types=False)


def _word_pieces(pair: str, *, types: bool) -> PreTrainedTokenizerFast:
    vocabulary = {word: row for row, word in enumerate(_WORD_PIECES)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=WINDOW,
        model_input_names=[*names, "token_type_ids"] if types else names,
        **{f"{each.strip('[]').lower()}_token": each for each in SPECIAL},
    )


def _byte_pairs(template: str | None, *, padded: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that has learned two words: yes and no."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["the query the document", "<Query>: <Document>: <Instruct>:", "system user assistant"]
    backend.train_from_iterator(["yes\nno\n"] * 20 + words * 5, trainer)
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    for token in ("<think>", "</think>"):
        backend.add_tokens([AddedToken(token, special=False, normalized=False)])
    padding = {"pad_token": "<|endoftext|>"} if padded else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=PROMPT_WINDOW,
        model_input_names=["input_ids", "attention_mask"],
        eos_token="<|im_end|>",  # noqa: S106
        chat_template=template,
        **padding,
    )


def _save(model: Any, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    model.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
