"""Many calls at once, in threads or tasks that are all canceled when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list

from langchain_gpu.generators.cancel_group import CancelGroup
from langchain_gpu.utils.integers import at_least_one

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")

# Most calls of a batch that are in flight: each is a thread, and engines have their own queues.
_WIDTH = 64


def configs_of(
    count: int, config: RunnableConfig | Sequence[RunnableConfig] | None
) -> tuple[list[RunnableConfig], int]:
    """Return one config per input of a batch, and how many calls are in flight at a time.

    `max_concurrency` of the config is kept; without it LangChain would take as many threads as the
    machine has cores and four, fewer than an engine can answer at once.

    Raises:
        TypeError: `max_concurrency` is not a whole number.
        ValueError: It is less than 1.
    """
    configs = get_config_list(config, count)
    width = configs[0].get("max_concurrency")
    width = min(count, _WIDTH) if width is None else at_least_one("max_concurrency", width)
    return [{**each, "max_concurrency": width} for each in configs], width


def run_as_completed(
    ask: Callable[[InputT, RunnableConfig], OutputT],
    inputs: Sequence[InputT],
    configs: Sequence[RunnableConfig],
) -> Iterator[tuple[int, OutputT]]:
    """Ask all inputs of a batch, and yield the position and the answer of each as they come.

    LangChain's own batches wait for what runs when one fails or Ctrl-C is pressed. Here, as when
    the iterator is closed, what runs is stopped, what has not begun never begins, and nobody waits.

    Args:
        ask: Called in threads, as many as the `max_concurrency` of the first config.
        inputs: One for each call.
        configs: The same.

    Raises:
        BaseException: What the first failing call raised.
    """
    if len(inputs) == 1:
        yield 0, ask(inputs[0], configs[0])
        return
    group = CancelGroup()
    pool = ThreadPoolExecutor(configs[0].get("max_concurrency"), "langchain-gpu-batch")
    try:
        futures: dict[Future[OutputT], int] = {
            pool.submit(group.context().run, ask, each, its): at
            for at, (each, its) in enumerate(zip(inputs, configs, strict=True))
        }
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        group.stop()
        pool.shutdown(wait=False, cancel_futures=True)


async def run_as_completed_async(
    ask: Callable[[InputT, RunnableConfig], Awaitable[OutputT]],
    inputs: Sequence[InputT],
    configs: Sequence[RunnableConfig],
) -> AsyncGenerator[tuple[int, OutputT]]:
    """Do the same as `run_as_completed` with tasks.

    LangChain's own would leave the others running where one fails, and where nobody reads on.

    Args:
        ask: Called in tasks, as many at a time as the `max_concurrency` of the first config.
        inputs: One for each call.
        configs: The same.

    Raises:
        BaseException: What the first failing call raised.
    """
    places = asyncio.Semaphore(configs[0]["max_concurrency"] or len(inputs))

    async def asked(at: int) -> tuple[int, OutputT]:
        async with places:
            return at, await ask(inputs[at], configs[at])

    tasks = [asyncio.create_task(asked(at)) for at in range(len(inputs))]
    try:
        for answered in asyncio.as_completed(tasks):
            yield await answered
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


__all__ = ["InputT", "OutputT", "configs_of", "run_as_completed", "run_as_completed_async"]
