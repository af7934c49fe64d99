"""Pairs of a query and a document to token features.

A query is tokenized once however many documents it meets, a document once however many queries;
the pair is put together from their ids and the special tokens that the model's own tokenizer puts
around and between two texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import PADDED, BatchRules
from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.tasks.embed import surrogate_problem
from langchain_gpu.engine.tasks.padding import Features, Packed, Padding

OnLong = Literal["truncate", "window", "error"]
Pair = tuple[str, str]
_OVERLAP = 4  # windows of a document share a quarter of their length


class PairTooLongError(ValueError):
    """A pair is longer than the model's window and the policy is to refuse it."""


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """How pairs are to be read.

    Attributes:
        max_length: Tokens of a pair at most, special tokens included; None for the model's window.
        on_long: For pairs beyond that: `"truncate"` cuts the longer of the two texts, `"window"`
            scores overlapping windows of the document and takes the best (a query may have half of
            the room, and what the document leaves), `"error"` refuses them.
        instruction: What makes a document relevant, for models that are told; None for their own.
    """

    max_length: int | None = None
    on_long: OnLong = "truncate"
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class PackedPairs(Packed):
    """Token ids of many pairs, end to end.

    Attributes:
        seconds: Where in each row the second token type begins, shape (rows,).
    """

    seconds: NDArray[np.int64] = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens around and between the two texts of a pair.

    Attributes:
        before: In front of the query.
        between: Behind the query, in front of the document.
        after: Behind the document.
        second: How many of `between` have the first token type; the second begins after them.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    second: int

    @property
    def tokens(self) -> int:
        """How many special tokens a pair has."""
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of(cls, tokenizer: Any) -> Frame | None:
        """Read them off a `tokenizers.Tokenizer`; None where a pair is not put together like that.

        A tokenizer says of every token of a pair which text it is from, and of special ones none.
        """
        encoding = tokenizer.encode("a b", "c")
        sources = encoding.sequence_ids
        first = [at for at, source in enumerate(sources) if source == 0]
        last = [at for at, source in enumerate(sources) if source == 1]
        if not first or not last or first[-1] > last[0]:
            return None
        ids, types = encoding.ids, encoding.type_ids
        between = range(first[-1] + 1, last[0])
        return cls(
            before=tuple(ids[: first[0]]),
            between=tuple(ids[at] for at in between),
            after=tuple(ids[last[-1] + 1 :]),
            second=sum(types[at] == types[first[0]] for at in between),
        )


def check_pairs(pairs: Sequence[Any], *, start: int = 0) -> None:
    """Refuse anything but pairs of strings.

    Raises:
        TypeError: The message has the position of the first wrong item and what is wrong.
    """
    for index, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:  # noqa: PLR2004 - a pair is two
            raise TypeError(f"pair {start + index} is {type(pair).__name__}, not (query, document)")
        for name, text in zip(("query", "document"), pair, strict=True):
            if not isinstance(text, str):
                raise TypeError(
                    f"the {name} of pair {start + index} is {type(text).__name__}, not str"
                )


def check_pair_surrogates(pairs: Sequence[Pair], *, start: int = 0) -> None:
    """Refuse lone surrogates, which no tokenizer takes.

    Raises:
        ValueError: The message has the position of the first one.
    """
    for index, pair in enumerate(pairs):
        for name, text in zip(("query", "document"), pair, strict=True):
            if (problem := surrogate_problem(text)) is not None:
                raise ValueError(f"the {name} of pair {start + index} {problem}") from None


