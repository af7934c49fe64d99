"""A batch on its way through the ladder: planned, started, finished, or out of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors
from langchain_gpu.events import BatchDone
from langchain_gpu.hardware.devices import Device


class Owner(Protocol):
    """The tokenized items from which a batch is taken."""

    @property
    def tokens(self) -> Tokenized:
        """All of its rows."""

    @property
    def start(self) -> int:
        """Position of its first item in the caller's sequence."""


OwnerT = TypeVar("OwnerT", bound=Owner)
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Work(Generic[OwnerT]):
    """One planned batch.

    Attributes:
        owner: Whose rows these are.
        rows: Which of them, longest first.
        features: The batch as `encoder.prepare` built it; None to build it when it is started.
        device: Where the encoder was when it built them.
        again: Whether it is a single item that ran out of memory, tried a second time on the
            same device.
    """

    owner: OwnerT
    rows: Rows
    features: Any = None
    device: Device | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Finished(Generic[OwnerT]):
    """A batch, or a part of one, with its vectors."""

    owner: OwnerT
    rows: Rows
    vectors: Vectors
    fact: BatchDone


@dataclass(frozen=True, slots=True)
class Flight(Generic[OwnerT]):
    """A batch in flight."""

    work: Work[OwnerT]
    device: Device
    began: float
    pending: Pending


@dataclass(frozen=True, slots=True)
class Failure(Generic[OwnerT]):
    """A batch that ran out of memory.

    Attributes:
        work: The batch.
        device: Where it failed; the encoder may have moved since.
        problem: What the runtime said.
    """

    work: Work[OwnerT]
    device: Device
    problem: str


__all__ = ["Failure", "Finished", "Flight", "Owner", "OwnerT", "Rows", "Work"]
