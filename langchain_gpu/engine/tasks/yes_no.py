"""Pairs for language models that are asked whether a document answers a query: yes or no.

The wording is what the Qwen3-Reranker models were trained with, from their model cards: a system
message that sets the question, then instruction, query and document, then an empty thought, after
which the next token is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.encoder import Tokenized
from langchain_gpu.engine.tasks.padding import Features, rectangle
from langchain_gpu.engine.tasks.score import (
    PackedPairs,
    Pair,
    PairTokenizer,
    PairTooLongError,
    ScoreOptions,
    check_pairs,
    check_surrogates,
)

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True, slots=True)
class Prompt:
    """The words around a pair.

    Attributes:
        before: In front of everything.
        pair: A format with the fields instruction, query and document.
        after: Behind everything; the answer follows.
    """

    before: str
    pair: str
    after: str


QWEN3 = Prompt(
    before=(
        "<|im_start|>system\n"
        "Judge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    ),
    pair="<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)


class PromptTokenizer:
    """Tokenizes pairs inside a prompt and pads batches of them on the left.

    The pair is tokenized as one text, since its tokens reach across the words between its parts;
    what is too long is cut at its end, which is the document's.

    Args:
        tokenizer: A `tokenizers.Tokenizer` that nobody else uses.
        prompt: The words around a pair.
        window: Tokens of all that at most.
        pad_id: Token id that fills up shorter rows.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, *, window: int | None, pad_id: int) -> None:
        self.window = window
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._pad_id = pad_id
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._before, self._after = (
            tokenizer.encode(text, add_special_tokens=False).ids
            for text in (prompt.before, prompt.after)
        )
        # From here on "<|im_end|>" in a document is text: it cannot end its own message.
        tokenizer.encode_special_tokens = True

    def count(self, pairs: Sequence[Pair]) -> list[int]:
        """Return the tokens of each pair, the prompt included, nothing cut off."""
        extra = len(self._before) + len(self._after)
        return [extra + len(ids) for ids in self._ids(pairs, ScoreOptions(), 0)]

    def tokenize(
        self, pairs: Sequence[Pair], options: ScoreOptions, *, start: int = 0
    ) -> Tokenized:
        """Tokenize pairs; see `Encoder.tokenize`.

        Raises:
            PairTooLongError: A pair exceeds the window and the policy is not `"truncate"`.
        """
        bodies = self._ids(pairs, options, start)
        limits = [each for each in (options.max_length, self.window) if each is not None]
        room = min(limits) if limits else None
        truncated: list[int] = []
        if room is not None:
            room -= len(self._before) + len(self._after)
            if room < 1:
                raise ValueError(f"max_length={min(limits)} leaves no room beside the prompt")
            truncated = [index for index, ids in enumerate(bodies) if len(ids) > room]
        if truncated and options.on_long != "truncate":
            raise PairTooLongError(
                f"pair {start + truncated[0]} has {len(bodies[truncated[0]])} tokens, and {room} "
                f"are read beside the prompt; split the document, or choose on_long='truncate'"
            )
        rows = [list(chain(self._before, ids[:room], self._after)) for ids in bodies]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        packed = PackedPairs(ids, np.cumsum(lengths) - lengths, lengths)
        return Tokenized(lengths, packed, None, np.asarray(truncated, np.int64))

    def batch(
        self, tokens: Tokenized, rows: NDArray[np.int64], *, multiple_of: int = 1
    ) -> Features:
        """Pad some rows to the longest of them. Arrays have the shape (rows, width)."""
        packed: PackedPairs = tokens.payload
        features, _ = rectangle(
            packed.ids,
            packed.offsets[rows],
            tokens.lengths[rows],
            pad_id=self._pad_id,
            left=True,
            multiple_of=multiple_of,
        )
        return features

    merge = staticmethod(PairTokenizer.merge)

    def _ids(self, pairs: Sequence[Pair], options: ScoreOptions, start: int) -> list[list[int]]:
        check_pairs(pairs, start=start)
        instruction = options.instruction or INSTRUCTION
        texts = [
            self._prompt.pair.format(instruction=instruction, query=query, document=document)
            for query, document in pairs
        ]
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception:
            check_surrogates(pairs, start=start)
            raise
        return [encoding.ids for encoding in encodings]
