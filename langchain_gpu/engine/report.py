"""Statistics of a run: batches, tokens, padding, fallbacks, truncated and skipped items."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.events import BatchDone, FellBack


@dataclass(frozen=True, slots=True)
class Skipped:
    """An item that was left out, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What it took to embed a sequence of items.

    Attributes:
        items: Items asked for.
        tokens: Tokens computed, padding left out.
        padded_tokens: Tokens computed, padding included.
        batches: Batches computed on each device, for example `{"cuda:0": 165}`.
        seconds: Wall time of the whole run.
        tokenize_seconds: Time spent tokenizing (it overlaps with the forward passes).
        forward_seconds: Time spent in forward passes, summed over devices.
        fallbacks: Moves to another device.
        truncated: Positions of the items that were cut to the model's window. Servers do not say
            which: there a `TruncationWarning` tells, once, that some were.
        skipped: Items that were left out; their rows are NaN.
    """

    items: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    batches: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    tokenize_seconds: float = 0.0
    forward_seconds: float = 0.0
    fallbacks: tuple[FellBack, ...] = ()
    truncated: tuple[int, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def padding(self) -> float:
        """Computed tokens per real token: 1.0 means no padding."""
        return self.padded_tokens / self.tokens if self.tokens else 1.0

    @property
    def items_per_second(self) -> float:
        """Items per second of wall time."""
        return self.items / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Real tokens per second of wall time."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Rows:
    """Vectors and how they came about.

    Attributes:
        vectors: Shape (n, dimension), float32, in the order of the items.
        report: What the run did.
    """

    vectors: Vectors
    report: Report


@dataclass(slots=True)
class Tally:
    """A report in the making. The engine guards it with a lock."""

    tokens: int = 0
    padded_tokens: int = 0
    batches: Counter[str] = field(default_factory=Counter)
    tokenize_seconds: float = 0.0
    forward_seconds: float = 0.0
    fallbacks: list[FellBack] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)

    def add(self, fact: BatchDone) -> None:
        """Count one finished batch."""
        self.tokens += fact.tokens
        self.padded_tokens += fact.padded_tokens
        self.batches[fact.device] += 1
        self.forward_seconds += fact.seconds

    def report(self, *, items: int, seconds: float) -> Report:
        """Freeze the tally."""
        return Report(
            items=items,
            tokens=self.tokens,
            padded_tokens=self.padded_tokens,
            batches=dict(self.batches),
            seconds=seconds,
            tokenize_seconds=self.tokenize_seconds,
            forward_seconds=self.forward_seconds,
            fallbacks=tuple(self.fallbacks),
            truncated=tuple(sorted(self.truncated)),
        )
