"""Asynchronous copies between host and device memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from langchain_gpu.engine.encoder import Pending, Vectors, done


class Event(Protocol):
    """A point in a device's queue, as `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait for it."""


@dataclass(frozen=True, slots=True)
class HostCopy:
    """Rows that are being copied to host memory.

    Attributes:
        host: Pinned memory that receives them.
        event: Recorded after the copy.
    """

    host: torch.Tensor
    event: Event

    def __call__(self) -> Vectors:
        """Wait for the copy, and return the rows."""
        self.event.synchronize()
        vectors: Vectors = self.host.numpy()
        return vectors


def copy_to_host(vectors: torch.Tensor, name: str) -> Pending:
    """Start the copy of rows into host memory.

    Args:
        vectors: Shape (rows, dimension), float32.
        name: torch's name of the device they are on.
    """
    if not vectors.is_cuda:
        result: Vectors = vectors.cpu().numpy()
        return done(result)
    host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    host.copy_(vectors, non_blocking=True)
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(name))
    return HostCopy(host, event)


def pinned(features: dict[str, Any]) -> dict[str, Any]:
    """Copy tensors to pinned memory, from which a card can copy asynchronously."""
    return {
        name: value.pin_memory() if isinstance(value, torch.Tensor) else value
        for name, value in features.items()
    }
