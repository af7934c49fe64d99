"""Pairs for rerankers that are language models, asked whether a document answers a query.

The wording is what the Qwen3-Reranker models were trained with, from their model cards: a system
message that sets the question, then instruction, query and document, then an empty thought, after
which the next token is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import PADDED, BatchRules
from langchain_gpu.engine.encoder import Tokenized
from langchain_gpu.engine.tasks.padding import Features, Padding, laid_out
from langchain_gpu.engine.tasks.score import (
    Pair,
    PairTokenizer,
    PairTooLongError,
    ScoreOptions,
    check_pair_surrogates,
    check_pairs,
    windows,
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
    what is too long is cut at its end, which is the document's, or read window by window.

    Args:
        tokenizer: A `tokenizers.Tokenizer` that nobody else uses.
        prompt: The words around a pair.
        window: Tokens of all that at most.
        pad_id: Token id that fills up shorter rows.
    """

    kind: ClassVar[str] = "prompted"

    def __init__(self, tokenizer: Any, prompt: Prompt, *, window: int | None, pad_id: int) -> None:
        self.window = window
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._padding = Padding(pad_id, left=True)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._before, self._after = (
            tokenizer.encode(text, add_special_tokens=False).ids
            for text in (prompt.before, prompt.after)
        )
        # From here on "<|im_end|>" in a document is text: it cannot end its own message.
        tokenizer.encode_special_tokens = True

    @property
    def settings(self) -> dict[str, Any]:
        """See `FastTokenizer.settings`."""
        return {"window": self.window, "pad_id": self._padding.token}

    def to_json(self) -> str:
        """See `FastTokenizer.to_json`."""
        return str(self._tokenizer.to_str())

    def count(self, pairs: Sequence[Pair]) -> list[int]:
        """Return the tokens of each pair, the prompt included, nothing cut off."""
        extra = len(self._before) + len(self._after)
        texts = self._texts(pairs, ScoreOptions(), 0)
        return [extra + len(each.ids) for each in self._encode(texts, pairs, 0)]

    def tokenize(
        self, pairs: Sequence[Pair], options: ScoreOptions, *, start: int = 0
    ) -> Tokenized:
        """Tokenize pairs; see `Encoder.tokenize`.

        Raises:
            PairTooLongError: A pair exceeds the window and the policy is `"error"`.
        """
        texts = self._texts(pairs, options, start)
        bodies = [each.ids for each in self._encode(texts, pairs, start)]
        room = self._room(options)
        long = [] if room is None else [at for at, ids in enumerate(bodies) if len(ids) > room]
        if long and options.on_long == "error":
            raise PairTooLongError(
                f"pair {start + long[0]} has {len(bodies[long[0]])} tokens, and {room} are read "
                f"beside the prompt; split the document, or choose on_long='truncate' or 'window'"
            )
        parts = [[ids] for ids in bodies]
        truncated = long
        if room is not None and options.on_long == "window":
            truncated = []
            for at in long:
                parts[at], cut = self._windows(texts[at], len(pairs[at][1]), room)
                truncated += [at] * cut
        rows = [[*self._before, *ids[:room], *self._after] for ids in chain.from_iterable(parts)]
        owners = np.repeat(np.arange(len(parts)), [len(each) for each in parts])
        packed, lengths = laid_out(rows)
        windowed = len(rows) > len(pairs)
        return Tokenized(
            lengths, packed, owners if windowed else None, np.asarray(truncated, np.int64)
        )

    def batch(
        self, tokens: Tokenized, rows: NDArray[np.int64], rules: BatchRules = PADDED
    ) -> Features:
        """Pad some rows to the longest of them. Arrays have the shape (rows, width)."""
        features, _ = self._padding.fill(tokens, rows, rules)
        return features

    merge = staticmethod(PairTokenizer.merge)

    def _room(self, options: ScoreOptions) -> int | None:
        """Tokens there are for instruction, query and document; None for no limit."""
        limits = [each for each in (options.max_length, self.window) if each is not None]
        if not limits:
            return None
        room = min(limits) - len(self._before) - len(self._after)
        if room < 1:
            raise ValueError(f"max_length={min(limits)} leaves no room beside the prompt")
        return room

    def _texts(self, pairs: Sequence[Pair], options: ScoreOptions, start: int) -> list[str]:
        check_pairs(pairs, start=start)
        instruction = options.instruction or INSTRUCTION
        return [
            self._prompt.pair.format(instruction=instruction, query=query, document=document)
            for query, document in pairs
        ]

    def _encode(self, texts: Sequence[str], pairs: Sequence[Pair], start: int) -> Any:
        try:
            return self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception:
            check_pair_surrogates(pairs, start=start)
            raise

    def _windows(self, text: str, document: int, room: int) -> tuple[list[list[int]], bool]:
        """Cut the last `document` characters of a text into windows behind what stands before them.

        What stands before may have half of the room; returns, too, whether it was cut to that.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        begin = len(text) - document
        count = len(encoding.ids)
        head = next((at for at, (_, end) in enumerate(encoding.offsets) if end > begin), count)
        kept = min(head, max(room // 2, room - (count - head)))
        before = encoding.ids[:kept]
        parts = [[*before, *part] for part in windows(encoding.ids[head:], room - kept)]
        return parts, kept < head
