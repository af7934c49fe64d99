"""What the runtimes share: sentence-transformers' modules, their tokenizer and their prompts.

The model, its pooling, its normalization and its prompts are sentence-transformers' own objects.
What is ours is which texts go together and how they become features; the runtimes beside this file
decide what computes them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from langchain_gpu.engine.batching import PADDED, BatchRules
from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.tasks.embed import (
    EmbedOptions,
    Packed,
    TextTokenizer,
    check_texts,
)
from langchain_gpu.hardware.devices import Device

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Texts that tell tokenizers apart: empty, space, casing, accents, scripts, controls.
_PROBES = ("", " ", "A Probe.", "naïve  café\n\tÅ 漢字 🙂 \x00 don't")
_NO_LIMIT = 10**9  # what a tokenizer without a limit says is far above


class ModulesEncoder:
    """A sentence-transformers model up to its `forward`.

    Args:
        path: Folder of the model.
        device: Where to run.
        dtype: `"float32" | "bfloat16" | "float16"`, or `"auto"` for the device's own.
        options: More arguments of `SentenceTransformer`, for example `prompts`.

    Raises:
        ValueError: `dtype` is not one of those above.
    """

    dimension: int

    def __init__(
        self, path: Path, device: Device, *, dtype: str, options: Mapping[str, Any] | None
    ) -> None:
        if dtype != "auto" and dtype not in DTYPES:
            known = ", ".join(["auto", *DTYPES])
            raise ValueError(f"dtype {dtype!r} is not one of {known}")
        self._wanted_dtype = dtype
        self._device = device
        self._model: Any = _load(path, dict(options or {}))
        self._model.eval().requires_grad_(requires_grad=False)
        self._leaves_prompts_out = any(
            getattr(module, "include_prompt", True) is False for module in self._model
        )
        self._prompt_lengths: dict[str, int | None] = {}
        self._tokenizer = self._fast_tokenizer()
        self._unit = isinstance(self._model[len(self._model) - 1], Normalize)

    @property
    def rules(self) -> BatchRules:
        """How batches are to be planned: padded, one at a time."""
        return PADDED

    @property
    def device(self) -> Device:
        """Where `forward` runs now."""
        return self._device

    @property
    def dtype(self) -> str:
        """What is computed in now."""
        return self._device.dtype if self._wanted_dtype == "auto" else self._wanted_dtype

    @property
    def window(self) -> int | None:
        """Tokens the model reads at most, special tokens included; None where it has no limit."""
        limit = self._model.max_seq_length
        return None if limit is None or limit > _NO_LIMIT else int(limit)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts the model ships, by name."""
        return dict(self._model.prompts)

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt the model's authors want where none is named."""
        name: str | None = self._model.default_prompt_name
        return name

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""
        check_texts(texts)
        if self._tokenizer is not None:
            return self._tokenizer.count(texts)
        return [int(length) for length in self._generic_lengths(texts)]

    def tokenize(self, items: Sequence[str], options: EmbedOptions, *, start: int = 0) -> Tokenized:
        """See `Encoder.tokenize`."""
        if self._tokenizer is not None:
            return self._tokenizer.tokenize(items, options, start=start)
        check_texts(items, start=start)
        lengths = self._generic_lengths([options.prompt + text for text in items])
        limit = self.window
        truncated = np.flatnonzero(lengths > limit) if limit else np.empty(0, np.int64)
        if len(truncated) and options.on_long != "truncate":
            raise ValueError(
                f"text {start + truncated[0]} is longer than the model's window of {limit} tokens, "
                f"and on_long={options.on_long!r} needs a model with a plain fast tokenizer"
            )
        lengths = np.minimum(lengths, limit) if limit else lengths
        return Tokenized(lengths, (list(items), options), None, truncated)

    def from_ids(self, rows: Sequence[Sequence[int]], *, start: int = 0) -> Tokenized:
        """See `TextEncoder.from_ids`."""
        if self._tokenizer is None:
            raise ValueError("this model prepares its texts in its own way; it takes no token ids")
        return self._tokenizer.from_ids(rows, start=start)

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> Any:
        """See `Encoder.prepare`."""
        if self._tokenizer is None:
            texts, options = tokens.payload
            extra = {"task": options.task} if options.task else {}
            features: dict[str, Any] = self._model.preprocess(
                [texts[row] for row in rows], prompt=options.prompt or None, **extra
            )
            return features | extra
        packed: Packed = tokens.payload
        arrays = self._tokenizer.batch(tokens, rows)
        features = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if (length := self._prompt_length(packed.prompt)) is not None:
            features["prompt_length"] = length
        return features

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""
        return TextTokenizer.merge(tokens, vectors)

    def _prompt_length(self, prompt: str) -> int | None:
        """Tokens of the prompt, for poolings that leave it out."""
        if not prompt or not self._leaves_prompts_out:
            return None
        if prompt not in self._prompt_lengths:
            probe = self._model.preprocess(["a"], prompt=prompt)
            self._prompt_lengths[prompt] = probe.get("prompt_length")
        return self._prompt_lengths[prompt]

    def _generic_lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        tokenizer = getattr(self._model[0], "tokenizer", None)
        if isinstance(tokenizer, Tokenizer):  # static embeddings: no special tokens
            encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return np.fromiter((len(each.ids) for each in encodings), np.int64, len(texts))
        if callable(tokenizer):
            ids = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
            return np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter((len(text) // 4 + 2 for text in texts), np.int64, len(texts))

    def _fast_tokenizer(self) -> TextTokenizer | None:
        """Our tokenization, if it gives exactly what the model's own preprocessing gives."""
        first = self._model[0]
        hugging_face = getattr(first, "tokenizer", None)
        backend = getattr(hugging_face, "backend_tokenizer", None)
        if not isinstance(first, Transformer) or hugging_face is None or backend is None:
            return None
        probes = [*_PROBES, "long " * ((self.window or 0) + 1)]  # the last one is truncated
        wanted = [self._model.preprocess([probe]) for probe in probes]
        wanted.append(self._model.preprocess(probes))
        fast = TextTokenizer(
            type(backend).from_str(backend.to_str()),  # a copy nobody else changes
            window=self.window,
            inputs=hugging_face.model_input_names,
            pad_id=hugging_face.pad_token_id or 0,
            left=hugging_face.padding_side == "left",
        )
        rows = [np.array([row]) for row in range(len(probes))] + [np.arange(len(probes))]
        tokens = fast.tokenize(probes, EmbedOptions())
        for features, part in zip(wanted, rows, strict=True):
            ours = fast.batch(tokens, part)
            theirs = {k: v.numpy() for k, v in features.items() if isinstance(v, torch.Tensor)}
            same = ours.keys() == theirs.keys() and all(
                np.array_equal(ours[name], theirs[name]) for name in ours
            )
            if not same:
                logger.info("the model prepares its texts in its own way; using that")
                return None
        return fast


def _load(path: Path, options: dict[str, Any]) -> SentenceTransformer:
    """Load a folder on the CPU, in its own dtype: safetensors only, no code unless asked for."""
    weights = {"use_safetensors": True} | options.pop("model_kwargs", {})
    quiet = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return SentenceTransformer(
            str(path), device="cpu", local_files_only=True, model_kwargs=weights, **options
        )
    finally:
        if quiet:
            transformers_logging.enable_progress_bar()
