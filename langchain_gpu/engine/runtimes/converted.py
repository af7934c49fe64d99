"""What the runtimes of converted models share: all that needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.runtimes.model_settings import ModelSettings
from langchain_gpu.engine.tasks.embed import TextTokenizer


class ConvertedEncoder:
    """A converted model up to its `prepare` and `forward`.

    Args:
        settings: The model without its weights.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._tokenizer = settings.tokenizer

    @property
    def window(self) -> int | None:
        """Tokens the model reads at most, special tokens included; None where it has no limit."""
        return self._tokenizer.window

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts the model ships, by name."""
        return dict(self._settings.prompts)

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt the model's authors want where none is named."""
        return self._settings.default_prompt_name

    @property
    def instructed(self) -> bool:
        """Whether a reranker is told what makes a document relevant."""
        return self._settings.instructed

    def activate(self, logits: Vectors) -> Vectors:
        """Do to a reranker's logits what its authors want done. Any shape."""
        return self._settings.activate(logits)

    def count_tokens(self, texts: Sequence[Any]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""
        return self._tokenizer.count(texts)

    def tokenize(self, items: Sequence[Any], options: Any, *, start: int = 0) -> Tokenized:
        """See `Encoder.tokenize`."""
        return self._tokenizer.tokenize(items, options, start=start)

    def from_ids(self, rows: Sequence[Sequence[int]], *, start: int = 0) -> Tokenized:
        """See `TextEncoder.from_ids`."""
        if not isinstance(self._tokenizer, TextTokenizer):
            raise ValueError("a reranker does not take token ids")  # noqa: TRY004 - a value can be loaded that does
        return self._tokenizer.from_ids(rows, start=start)

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""
        return self._tokenizer.merge(tokens, vectors)


__all__ = ["ConvertedEncoder"]
