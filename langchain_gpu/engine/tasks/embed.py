"""Texts to token features, with the model's own fast tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import PADDED, BatchRules
from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.tasks.padding import Features, Packed, Padding, laid_out
from langchain_gpu.engine.tasks.token_rows import flat_ids

OnLong = Literal["truncate", "mean", "error"]


class TextTooLongError(ValueError):
    """A text is longer than the model's window and the policy is to refuse it."""


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How texts are to be read.

    Attributes:
        prompt: Put before every text; empty for none.
        task: What a model with routes is told: documents and queries may go different ways.
        on_long: For texts beyond the model's window: `"truncate"` cuts them, `"mean"` embeds all
            their windows and averages them by length, `"error"` refuses them.
        refused: Called with the position of a text that a server refuses, and why; its row is NaN
            then. With None, the error is raised.
    """

    prompt: str = ""
    task: Literal["query", "document"] | None = None
    on_long: OnLong = "truncate"
    refused: Callable[[int, Exception], None] | None = field(default=None, compare=False)


_CHARACTERS_PER_TOKEN = 64  # far above any language's average
_COUNTED = 1024  # texts counted at once: what a tokenizer returns is twenty times as large as each


def _head(text: str, limit: int) -> str:
    end = text.rfind(" ", 0, limit)
    return text[:end] if end > 0 else text


def check_texts(texts: Sequence[Any], *, start: int = 0) -> None:
    """Refuse anything but strings.

    Raises:
        TypeError: The message has the position and the type of the first wrong item.
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            remedy = " (decode it first)" if isinstance(text, bytes | bytearray) else ""
            raise TypeError(f"text {start + index} is {type(text).__name__}, not str{remedy}")


def check_surrogates(texts: Sequence[str], *, start: int = 0) -> None:
    """Refuse lone surrogates, which no tokenizer takes.

    Raises:
        ValueError: The message has the position of the first text that holds one.
    """
    for index, text in enumerate(texts):
        if (problem := surrogate_problem(text)) is not None:
            raise ValueError(f"text {start + index} {problem}") from None


