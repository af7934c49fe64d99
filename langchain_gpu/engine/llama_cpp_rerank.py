"""GGUF rerankers through llama.cpp, in this process."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Any, ClassVar

import numpy as np

from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors, done
from langchain_gpu.engine.llama_cpp_model import LlamaBatch, LlamaCppModel, LlamaRows, tokenized
from langchain_gpu.engine.tasks.score import (
    Pair,
    PairTokenizer,
    PairTooLongError,
    ScoreOptions,
    check_pair_surrogates,
    check_pairs,
)
from langchain_gpu.events import warn_fallback
from langchain_gpu.llama.errors import LlamaError, ModelLoadError
from langchain_gpu.models.gguf import read_head

_TYPES = "tokenizer.ggml.token_type_count"
_WORD = 32  # letters; what has more is cut inside, as languages without spaces are
_OVERLAP = 4  # windows of a document share a quarter of their words


class LlamaCppReranker(LlamaCppModel):
    """A reranker in a GGUF file; see `LlamaCppModel`.

    llama.cpp puts a pair together by itself, in the model's own template where the file has one for
    reranking. So what is too long is cut between words here. It returns logits, or for language
    models that answer yes or no the probability of yes; the file does not say what its authors
    want done to them.

    Raises:
        DeviceNotFoundError: The device cannot be used and the policy is `"error"`.
        ModelLoadError: The file is missing or damaged, does not fit, or holds no reranker.
        ValueError: A dtype was asked for, or an option is unknown.
    """

    _pooling: ClassVar[str | None] = "rank"
    _what: ClassVar[str] = "reranking"
    instructed: ClassVar[bool] = False

    def count_tokens(self, texts: Sequence[Any]) -> list[int]:
        """Return the tokens of each pair, special ones included, nothing cut off."""
        sizes = self._sizes(texts, 0)
        return [self._frame + sizes[query] + sizes[text] for query, text in texts]

    def tokenize(self, items: Sequence[Any], options: Any, *, start: int = 0) -> Tokenized:
        """See `Encoder.tokenize`.

        Raises:
            PairTooLongError: A pair exceeds the window and the policy is `"error"`.
        """
        asked: ScoreOptions = options
        sizes = self._sizes(items, start)
        room = min(asked.max_length or self._window, self._window) - self._frame
        if room < 2:  # noqa: PLR2004 - a token of each text
            raise ValueError(f"max_length={asked.max_length} leaves no room for a pair")
        rows: list[Pair] = []
        owners: list[int] = []
        truncated: list[int] = []
        for index, pair in enumerate(items):
            total = sizes[pair[0]] + sizes[pair[1]]
            parts: list[Pair] = [tuple(pair)]
            if total > room and asked.on_long == "error":
                raise PairTooLongError(
                    f"pair {start + index} has {total + self._frame} tokens, and "
                    f"{room + self._frame} are read; split the document, or choose "
                    f"on_long='truncate' or 'window'"
                )
            if total > room:
                parts = self._cut(pair, room, sizes, all_windows=asked.on_long == "window")
                if asked.on_long == "truncate" or parts[0][0] != pair[0]:
                    truncated.append(index)
            rows += parts
            owners += [index] * len(parts)
        sizes |= {text: self._size(text) for text in set(chain(*rows)) if text not in sizes}
        lengths = [self._frame + sizes[query] + sizes[text] for query, text in rows]
        windowed = owners if len(rows) > len(items) else None
        return tokenized(LlamaRows(rows, start), lengths, windowed, truncated)

    def from_ids(self, rows: Sequence[Sequence[int]], *, start: int = 0) -> Tokenized:
        """Refuse: llama.cpp takes pairs as text."""
        del rows, start
        raise ValueError("a reranker takes pairs of texts, not token ids")

    def forward(self, features: LlamaBatch) -> Pending:
        """See `Encoder.forward`. llama.cpp takes one query at a time."""
        pairs: list[Pair] = features.rows
        scores = np.empty((len(pairs), 1), np.float32)
        rows_of: dict[str, list[int]] = {}
        for row, (query, _) in enumerate(pairs):
            rows_of.setdefault(query, []).append(row)
        for query, rows in rows_of.items():
            try:
                scores[rows, 0] = self._open.rerank(query, [pairs[row][1] for row in rows])[0]
            except LlamaError as error:
                raise error.at(f"pairs {features.items[rows[0]]} and others") from error
        return done(scores)

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""
        return PairTokenizer.merge(tokens, vectors)

    def activate(self, logits: Vectors) -> Vectors:
        """Return scores as they are: a GGUF file names no activation."""
        return logits

    def _look(self) -> int:
        """Learn how many tokens stand around a pair; a score is one number wide."""
        head = read_head(self._path)
        pooler = head.tensors.get("cls.weight", ())  # a score itself, or what comes before one
        if "cls.output.weight" not in head.tensors and (not pooler or prod(pooler[1:]) > 1):
            raise ModelLoadError(f"{self._path} is not a reranker: it has no scoring head")
        if head.facts.get(_TYPES, 1) > 1:
            warn_fallback(
                self._on_event,
                what=self._what,
                source="two token types",
                target="one token type",
                reason=(
                    f"{self._path.name} was trained to tell query and document apart by token "
                    "types, which llama.cpp does not do: its order may differ; use the safetensors"
                ),
            )
        _, tokens = self._open.rerank("a", ["a"])
        self._frame = tokens - 2 * self._size("a")
        return 1

    def _size(self, text: str) -> int:
        return len(self._open.tokenize(text))

    def _sizes(self, pairs: Sequence[Pair], start: int) -> dict[str, int]:
        """Return the tokens of every different text."""
        check_pairs(pairs, start=start)
        check_pair_surrogates(pairs, start=start)
        return {text: self._size(text) for text in dict.fromkeys(chain.from_iterable(pairs))}

    def _cut(
        self, pair: Pair, room: int, sizes: dict[str, int], *, all_windows: bool
    ) -> list[Pair]:
        """Return what of a pair fits into `room` tokens; the query may have half of them."""
        query, text = pair
        head = next(self._windows(query, max(room // 2, room - sizes[text])))
        windows = self._windows(text, max(1, room - self._size(head)))
        return [(head, part) for part in (windows if all_windows else [next(windows)])]

    def _windows(self, text: str, width: int) -> Iterator[str]:
        """Cut a text into windows of `width` tokens that overlap: between words, if it has any."""
        if self._size(text) <= width:
            yield text
            return
        words = re.compile(rf"\S{{1,{max(1, min(_WORD, width // 4))}}}")
        spans = [match.span() for match in words.finditer(text)] or [(0, 0)]
        first = 0
        while True:
            begin = spans[first][0]
            ends = [end for _, end in spans[first : first + width]]
            fitting = bisect_right(ends, width, key=lambda end: self._size(text[begin:end]))
            taken = max(1, fitting)
            yield text[begin : ends[taken - 1]]
            if first + taken >= len(spans):
                return
            first += max(1, taken - taken // _OVERLAP)
