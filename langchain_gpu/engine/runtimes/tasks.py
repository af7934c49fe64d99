"""What a sentence-transformers model is used for: embedding texts or scoring pairs.

A task loads the model and knows how its items become features. Where our own tokenization gives
exactly what the model's own preprocessing gives, which is tried out on awkward items, it is used;
else the model's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules.tokenizer import WordTokenizer
from tokenizers import Tokenizer

from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.runtimes.loading import load_embedder, load_reranker
from langchain_gpu.engine.runtimes.model_settings import FastTokenizer
from langchain_gpu.engine.tasks.embed import EmbedOptions, TextTokenizer, check_texts
from langchain_gpu.engine.tasks.score import PairTokenizer, ScoreOptions, check_pairs
from langchain_gpu.engine.tasks.yes_no import INSTRUCTION, QWEN3, PromptTokenizer

logger = logging.getLogger(__name__)

# Texts that tell tokenizers apart: empty, space, casing, accents, scripts, controls.
_PROBES = ("", " ", "A Probe.", "naïve  café\n\tÅ 漢字 🙂 \x00 don't")
_NO_LIMIT = 10**9  # what a tokenizer without a limit says is far above


class Task(Protocol):
    """What a model is asked to do.

    Attributes:
        name: What `EmbedderConfig.task` calls it.
        work: What messages call it.
        output: Where its modules leave the result.
        options: How items are read where nothing else is said.
        example: Two items of different lengths.
        proofs: Batches of others, to compare results with.
    """

    name: ClassVar[str]
    work: ClassVar[str]
    output: ClassVar[str]
    options: ClassVar[Any]
    example: ClassVar[Sequence[Any]]
    proofs: ClassVar[Sequence[Sequence[Any]]]

    def load(self, path: Path, options: Mapping[str, Any]) -> Any:
        """Load a folder on the CPU, in its own dtype where the options name none."""

    def tokenizer(self, model: Any) -> FastTokenizer | None:
        """Return our tokenization, if it gives what the model's own gives."""

    def check(self, items: Sequence[Any], *, start: int = 0) -> None:
        """Refuse what is not an item; see `Encoder.tokenize`."""

    def lengths(self, model: Any, items: Sequence[Any], options: Any) -> NDArray[np.int64]:
        """Return the tokens of each item by the model's own tokenizer, nothing cut off."""

    def preprocess(self, model: Any, items: Sequence[Any], options: Any) -> dict[str, Any]:
        """Build features in the model's own way."""

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""


