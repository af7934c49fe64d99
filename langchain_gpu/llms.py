"""`GPULLM`: plain text in, plain text out, on your own hardware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from pydantic import ConfigDict
from typing_extensions import override

from langchain_gpu.generators.base import Completion, Delta, Generator, Request
from langchain_gpu.generators.cancel_group import current_group
from langchain_gpu.generators.checks import check_text
from langchain_gpu.generators.parallel import generate_all_async
from langchain_gpu.generators.streams import collect
from langchain_gpu.language_models.base import check_plain
from langchain_gpu.language_models.batches import AnswersBatches, Configs
from langchain_gpu.language_models.callbacks import (
    langchain_errors,
    report_token_async,
    report_tokens,
)
from langchain_gpu.language_models.concurrency import configs_of
from langchain_gpu.language_models.generations import to_generation_chunk, to_result
from langchain_gpu.language_models.settings import PER_CALL

# What a call may set and a copy may hold. A time-out changes no answer, and a server's connection.
_KEYED = tuple(name for name in PER_CALL if name != "timeout")
_LEFT = ("tags", "metadata", "run_name", "run_id", "model", "stream", "timeout")


class GPULLM(AnswersBatches, BaseLLM):
    """Continue a text, outside any chat template, on the GPU or on the CPU if there is none.

    A drop-in for `HuggingFacePipeline`, `LlamaCpp` and `OllamaLLM`. Base models work too. To chat
    with a model that was trained for it, use `ChatGPU`.

    Setup:
        `pip install "langchain-gpu[llama-cpp]"` for GGUF files,
        `pip install "langchain-gpu[local]"` for safetensors,
        `pip install "langchain-gpu[openai]"`, `[ollama]` or `[triton]` for a model behind a server.

    Key arguments (docs/settings.md has all):
        model: A `.gguf` file, a folder with safetensors, the name of an installed model package, a
            name on the hub, or a server's own name of a model (alias `model_name`).
        backend: `"auto"` takes `"llama_cpp"` for GGUF, `"transformers"` for safetensors, and asks
            the server at `base_url` whether it is Ollama or speaks the OpenAI form. It never
            chooses `"triton"`: name it.
        base_url: Address of a server; the key it asks for goes into `api_key`.
        device: `"auto"`, `"cuda"`, `"cuda:1"`, `"rocm"`, `"xpu"`, `"mps"` or `"cpu"`.
        fallback: `"cpu"` continues there, with a warning, when a device is missing or too small;
            `"error"` raises.

    Instantiate and use:
        ```python
        from langchain_gpu import GPULLM

        llm = GPULLM(model="HuggingFaceTB/SmolLM2-135M-Instruct", temperature=0, max_tokens=16)
        llm.invoke("The capital of France is")  # one text
        llm.batch(["One, two,", "A, B,"])  # all in one call of the engine
        for text in llm.stream("Once upon a time"):
            print(text, end="")
        result = llm.generate(["One, two,", "A, B,"])
        result.llm_output["token_usage"]["completion_tokens"]
        ```

    Async:
        ```python
        await llm.ainvoke("The capital of France is")
        ```

    Constructing it loads nothing; the first call does, and `close()` frees it. It is safe to use
    from several threads.
    """

    model_config = ConfigDict(extra="forbid")  # which LangChain's class would undo

    @override
    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Continue every prompt; settings of the call are part of the key in LangChain's caches.

        With `streaming`, callbacks hear the tokens of a single prompt; several are told when they
        end, for all of them go to the engine at once.

        Args:
            prompts: Texts.
            stop: Strings that end an answer.
            callbacks: See `BaseLLM.generate`.
            **kwargs: Tags, metadata and names of the run, and settings of the call.
        """
        model, named = self._holding(kwargs)
        return super(GPULLM, model).generate(prompts, stop, callbacks, **named)

    @override
    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Do the same as `generate` without blocking."""
        model, named = self._holding(kwargs)
        return await super(GPULLM, model).agenerate(prompts, stop, callbacks, **named)

    @override
    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Go on with all inputs, in one call of the engine.

        Args:
            inputs: Texts.
            config: Its `max_concurrency` bounds the texts of one call.
            return_exceptions: Return errors in the place of answers, each in its own place.
            **kwargs: Settings of the calls.
        """
        if not inputs:
            return []
        if not return_exceptions:
            configs_of(len(inputs), config)  # refuses what is wrong in it
            return super().batch(inputs, config, **kwargs)
        # One by one, in threads: BaseLLM would give every text the error of one.
        ask = partial(self.invoke, **kwargs)
        return self._batch(ask, inputs, config, return_exceptions=True)

    @override
    def batch_as_completed(  # type: ignore[override]  # it has overloads
        self,
        inputs: Sequence[LanguageModelInput],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, str | Exception]]:
        """Do the same as `batch`, and yield the position and the answer of each input as they come.

        Closing the iterator stops what still runs.
        """
        ask = partial(self.invoke, **kwargs)
        return self._answers(ask, inputs, config, return_exceptions=return_exceptions)

    @override
    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Do the same as `batch` without blocking."""
        if not inputs:
            return []
        if not return_exceptions:
            configs_of(len(inputs), config)
            return await super().abatch(inputs, config, **kwargs)
        ask = partial(self.ainvoke, **kwargs)
        return await self._batch_async(ask, inputs, config, return_exceptions=True)

    @override
    def abatch_as_completed(  # type: ignore[override]  # it has overloads
        self,
        inputs: Sequence[LanguageModelInput],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[int, str | Exception]]:
        """Do the same as `batch_as_completed` without blocking."""
        ask = partial(self.ainvoke, **kwargs)
        return self._answers_async(ask, inputs, config, return_exceptions=return_exceptions)

    def _holding(self, kwargs: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return a copy with the settings of one call as its own, and what is left of `kwargs`.

        BaseLLM looks answers up by the settings of the object alone: another temperature would get
        the answer of the first.
        """
        own = {name: kwargs[name] for name in _KEYED if name in kwargs}
        left = {name: kwargs[name] for name in _LEFT if name in kwargs}
        rest = {name: kwargs[name] for name in kwargs if name not in own and name not in left}
        if not (own or rest):
            return self, left
        extra = {**self.model_kwargs, **rest}
        return self.model_copy(update={**own, "model_kwargs": extra}), left

    @property
    def _llm_type(self) -> str:
        return "langchain-gpu-llm"

    @override
    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        requests = self._requests(prompts, stop, kwargs)
        with self._hold(*requests) as generator, langchain_errors():
            check_plain(generator)
            if not self._tells(requests):
                return self._result(generator, generator.generate(requests))
            with current_group().reading(generator.stream(requests[0])) as deltas:
                return self._result(generator, [collect(report_tokens(deltas, run_manager))])

    @override
    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        (request,) = self._requests([prompt], stop, kwargs)
        with self._streamed(request) as (generator, deltas):
            for delta in report_tokens(deltas, run_manager):
                yield self._chunk(generator, delta)

    @override
    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        requests = self._requests(prompts, stop, kwargs)
        tell = partial(report_token_async, run_manager) if self._tells(requests) else None
        several = len(requests) > 1  # one alone waits for nobody, or its batch is announced
        with self._announced(len(requests), len(requests)) if several else nullcontext():
            async with self._ahold(*requests) as generator:
                check_plain(generator)
                with langchain_errors():
                    # By streams, which stop when the task is canceled; a call would run on.
                    answers = await generate_all_async(
                        generator.stream, requests, width=generator.max_batch, tell=tell
                    )
                return self._result(generator, answers)

    @override
    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        (request,) = self._requests([prompt], stop, kwargs)
        async with self._astreamed(request) as (generator, deltas):
            async for delta in deltas:
                await report_token_async(run_manager, delta)
                yield self._chunk(generator, delta)

    def _requests(
        self, prompts: Sequence[str], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> list[Request]:
        asked = self._asked(stop, kwargs)
        for at, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {at} is empty: there is nothing to continue")
            check_text(f"prompt {at}", prompt)
        return [Request(prompt=prompt, **asked) for prompt in prompts]

    def _tells(self, requests: Sequence[Request]) -> bool:
        # LangChain hands over the callbacks of the first prompt alone: not to be told the others.
        return self.streaming and len(requests) == 1

    def _result(self, generator: Generator, answers: Sequence[Completion]) -> LLMResult:
        return to_result(answers, self.model, self._metadata(generator))

    def _chunk(self, generator: Generator, delta: Delta) -> GenerationChunk:
        metadata = self._metadata(generator) if delta.finish_reason else {}
        return to_generation_chunk(delta, metadata)


__all__ = ["GPULLM"]
