"""`GPULLM`: plain text in, plain text out, on your own hardware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import asdict
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict
from typing_extensions import override

from langchain_gpu.calls import entered, langchain_errors
from langchain_gpu.generating import RunsGenerator
from langchain_gpu.generators.base import Completion, Delta, Generator, Request, collect
from langchain_gpu.generators.checks import check_text
from langchain_gpu.generators.pump import pulled_async
from langchain_gpu.messages import end_metadata


class GPULLM(RunsGenerator, BaseLLM):
    """Go on with a text, outside any chat template, on the GPU or on the CPU where there is none.

    A drop-in for `HuggingFacePipeline`, `LlamaCpp` and `OllamaLLM`. Base models work too. To talk
    with a model that was trained for chats, take `ChatGPU`.

    Setup:
        `pip install "langchain-gpu[llama-cpp]"` for GGUF files,
        `pip install "langchain-gpu[local]"` for safetensors.

    Key arguments:
        model: A `.gguf` file, a folder with safetensors, the name of an installed model package, or
            a name on the hub (alias `model_name`).
        backend: `"auto"` takes `"llama_cpp"` for GGUF and `"transformers"` for safetensors.
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
            answers = [_answer(generator, request, free) for request in requests]
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


async def _answer(generator: Generator, request: Request, free: asyncio.Semaphore) -> Completion:
    async with free, aclosing(pulled_async(generator.stream(request))) as deltas:
        return collect([delta async for delta in deltas])


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