class Embed:
    """Texts to vectors, with `SentenceTransformer`."""

    name: ClassVar[str] = "embed"
    work: ClassVar[str] = "embedding"
    output: ClassVar[str] = "sentence_embedding"
    options: ClassVar[EmbedOptions] = EmbedOptions()
    example: ClassVar[Sequence[str]] = ("a b c", "d")
    proofs: ClassVar[Sequence[Sequence[str]]] = (
        ("one", "and a longer text to pad for"),
        ("alone, and of yet another length",),
    )

    def load(self, path: Path, options: Mapping[str, Any]) -> Any:
        """See `Task.load`.

        Raises:
            ValueError: The model is of another kind, of which no embedder can be made.
        """
        return load_embedder(path, options)

    def tokenizer(self, model: Any) -> TextTokenizer | None:
        """See `Task.tokenizer`."""
        hugging_face = _hugging_face(model)
        if hugging_face is None or "task" in model.get_model_kwargs():
            return None  # batches of ours do not say whether they are queries
        window = window_of(model)
        fast = TextTokenizer(
            _copy(hugging_face),
            window=window,
            inputs=hugging_face.model_input_names,
            pad_id=hugging_face.pad_token_id or 0,
            left=hugging_face.padding_side == "left",
            cut_left=hugging_face.truncation_side == "left",
        )
        probes = [*_PROBES, _beyond(window)]
        return fast if _same(fast, probes, self, model) else None

    def check(self, items: Sequence[Any], *, start: int = 0) -> None:
        """See `Task.check`."""
        check_texts(items, start=start)

    def lengths(self, model: Any, items: Sequence[str], options: EmbedOptions) -> NDArray[np.int64]:
        """See `Task.lengths`."""
        texts = [options.prompt + text for text in items]
        tokenizer = getattr(model[0], "tokenizer", None)
        if isinstance(tokenizer, Tokenizer):  # static embeddings: no special tokens
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            return np.fromiter((len(each.ids) for each in encodings), np.int64, len(texts))
        if isinstance(tokenizer, WordTokenizer):
            counts = (len(tokenizer.tokenize(text)) for text in texts)
            return np.maximum(np.fromiter(counts, np.int64, len(texts)), 1)
        if callable(tokenizer):
            ids = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            return np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter((len(text) // 4 + 2 for text in texts), np.int64, len(texts))

    def preprocess(self, model: Any, items: Sequence[str], options: EmbedOptions) -> dict[str, Any]:
        """See `Task.preprocess`."""
        extra = {"task": options.task} if options.task else {}
        features: dict[str, Any] = model.preprocess(
            list(items), prompt=options.prompt or None, **extra
        )
        return features | extra

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""
        return TextTokenizer.merge(tokens, vectors)


class Score:
    """Pairs to one logit each, with `CrossEncoder`.

    A model that classifies pairs gets them with its own special tokens around them. A language
    model is asked whether the document answers the query: in its own chat template where that
    knows queries and documents, else in the words of Qwen3-Reranker.
    """

    name: ClassVar[str] = "score"
    work: ClassVar[str] = "reranking"
    output: ClassVar[str] = "scores"
    options: ClassVar[ScoreOptions] = ScoreOptions()
    example: ClassVar[Sequence[tuple[str, str]]] = (("a", "b c"), ("d", ""))
    proofs: ClassVar[Sequence[Sequence[tuple[str, str]]]] = (
        (("one", "two"), ("a longer query", "and a longer text to pad for")),
        (("alone", "and of yet another length altogether"),),
    )

    def load(self, path: Path, options: Mapping[str, Any]) -> Any:
        """See `Task.load`.

        Raises:
            ValueError: The model has no single score, or none that it was trained for.
        """
        return load_reranker(path, options)

    def tokenizer(self, model: Any) -> PairTokenizer | PromptTokenizer | None:
        """See `Task.tokenizer`."""
        hugging_face = _hugging_face(model)
        if hugging_face is None:
            return None
        window = window_of(model)
        if self._is_prompted(model):
            pad_id = int(hugging_face.pad_token_id or 0)
            return PromptTokenizer(_copy(hugging_face), QWEN3, window=window, pad_id=pad_id)
        if "message" in getattr(model[0], "modality_config", {}):
            return None
        fast = PairTokenizer.framed(
            _copy(hugging_face),
            window=window,
            inputs=hugging_face.model_input_names,
            pad_id=hugging_face.pad_token_id or 0,
            left=hugging_face.padding_side == "left",
        )
        if fast is None:
            return None
        long = _beyond(window)
        probes = [(left, right) for left in (*_PROBES[1:], long) for right in (*_PROBES, long)]
        return fast if _same(fast, probes, self, model) else None

    def check(self, items: Sequence[Any], *, start: int = 0) -> None:
        """See `Task.check`."""
        check_pairs(items, start=start)

    def lengths(self, model: Any, items: Sequence[Any], options: ScoreOptions) -> NDArray[np.int64]:
        """See `Task.lengths`."""
        mask = self.preprocess(model, items, options)["attention_mask"]
        lengths: NDArray[np.int64] = mask.sum(dim=1).numpy().astype(np.int64)
        return lengths

    def preprocess(self, model: Any, items: Sequence[Any], options: ScoreOptions) -> dict[str, Any]:
        """See `Task.preprocess`."""
        prompt = options.instruction or model.prompts.get(model.default_prompt_name)
        features: dict[str, Any] = model.preprocess([list(pair) for pair in items], prompt=prompt)
        return features

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""
        return PairTokenizer.merge(tokens, vectors)

    @staticmethod
    def instructed(model: Any) -> bool:
        """Whether the model is told what makes a document relevant."""
        return Score._is_prompted(model) or "message" in getattr(model[0], "modality_config", {})

    @staticmethod
    def _is_prompted(model: Any) -> bool:
        """Whether the model answers yes or no, and its template knows no queries and documents."""
        first = model[0]
        architectures = getattr(first.config, "architectures", None) or [""]
        if not architectures[0].endswith("ForCausalLM"):
            return False
        if "message" not in first.modality_config:
            return True
        try:
            model.preprocess([["query", "document"]])
        except ValueError:  # "cannot carry a 'query'/'document' pair"
            return True
        return False


EMBED: Task = Embed()
SCORE: Task = Score()


def window_of(model: Any) -> int | None:
    """Return the tokens a model reads at most, special ones included; None for no limit."""
    limit = model.max_seq_length
    return None if limit is None or limit > _NO_LIMIT else int(limit)


def _beyond(window: int | None) -> str:
    """Return a text that is too long and repeats nothing: it shows which part a tokenizer keeps."""
    return " ".join(map(str, range((window or 0) + 1)))


def _hugging_face(model: Any) -> Any:
    """Return the model's tokenizer if it is a fast one and the model a plain transformer."""
    first = model[0]
    tokenizer = getattr(first, "tokenizer", None)
    fast = getattr(tokenizer, "backend_tokenizer", None) is not None
    return tokenizer if isinstance(first, Transformer) and fast else None


def _copy(hugging_face: Any) -> Any:
    """Copy the tokenizer itself: ours is set up once, and nobody else changes it."""
    backend = hugging_face.backend_tokenizer
    return type(backend).from_str(backend.to_str())


def _same(fast: FastTokenizer, probes: Sequence[Any], task: Task, model: Any) -> bool:
    """Whether our features are those of the model, one by one and together."""
    parts = [*([probe] for probe in probes), probes]
    wanted = [task.preprocess(model, part, task.options) for part in parts]
    tokens = fast.tokenize(probes, task.options)
    rows = [np.array([row]) for row in range(len(probes))] + [np.arange(len(probes))]
    for features, part in zip(wanted, rows, strict=True):
        ours = fast.batch(tokens, part)
        theirs = {k: v.numpy() for k, v in features.items() if isinstance(v, torch.Tensor)}
        same = ours.keys() == theirs.keys() and all(
            np.array_equal(ours[name], theirs[name]) for name in ours
        )
        if not same:
            logger.info("the model prepares its items in its own way; using that")
            return False
    return True


__all__ = ["EMBED", "INSTRUCTION", "SCORE", "Score", "Task", "window_of"]
