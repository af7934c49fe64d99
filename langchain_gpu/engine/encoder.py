"""The `Encoder` contract: what the engine needs of a model, and every back end implements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.hardware.devices import Device

Vectors = NDArray[np.float32]
# A batch that was started: calling it waits for its rows. Shape (rows, dimension).
Pending = Callable[[], Vectors]


def done(vectors: Vectors) -> Pending:
    """Wrap rows that are there already."""
    return lambda: vectors


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Items made ready for planning: what only the CPU and the tokenizer have to do with.

    Most encoders have one row per item. A policy that cuts a long item into windows has several;
    `owners` then says whose they are, and `Encoder.merge` puts them together again.

    Attributes:
        lengths: Tokens of each row, shape (rows,).
        payload: What the encoder's `prepare` needs; the engine never looks inside.
        owners: Item of each row, shape (rows,), ascending; None when row i is item i.
        truncated: Items that were cut to the model's window, ascending.
    """

    lengths: NDArray[np.int64]
    payload: Any
    owners: NDArray[np.int64] | None = None
    truncated: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@runtime_checkable
class Encoder(Protocol):
    """Items to float32 rows on one device.

    `tokenize` and `prepare` run on feeder threads, beside `forward`; the engine calls `forward`
    and `to` from one thread at a time. What `forward` returns may be called from another one.
    """

    @property
    def device(self) -> Device:
        """Where `forward` runs now."""

    @property
    def dimension(self) -> int:
        """Width of a row."""

    @property
    def rules(self) -> BatchRules:
        """How batches are to be planned on the device it runs on now."""

    def tokenize(self, items: Sequence[Any], options: Any, *, start: int = 0) -> Tokenized:
        """Turn items into rows of tokens.

        Args:
            items: What to embed or score.
            options: What the caller of the engine passed, for example a prompt.
            start: Position of the first item in the caller's sequence, for messages.

        Raises:
            TypeError: An item is not what the encoder takes; the message has its position.
            ValueError: An item cannot be tokenized; the same.
        """

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> Any:
        """Build the features of one batch in host memory."""

    def forward(self, features: Any) -> Pending:
        """Start one batch.

        A runtime that works while the caller goes on returns at once; others compute here and
        return `done(rows)`. At most `rules.in_flight` batches are on their way at a time. This, or
        the call of what it returns, raises whatever the runtime raises when memory runs out.
        """

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """Combine the rows of windowed items. Called only when `tokens.owners` is set."""

    def to(self, device: Device) -> None:
        """Move the model."""

    def close(self) -> None:
        """Free the model's memory."""