class PairTokenizer:
    """Tokenizes pairs and pads batches of them.

    Args:
        tokenizer: A `tokenizers.Tokenizer` that nobody else uses.
        frame: Its special tokens.
        window: Tokens of a pair at most.
        inputs: Names of the features the model takes.
        pad_id: Token id that fills up shorter rows.
        left: Pad on the left.
    """

    kind: ClassVar[str] = "pairs"

    def __init__(
        self,
        tokenizer: Any,
        frame: Frame,
        *,
        window: int | None,
        inputs: Sequence[str],
        pad_id: int,
        left: bool,
    ) -> None:
        self.window = window
        self._tokenizer = tokenizer
        self._frame = frame
        self._inputs = tuple(inputs)
        self._padding = Padding(pad_id, left)
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def framed(cls, tokenizer: Any, **settings: Any) -> PairTokenizer | None:
        """Read the special tokens off the tokenizer; None where `Frame.of` finds none."""
        tokenizer.no_truncation()
        tokenizer.no_padding()  # it would be read as special tokens behind the document
        frame = Frame.of(tokenizer)
        return None if frame is None else cls(tokenizer, frame, **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """See `FastTokenizer.settings`."""
        return {
            "window": self.window,
            "inputs": self._inputs,
            "pad_id": self._padding.token,
            "left": self._padding.left,
        }

    def to_json(self) -> str:
        """See `FastTokenizer.to_json`."""
        return str(self._tokenizer.to_str())

    def count(self, pairs: Sequence[Pair]) -> list[int]:
        """Return the tokens of each pair, special tokens included, nothing cut off."""
        ids = self._ids(pairs, 0)
        return [self._frame.tokens + len(ids[query]) + len(ids[text]) for query, text in pairs]

    def tokenize(
        self, pairs: Sequence[Pair], options: ScoreOptions, *, start: int = 0
    ) -> Tokenized:
        """Tokenize pairs; see `Encoder.tokenize`.

        Raises:
            PairTooLongError: A pair exceeds the window and the policy is `"error"`.
        """
        ids = self._ids(pairs, start)
        room = self._room(options)
        rows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        truncated: list[int] = []
        for index, (query, text) in enumerate(pairs):
            first, second = ids[query], ids[text]
            if room is None or len(first) + len(second) <= room:
                rows.append((first, second))
                owners.append(index)
                continue
            if options.on_long == "error":
                raise PairTooLongError(
                    f"pair {start + index} has {len(first) + len(second) + self._frame.tokens} "
                    f"tokens, and {room + self._frame.tokens} are read; split the document, or "
                    f"choose on_long='truncate' or 'window'"
                )
            if options.on_long == "window":
                query_room = max(room // 2, room - len(second))
                if len(first) > query_room:
                    truncated.append(index)
                head = first[:query_room]
                parts = [(head, part) for part in windows(second, room - len(head))]
            else:
                truncated.append(index)
                parts = [_longest_first(first, second, room)]
            rows += parts
            owners += [index] * len(parts)
        windowed = len(rows) > len(pairs)
        return self._pack(rows, np.asarray(owners) if windowed else None, truncated)

    def batch(
        self, tokens: Tokenized, rows: NDArray[np.int64], rules: BatchRules = PADDED
    ) -> Features:
        """Pad some rows to the longest of them. Arrays have the shape (rows, width)."""
        packed: PackedPairs = tokens.payload
        features, places = self._padding.fill(tokens, rows, rules)
        if "token_type_ids" in self._inputs:
            second = places >= packed.seconds[rows][:, None]
            features["token_type_ids"] = second * features["attention_mask"]
        return features

    @staticmethod
    def merge(tokens: Tokenized, vectors: Vectors) -> Vectors:
        """Take the best window of each pair. Shape (pairs, labels)."""
        if tokens.owners is None:
            return vectors
        first = np.flatnonzero(np.diff(tokens.owners, prepend=-1))
        best: Vectors = np.maximum.reduceat(vectors, first)
        return best

    def _room(self, options: ScoreOptions) -> int | None:
        limits = [each for each in (options.max_length, self.window) if each is not None]
        if not limits:
            return None
        room = min(limits) - self._frame.tokens
        if room < 2:  # noqa: PLR2004 - a token of each text
            raise ValueError(f"max_length={min(limits)} leaves no room for a query and a document")
        return room

    def _ids(self, pairs: Sequence[Pair], start: int) -> dict[str, list[int]]:
        """Return the ids of every different text, without special tokens."""
        texts = list(dict.fromkeys(chain.from_iterable(pairs)))
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception:
            check_pairs(pairs, start=start)
            check_pair_surrogates(pairs, start=start)
            raise
        return {text: each.ids for text, each in zip(texts, encodings, strict=True)}

    def _pack(
        self,
        rows: list[tuple[list[int], list[int]]],
        owners: NDArray[np.int64] | None,
        truncated: list[int],
    ) -> Tokenized:
        frame = self._frame
        before, between, after = list(frame.before), list(frame.between), list(frame.after)
        firsts = np.fromiter((len(first) for first, _ in rows), np.int64, len(rows))
        seconds = np.fromiter((len(second) for _, second in rows), np.int64, len(rows))
        lengths = firsts + seconds + frame.tokens
        parts = chain.from_iterable((before, one, between, two, after) for one, two in rows)
        ids = np.fromiter(chain.from_iterable(parts), np.int32, int(lengths.sum()))
        starts, seconds_at = np.cumsum(lengths) - lengths, firsts + len(before) + frame.second
        packed = PackedPairs(ids, starts, seconds=seconds_at)
        return Tokenized(lengths, packed, owners, np.asarray(truncated, np.int64))


def _longest_first(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut the longer text first, and both where each is longer than half.

    As Hugging Face's tokenizers do with `"longest_first"`: where both are cut, the longer one gets
    the odd token.
    """
    short, long = sorted((len(first), len(second)))
    long = min(long, max(short, room - short))
    if short + long > room:
        short, long = room // 2, room - room // 2
    if len(first) <= len(second):
        return first[:short], second[:long]
    return first[:long], second[:short]


def windows(ids: list[int], width: int) -> list[list[int]]:
    """Cut a document into windows that overlap by a quarter; together they hold every token."""
    step = max(1, width - width // _OVERLAP)
    starts = range(0, max(1, len(ids) - width + step), step)
    return [ids[start : start + width] for start in starts]
