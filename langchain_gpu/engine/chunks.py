"""A stream of items in parts, sized so that what goes wrong costs little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

ItemT = TypeVar("ItemT")

_FIRST = 256  # items of the first part: a slow machine shows soon that it works
LARGEST = 8192  # more in a part make no better batches
_SECONDS = (5.0, 20.0)  # that a part should take


@dataclass(slots=True)
class Pace:
    """How many items a part has.

    Attributes:
        size: Of the next part.
        fixed: Whether it stays; else it comes to what takes some ten seconds.
    """

    size: int = _FIRST
    fixed: bool = False

    def after(self, seconds: float) -> None:
        """Choose the next size, after a part of the last one took so long."""
        if self.fixed:
            return
        short, long = _SECONDS
        if seconds < short:
            self.size = min(2 * self.size, LARGEST)
        elif seconds > long:
            self.size = max(self.size // 2, 1)


def chunks(items: Iterator[ItemT], pace: Pace) -> Iterator[list[ItemT]]:
    """Yield lists of items, each as long as `pace` says by then, the last of those that are left.

    What was read before the iterator failed is yielded first, and then its error raised.
    """
    error: Exception | None = None
    while error is None:
        chunk: list[ItemT] = []
        try:
            for item in islice(items, pace.size):
                chunk.append(item)  # noqa: PERF402 - what was read is kept where reading fails
        except Exception as raised:  # noqa: BLE001 - it is raised below
            error = raised
        if not chunk:
            break
        yield chunk
    if error is not None:
        raise error


__all__ = ["LARGEST", "Pace", "chunks"]
