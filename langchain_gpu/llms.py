"""`GPULLM`: plain text in, plain text out, on your own hardware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import asdict
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from pydantic import ConfigDict
from typing_extensions import override

from langchain_gpu.calls import configs_of, entered, langchain_errors
from langchain_gpu.generating import PER_CALL, RunsGenerator
from langchain_gpu.generators.base import Completion, Delta, Generator, Request
from langchain_gpu.generators.checks import check_text
from langchain_gpu.generators.pump import pulled_async
from langchain_gpu.generators.streams import collect
from langchain_gpu.messages import end_metadata

# What a call may set and a copy may hold. A time-out changes no answer, and a server's connection.
_KEYED = tuple(name for name in PER_CALL if name != "timeout")
_LEFT = ("tags", "metadata", "run_name", "run_id", "model", "stream", "timeout")


class GPULLM(RunsGenerator, BaseLLM):
    """Go on with a text, outside any chat template, on the GPU or on the CPU where there is none.

    A drop-in for `HuggingFacePipeline`, `LlamaCpp` and `OllamaLLM`. Base models work too. To talk
    with a model that was trained for chats, take `ChatGPU`.

    Setup:
        `pip install "langchain-gpu[llama-cpp]"` for GGUF files,
        `pip install "langchain-gpu[local]"` for safetensors,
        `pip install "langchain-gpu[openai]"` or `[ollama]` for a model behind a server.

    Key arguments:
        model: A `.gguf` file, a folder with safetensors, the name of an installed model package, a
            name on the hub, or a server's own name of a model (alias `model_name`).
        backend: `"auto"` takes `"llama_cpp"` for GGUF, `"transformers"` for safetensors, and asks
            the server at `base_url` what it is.
        base_url: Address of a server; the key it asks for goes into `api_key`.
        device: `"auto"`, `"cuda"`, `"cuda:1"`, `"rocm"`, `"xpu"`, `"mps"` or `"cpu"`.
        fallback: `"cpu"` goes on there, with a warning, when a device is missing or too small;
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

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())

    @override
    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids the model's own tokenizer gives, without special tokens."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        check_text("the text", text)
        with self._hold() as generator:
            return generator.tokenize(text)

    @override
    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Go on with every prompt; settings of the call are part of the key in LangChain's caches.

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
        if not return_exceptions or not inputs:
            return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)
        configs, width = configs_of(len(inputs), config)
        with self._announced(len(inputs), width):
            # One by one, in threads: BaseLLM would give every text the error of one.
            return super(BaseLLM, self).batch(inputs, configs, return_exceptions=True, **kwargs)

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
        if not return_exceptions or not inputs:
            return await super().abatch(
                inputs, config, return_exceptions=return_exceptions, **kwargs
            )
        configs, width = configs_of(len(inputs), config)
        async with entered(self._announced(len(inputs), width)):
            return await super(BaseLLM, self).abatch(
                inputs, configs, return_exceptions=True, **kwargs
            )

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

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._settings

    @override
    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        requests = self._requests(prompts, stop, kwargs)
        with self._hold() as generator, langchain_errors():
            _check(generator)
            if not self.streaming:
                return self._result(generator, generator.generate(requests))
            answers = []
            for request in requests:
                with closing(generator.stream(request)) as deltas:
                    answers.append(collect(_told(deltas, run_manager)))
            return self._result(generator, answers)

    @override
    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        (request,) = self._requests([prompt], stop, kwargs)
        with self._hold() as generator, langchain_errors():
            _check(generator)
            with closing(generator.stream(request)) as deltas:
                for delta in _told(deltas, run_manager):
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
        announced = self._announced(len(requests), len(requests))
        async with entered(announced), entered(self._hold()) as generator:
            _check(generator)
            # By streams, which stop when the task is canceled; a blocking call would run on.
            free = asyncio.Semaphore(generator.max_batch)
            told = run_manager if self.streaming else None
            answers = [_answer(generator, request, free, told) for request in requests]
            with langchain_errors():
                return self._result(generator, await _all(answers))

    @override
    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        (request,) = self._requests([prompt], stop, kwargs)
        async with entered(self._hold()) as generator:
            _check(generator)
            with langchain_errors():
                async with aclosing(pulled_async(generator.stream(request))) as deltas:
                    async for delta in deltas:
                        await _tell(run_manager, delta)
                        yield self._chunk(generator, delta)

    def _requests(
        self, prompts: Sequence[str], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> list[Request]:
        asked = self._asked(stop, kwargs)
        for at, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {at} is empty: there is nothing to go on with")
            check_text(f"prompt {at}", prompt)
        return [Request(prompt=prompt, **asked) for prompt in prompts]

    def _result(self, generator: Generator, answers: Sequence[Completion]) -> LLMResult:
        generations = [
            [Generation(text=answer.text, generation_info=self._info(generator, answer))]
            for answer in answers
        ]
        usages = [answer.usage for answer in answers if answer.usage is not None]
        output: dict[str, Any] = {"model_name": self.model}
        if len(usages) == len(answers):  # a server may not say
            given = sum(usage.input_tokens for usage in usages)
            written = sum(usage.output_tokens for usage in usages)
            output["token_usage"] = {
                "prompt_tokens": given,
                "completion_tokens": written,
                "total_tokens": given + written,
            }
        return LLMResult(generations=generations, llm_output=output)

    def _chunk(self, generator: Generator, delta: Delta) -> GenerationChunk:
        info = self._info(generator, delta) if delta.finish_reason else None
        return GenerationChunk(text=delta.text, generation_info=info)

    def _info(self, generator: Generator, answer: Completion | Delta) -> dict[str, Any]:
        info = end_metadata(answer.finish_reason, answer.timings, self._metadata(generator))
        if answer.usage is not None:
            info["usage"] = asdict(answer.usage)
        if answer.logprobs:
            info["logprobs"] = {"content": [dict(each) for each in answer.logprobs]}
        return info


def _check(generator: Generator) -> None:
    if not getattr(generator, "plain_prompts", False):
        raise NotImplementedError(
            f"{type(generator).__name__} knows only chats, no plain prompts: take ChatGPU, or the "
            f"back end 'llama_cpp' or 'transformers'"
        )


def _told(deltas: Iterable[Delta], run_manager: CallbackManagerForLLMRun | None) -> Iterator[Delta]:
    for delta in deltas:
        if run_manager is not None and delta.text:
            run_manager.on_llm_new_token(delta.text)
        yield delta


async def _tell(run_manager: AsyncCallbackManagerForLLMRun | None, delta: Delta) -> None:
    if run_manager is not None and delta.text:
        await run_manager.on_llm_new_token(delta.text)


async def _answer(
    generator: Generator,
    request: Request,
    free: asyncio.Semaphore,
    run_manager: AsyncCallbackManagerForLLMRun | None,
) -> Completion:
    deltas = []
    async with free, aclosing(pulled_async(generator.stream(request))) as stream:
        async for delta in stream:
            await _tell(run_manager, delta)
            deltas.append(delta)
    return collect(deltas)


async def _all(answers: Iterable[Coroutine[Any, Any, Completion]]) -> list[Completion]:
    """Wait for every answer; one that fails raises, and cancels the others."""
    tasks = [asyncio.create_task(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


__all__ = ["GPULLM"]
