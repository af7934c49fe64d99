"""Iterate a source on a thread of its own, some results ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def prefetch(source: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Iterate `source` on a thread of its own, `depth` results prefetch of the consumer.

    `depth` is the only back-pressure. An error in the source is raised here, where the consumer
    waits. Closing this iterator early closes the source.

    Args:
        source: What to iterate; a generator runs and is closed on the thread.
        depth: Results computed in advance, at least 1.
    """
    iterator = iter(source)
    end: Any = object()
    with ThreadPoolExecutor(1, "langchain-gpu-feeder") as feeder:
        pending = deque(feeder.submit(next, iterator, end) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(feeder.submit(next, iterator, end))
                yield item
        finally:
            for future in pending:
                future.cancel()
            close = getattr(iterator, "close", None)
            if close is not None:
                feeder.submit(close)
