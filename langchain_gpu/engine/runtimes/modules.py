"""What the runtimes share: sentence-transformers' modules, tokenizer and prompts.

The model, its pooling, its normalization and its prompts are sentence-transformers' own objects.
What is ours is which items go together and how they become features; the runtimes beside this file
decide what computes them, and `tasks.py` what is asked of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Normalize

from langchain_gpu.engine.batching import PADDED, BatchRules
from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.runtimes.dtypes import NAMES, check_dtype
from langchain_gpu.engine.runtimes.tasks import EMBED, Score, Task, window_of
from langchain_gpu.engine.tasks.embed import EmbedOptions, TextTokenizer
from langchain_gpu.hardware.devices import Device

DTYPES = {name: getattr(torch, name) for name in NAMES}


class ModulesEncoder:
    """A sentence-transformers model up to its `forward`.

    Args:
        path: Folder of the model.
        device: Where to run.
        dtype: `"float32" | "bfloat16" | "float16"`, or `"auto"` for the device's own.
        options: More arguments of `SentenceTransformer` or `CrossEncoder`, for example `prompts`.
        task: What it is asked to do.

    Raises:
        ValueError: `dtype` is not one of those above.
    """

    dimension: int

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        dtype: str,
        options: Mapping[str, Any] | None,
        task: Task = EMBED,
    ) -> None:
        check_dtype(dtype, task.name)
        self._task = task
        self._wanted_dtype = dtype
        self._device = device
        self._model: Any = task.load(path, options or {})
        self._model.eval().requires_grad_(requires_grad=False)
        self._leaves_prompts_out = any(
            getattr(module, "include_prompt", True) is False for module in self._model
        )
        self._prompt_lengths: dict[str, int | None] = {}
        self._tokenizer = task.tokenizer(self._model)
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
        return window_of(self._model)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts the model ships, by name."""
        return dict(self._model.prompts)

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt the model's authors want where none is named."""
        name: str | None = self._model.default_prompt_name
        return name

    @property
    def details(self) -> str:
        """See `TextEncoder.details`."""
        return ""

    def count_tokens(self, texts: Sequence[Any]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""
        self._task.check(texts)
        if self._tokenizer is not None:
            return self._tokenizer.count(texts)
        return self._task.lengths(self._model, texts, self._task.options).tolist()  # type: ignore[no-any-return]

    def tokenize(self, items: Sequence[Any], options: Any, *, start: int = 0) -> Tokenized:
        """See `Encoder.tokenize`.

        Raises:
            ValueError: `on_long="mean"` and a prompt, for a model that leaves prompts out of its
                vectors.
        """
        self._check_windows(options)
        if self._tokenizer is not None:
            return self._tokenizer.tokenize(items, options, start=start)
        self._task.check(items, start=start)
        lengths = self._task.lengths(self._model, items, options)
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
        if not isinstance(self._tokenizer, TextTokenizer):
            raise ValueError(  # noqa: TRY004 - a value can be loaded that does
                "this model prepares its items in its own way, and does not take token ids"
            )
        return self._tokenizer.from_ids(rows, start=start)

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> Any:
        """See `Encoder.prepare`."""
        if self._tokenizer is None:
            items, options = tokens.payload
            return self._task.preprocess(self._model, [items[row] for row in rows], options)
        arrays = self._tokenizer.batch(tokens, rows)
        features: dict[str, Any] = {key: torch.from_numpy(each) for key, each in arrays.items()}
        if (length := self._prompt_length(tokens.payload.prompt)) is not None:
            features["prompt_length"] = length
        return features

    @property
    def instructed(self) -> bool:
        """Whether a reranker is told what makes a document relevant."""
        return Score.instructed(self._model)

    @torch.inference_mode()
    def activate(self, logits: Vectors) -> Vectors:
        """Do to a reranker's logits what its authors want done. Any shape."""
        activated: Vectors = self._model.activation_fn(torch.from_numpy(logits)).numpy()
        return activated

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""
        return self._task.merge(tokens, vectors)

    def _check_windows(self, options: Any) -> None:
        """Refuse windows of which the first alone begins with the prompt that is to be left out."""
        if not self._leaves_prompts_out or not isinstance(options, EmbedOptions):
            return
        if options.on_long == "mean" and options.prompt:
            raise ValueError(
                "on_long='mean' takes no prompt here: this model leaves it out of its vectors, and "
                "a long text would lose as many tokens at the start of every further window; split "
                "long texts before, or choose on_long='truncate' or 'error'"
            )

    def _prompt_length(self, prompt: str) -> int | None:
        """Tokens of the prompt, for poolings that leave it out."""
        if not prompt or not self._leaves_prompts_out:
            return None
        if prompt not in self._prompt_lengths:
            probe = self._model.preprocess(["a"], prompt=prompt)
            self._prompt_lengths[prompt] = probe.get("prompt_length")
        return self._prompt_lengths[prompt]
