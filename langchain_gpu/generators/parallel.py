"""Several chats at once on an engine that streams one chat per call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import aclosing, contextmanager

from langchain_gpu.generators.base import Completion, Delta, Deltas, PromptTooLongError, Request
from langchain_gpu.generators.cancel_group import CancelGroup, current_group
from langchain_gpu.generators.pump import pulled_async
from langchain_gpu.generators.streams import collect


@contextmanager
def placed(at: int, requests: Sequence[Request]) -> Iterator[None]:
    """Say of a prompt that is too long which one of several it is."""
    try:
        yield
    except PromptTooLongError as error:
        error.at = at if len(requests) > 1 else None
        raise


def generate_all(
    stream: Callable[[Request], Deltas], requests: Sequence[Request], *, width: int
) -> list[Completion]:
    """Answer every request, `width` at a time, in order.

    Raises:
        BaseException: What the first failing request raised; the others are canceled.
    """
    if len(requests) == 1:
        with current_group().reading(stream(requests[0])) as deltas:
            return [collect(deltas)]
    group = CancelGroup()

    def answer(at: int, request: Request) -> Completion:
        with placed(at, requests), group.reading(stream(request)) as deltas:
            return collect(deltas)

    with ThreadPoolExecutor(max(1, min(width, len(requests)))) as pool:
        futures: list[Future[Completion]] = []
        try:
            futures.extend(pool.submit(answer, *each) for each in enumerate(requests))
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # interrupted or not: leaving the pool waits for all that still runs
            for future in futures:
                future.cancel()
            group.stop()
        for future in done:
            future.result()  # raises what failed first
        return [future.result() for future in futures]


async def generate_all_async(
    stream: Callable[[Request], Deltas],
    requests: Sequence[Request],
    *,
    width: int,
    tell: Callable[[Delta], Awaitable[None]] | None = None,
) -> list[Completion]:
    """Do the same without blocking; canceling it stops every answer.

    Args:
        stream: Gives the pieces of one answer.
        requests: What is answered, in order.
        width: Answers at the same time.
        tell: Is told every piece as it comes.

    Raises:
        BaseException: What the first failing request raised; the others are canceled.
    """
    free = asyncio.Semaphore(width)

    async def answer(at: int, request: Request) -> Completion:
        deltas = []
        with placed(at, requests):
            async with free, aclosing(pulled_async(stream(request))) as pieces:
                async for delta in pieces:
                    if tell is not None:
                        await tell(delta)
                    deltas.append(delta)
        return collect(deltas)

    tasks = [asyncio.create_task(answer(*each)) for each in enumerate(requests)]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


__all__ = ["generate_all", "generate_all_async", "placed"]
