"""Iterate a source on a thread of its own, some results ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")


def prefetch(source: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Iterate `source` on a thread of its own, `depth` results ahead of the consumer.

    `depth` is the only back-pressure. An error in the source is raised here, where the consumer
    waits. Closing this iterator early closes the source.

    While Python shuts down, executors take no work, but a thread that the main thread did not wait
    for may still iterate: what is left of the source then runs on that thread.

    Args:
        source: What to iterate; a generator runs and is closed on the thread.
        depth: Results computed in advance, at least 1.
    """
    iterator = iter(source)
    end: Any = object()
    with ThreadPoolExecutor(1, "langchain-gpu-feeder") as feeder:
        pending: deque[Future[Any]] = deque()

        def ask() -> None:
            if (future := submit(feeder, next, iterator, end)) is not None:
                pending.append(future)

        for _ in range(depth):
            ask()
        try:
            while (
                item := pending.popleft().result() if pending else next(iterator, end)
            ) is not end:
                ask()
                yield item
        finally:
            for future in pending:
                future.cancel()
            close = getattr(iterator, "close", None)
            if close is not None and submit(feeder, close) is None:
                wait(pending)  # a generator that runs cannot be closed
                close()


def submit(
    pool: ThreadPoolExecutor, call: Callable[..., Any], *arguments: Any
) -> Future[Any] | None:
    """Run a call in a pool; return None while Python shuts down, when a pool takes no work."""
    try:
        return pool.submit(call, *arguments)
    except RuntimeError:
        return None
