"""Asynchronous copies between host and device memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from langchain_gpu.engine.encoder import Pending, Vectors, done


class Event(Protocol):
    """What tells that a device has come so far."""

    def synchronize(self) -> None:
        """Wait for it."""


@dataclass(frozen=True, slots=True)
class HostCopy:
    """Rows on their way into host memory.

    Attributes:
        host: Where they arrive, pinned.
        event: Comes when they have.
    """

    host: torch.Tensor
    event: Event

    def __call__(self) -> Vectors:
        """Wait, and return them."""
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
    """Put tensors where a card can fetch them by itself."""
    return {
        name: value.pin_memory() if isinstance(value, torch.Tensor) else value
        for name, value in features.items()
    }