def surrogate_problem(text: str) -> str | None:
    """Say where a text holds a lone surrogate, which no tokenizer takes; None if it holds none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"holds a lone surrogate at character {error.start}; clean it with "
            f"text.encode('utf-8', 'replace').decode()"
        )
    return None


class TextTokenizer:
    """Tokenizes texts and pads batches of them, without a Python step per token.

    Args:
        tokenizer: A `tokenizers.Tokenizer` that nobody else uses: its truncation is set here, once,
            because changing it while another thread tokenizes is an error ("Already borrowed").
        window: Tokens the model reads at most, special tokens included; None for no limit.
        inputs: Names of the features the model takes.
        pad_id: Token id that fills up shorter rows.
        left: Pad on the left, as decoder models want.
        cut_left: Cut long texts on the left, and keep their end.
    """

    kind: ClassVar[str] = "texts"

    def __init__(
        self,
        tokenizer: Any,
        *,
        window: int | None,
        inputs: Sequence[str],
        pad_id: int,
        left: bool,
        cut_left: bool = False,
    ) -> None:
        self.window = window
        self._cut_left = cut_left
        self._tokenizer = tokenizer
        self._size = tokenizer.get_vocab_size()
        self._inputs = tuple(inputs)
        self._padding = Padding(pad_id, left)
        self._special = tokenizer.num_special_tokens_to_add(False)  # noqa: FBT003 - its signature
        tokenizer.no_padding()
        if window is None:
            tokenizer.no_truncation()
        else:
            side = "left" if cut_left else "right"
            tokenizer.enable_truncation(max_length=window, direction=side)

    @property
    def settings(self) -> dict[str, Any]:
        """See `FastTokenizer.settings`."""
        return {
            "window": self.window,
            "inputs": self._inputs,
            "pad_id": self._padding.token,
            "left": self._padding.left,
            "cut_left": self._cut_left,
        }

    def to_json(self) -> str:
        """See `FastTokenizer.to_json`."""
        return str(self._tokenizer.to_str())

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""
        counts = []
        for start in range(0, len(texts), _COUNTED):
            for encoding in self._encode(texts[start : start + _COUNTED], start):
                rest = encoding.overflowing if len(encoding.ids) == self.window else ()
                more = sum(len(part.ids) - self._special for part in rest)
                counts.append(len(encoding.ids) + more)
        return counts

    def tokenize(self, texts: Sequence[str], options: EmbedOptions, *, start: int = 0) -> Tokenized:
        """Tokenize texts; see `Encoder.tokenize`.

        Raises:
            TextTooLongError: A text exceeds the window and the policy is `"error"`.
        """
        check_texts(texts, start=start)
        prompted = [options.prompt + text for text in texts] if options.prompt else texts
        encodings = (
            self._encode_cut(prompted, start)
            if options.on_long == "truncate"
            else self._encode(prompted, start)
        )
        long = [
            index
            for index, encoding in enumerate(encodings)
            if len(encoding.ids) == self.window and encoding.overflowing
        ]
        if long and options.on_long == "error":
            raise TextTooLongError(
                f"text {start + long[0]} is longer than the model's window of {self.window} tokens "
                f"({len(long)} such texts here); split it, or choose on_long='truncate' or 'mean'"
            )
        if not long or options.on_long == "truncate":
            return self._pack([each.ids for each in encodings], options, truncated=long)
        windows = [[each, *each.overflowing] if each.overflowing else [each] for each in encodings]
        owners = np.repeat(np.arange(len(windows)), [len(each) for each in windows])
        return self._pack([each.ids for each in chain(*windows)], options, owners=owners)

    def from_ids(self, rows: Sequence[Sequence[int]], *, start: int = 0) -> Tokenized:
        """Take rows that are token ids already; see `TextEncoder.from_ids`."""
        ids, lengths = flat_ids(rows, window=self.window, vocabulary=self._size, start=start)
        packed = Packed(ids.astype(np.int32), np.cumsum(lengths) - lengths)
        return Tokenized(lengths, packed)

    def batch(
        self, tokens: Tokenized, rows: NDArray[np.int64], rules: BatchRules = PADDED
    ) -> Features:
        """Pad some rows to the longest of them. Arrays have the shape (rows, width).

        Args:
            tokens: What `tokenize` made.
            rows: Which of them.
            rules: How wide a batch is made.
        """
        features, _ = self._padding.fill(tokens, rows, rules)
        if "token_type_ids" in self._inputs:
            features["token_type_ids"] = np.zeros_like(features["input_ids"])
        return features

    @staticmethod
    def merge(tokens: Tokenized, vectors: Vectors) -> Vectors:
        """Average the windows of each text, weighted by their tokens. Shape (texts, dimension).

        A text of one window keeps its vector to the bit. An average keeps the mean length of its
        windows' vectors, so models that return unit vectors still do.
        """
        owners = tokens.owners
        if owners is None:
            return vectors
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        weights = tokens.lengths.astype(np.float32)[:, None]
        mean = np.add.reduceat(vectors * weights, first) / np.add.reduceat(weights, first)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        target = np.add.reduceat(norms * weights, first) / np.add.reduceat(weights, first)
        merged = mean * (target / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12))
        alone = np.diff(first, append=len(owners)) == 1
        return np.where(alone[:, None], vectors[first], merged).astype(np.float32)

    def _encode_cut(self, texts: Sequence[str], start: int) -> list[Any]:
        """Encode, but do not read megabytes of a text of which a window's worth is kept.

        Tokens depend on their surroundings only up to the next space, so a prefix that ends there
        and overflows the window begins with the same window. One that does not is read in full.
        """
        if self.window is None or self._cut_left:
            return self._encode(texts, start)
        limit = _CHARACTERS_PER_TOKEN * self.window
        heads = [text if len(text) <= limit else _head(text, limit) for text in texts]
        encodings = self._encode(heads, start)
        for index, (head, text) in enumerate(zip(heads, texts, strict=True)):
            if len(head) < len(text) and not encodings[index].overflowing:
                encodings[index] = self._encode([text], start + index)[0]
        return encodings

    def _encode(self, texts: Sequence[str], start: int) -> list[Any]:
        try:
            encodings: list[Any] = self._tokenizer.encode_batch_fast(list(texts))
        except Exception:
            check_texts(texts, start=start)
            check_surrogates(texts, start=start)
            raise
        return encodings

    @staticmethod
    def _pack(
        rows: list[list[int]],
        options: EmbedOptions,
        *,
        owners: NDArray[np.int64] | None = None,
        truncated: Sequence[int] = (),
    ) -> Tokenized:
        packed, lengths = laid_out(rows, options.prompt)
        return Tokenized(lengths, packed, owners, np.asarray(truncated, np.int64))
