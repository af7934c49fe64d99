"""Batches: many inputs share the engine, and are canceled when the caller stops reading."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from operator import itemgetter
from typing import cast

from langchain_core.runnables import RunnableConfig

from langchain_gpu.language_models.base import RunsGenerator
from langchain_gpu.language_models.concurrency import (
    InputT,
    OutputT,
    configs_of,
    run_as_completed,
    run_as_completed_async,
)

Configs = RunnableConfig | Sequence[RunnableConfig] | None


class AnswersBatches(RunsGenerator):
    """Base of a class that announces a batch to its engine before the inputs are sent."""

    def _answers(
        self,
        ask: Callable[[InputT, RunnableConfig], OutputT],
        inputs: Sequence[InputT],
        config: Configs,
        *,
        return_exceptions: bool,
    ) -> Iterator[tuple[int, OutputT | Exception]]:
        """Yield the position and the answer, or the error, of each input as they come."""

        def asked(each: InputT, config: RunnableConfig) -> OutputT | Exception:
            try:
                return ask(each, config)
            except Exception as error:
                if not return_exceptions:
                    raise
                return error

        if inputs:
            with self._batched(len(inputs), config) as configs:
                yield from run_as_completed(asked, inputs, configs)

    async def _answers_async(
        self,
        ask: Callable[[InputT, RunnableConfig], Awaitable[OutputT]],
        inputs: Sequence[InputT],
        config: Configs,
        *,
        return_exceptions: bool,
    ) -> AsyncIterator[tuple[int, OutputT | Exception]]:
        """Do the same as `_answers` without blocking."""

        async def asked(each: InputT, config: RunnableConfig) -> OutputT | Exception:
            try:
                return await ask(each, config)
            except Exception as error:
                if not return_exceptions:
                    raise
                return error

        if inputs:
            with self._batched(len(inputs), config) as configs:
                async with aclosing(run_as_completed_async(asked, inputs, configs)) as answers:
                    async for each in answers:
                        yield each

    def _batch(
        self,
        ask: Callable[[InputT, RunnableConfig], OutputT],
        inputs: Sequence[InputT],
        config: Configs,
        *,
        return_exceptions: bool,
    ) -> list[OutputT]:
        """Return the answers in order; errors among them are not in the type, as in LangChain's."""
        answers = self._answers(ask, inputs, config, return_exceptions=return_exceptions)
        return [cast("OutputT", answer) for _, answer in sorted(answers, key=itemgetter(0))]

    async def _batch_async(
        self,
        ask: Callable[[InputT, RunnableConfig], Awaitable[OutputT]],
        inputs: Sequence[InputT],
        config: Configs,
        *,
        return_exceptions: bool,
    ) -> list[OutputT]:
        """Do the same as `_batch` without blocking."""
        answers = self._answers_async(ask, inputs, config, return_exceptions=return_exceptions)
        found = [each async for each in answers]
        return [cast("OutputT", answer) for _, answer in sorted(found, key=itemgetter(0))]

    @contextmanager
    def _batched(self, count: int, config: Configs) -> Iterator[list[RunnableConfig]]:
        """Announce a batch of `count` inputs, and give each of them its config."""
        configs, width = configs_of(count, config)
        with self._announced(count, width):
            yield configs


__all__ = ["AnswersBatches", "Configs"]
