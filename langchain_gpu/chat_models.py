"""`ChatGPU`: one LangChain chat model over the engines that run on your own hardware."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from pydantic import ConfigDict
from typing_extensions import override

from langchain_gpu.generators.base import (
    Completion,
    Delta,
    Generator,
    Message,
    PromptTooLongError,
    Request,
)
from langchain_gpu.generators.images import without_images
from langchain_gpu.generators.streams import collect
from langchain_gpu.language_models.batches import AnswersBatches, Configs
from langchain_gpu.language_models.callbacks import langchain_errors
from langchain_gpu.language_models.messages import BrokenCalls, to_chunk, to_dicts, to_message
from langchain_gpu.language_models.schemas import to_tool, to_tool_choice
from langchain_gpu.language_models.structured_output import StructuredChat

_CHARACTERS_PER_TOKEN = 4  # English has 4 to 5


class ChatGPU(AnswersBatches, StructuredChat):
    """Chat with a model on the GPU, or on the CPU if there is none, and know which and why.

    Setup:
        `pip install "langchain-gpu[llama-cpp]"` for GGUF files,
        `pip install "langchain-gpu[local]"` for safetensors,
        `pip install "langchain-gpu[openai]"`, `[ollama]` or `[triton]` for a model behind a server.

    Key arguments (docs/settings.md has all):
        model: A `.gguf` file, a folder with safetensors, the name of an installed model package, a
            name on the hub, or a server's own name of a model (alias `model_name`).
        backend: `"auto"` takes `"llama_cpp"` for GGUF, `"transformers"` for safetensors, and asks
            the server at `base_url` what it is: `"ollama"`, or else `"openai"` (vLLM, SGLang,
            llama-server, NIM, TGI). It never chooses `"triton"`: name it.
        base_url: Address of a server; the key it asks for goes into `api_key`.
        temperature, top_p, max_tokens, stop, seed, timeout: How an answer is generated; each may
            be passed with a call instead. Other options go to the engine under its own names, in
            `model_kwargs` or with the call; `transformers` and `llama_cpp` refuse unknown ones.
        device: `"auto"`, `"cuda"`, `"cuda:1"`, `"rocm"`, `"xpu"`, `"mps"` or `"cpu"`.
        n_ctx: Window of one chat in tokens, prompt and answer together.
        fallback: `"cpu"` continues there, with a warning, when a device is missing or too small;
            `"error"` raises.

    Instantiate and use:
        ```python
        from langchain_gpu import ChatGPU

        chat = ChatGPU(model="HuggingFaceTB/SmolLM2-135M-Instruct", temperature=0, max_tokens=64)
        answer = chat.invoke("What is a GPU?")
        answer.content, answer.usage_metadata["output_tokens"]
        for chunk in chat.stream("Name three colors."):
            print(chunk.text, end="")
        ```

    Async:
        ```python
        answer = await chat.ainvoke("What is a GPU?")
        ```

    Structured output (a grammar keeps the model to the schema; safetensors need
    `pip install "langchain-gpu[grammar]"` for it, and a server enforces it itself):
        ```python
        class Person(BaseModel):
            name: str
            age: int


        chat.with_structured_output(Person).invoke(
            "Bob is 31 years old."
        )  # Person(name='Bob', ...)
        ```

    Constructing it loads nothing; the first call does, and `close()` frees it. It is safe to use
    from several threads: `llama_cpp` works on `n_parallel` chats at once, with `transformers` they
    share forward passes, and a server is sent `n_parallel` at once. Several `ChatGPU` of one file
    and the same settings share the weights. `llama_cpp` holds the GIL while it loads: call
    `chat.devices` at start-up where an event loop must not be blocked later.

    A model's chat template is a program that its authors wrote. `transformers` and `llama_cpp` run
    it where it can reach no Python object and no file. With `transformers`, a template whose loops
    do not end is stopped (after `timeout`, at most 60 s), but nothing bounds what it allocates;
    inside llama.cpp nothing stops it. Use models from people you trust.
    """

    model_config = ConfigDict(extra="forbid")  # which LangChain's class would undo

    def _resolve_model_profile(self) -> ModelProfile | None:
        """Tell agents the window, where it is known without loading the model."""
        return None if self.n_ctx is None else ModelProfile(max_input_tokens=self.n_ctx)

    @override
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other settings, which are not validated."""
        copied = super().model_copy(update=update, deep=deep)
        if self.profile == self._resolve_model_profile() and "profile" not in (update or ()):
            copied.profile = copied._resolve_model_profile()  # noqa: SLF001 - its own class
        return copied

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Count the tokens of the prompt that the chat becomes in the model's own template.

        Ollama and Triton count only what they can read: of a chat that is longer than the window
        the count is an estimate, and more than the window. No messages are no tokens. Images are
        not counted: what they take is known to the server alone.

        Raises:
            ContextOverflowError: The chat is too long for a server that does not say how long its
                window is.
        """
        if not messages:  # `trim_messages` asks for them
            return 0
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        chat = without_images(to_dicts(messages))
        definitions = [to_tool(tool) for tool in tools or ()]
        with self._hold() as generator, langchain_errors():
            try:
                return generator.count_chat_tokens(chat, definitions)
            except PromptTooLongError as error:
                if error.window is None:
                    raise
                return max(error.window + 1, _estimated(chat, definitions))

    @override
    def batch(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs; as many as the engine takes share forward passes.

        Ctrl-C, or the error of one, stops the others; those that have not begun never begin.

        Args:
            inputs: Chats.
            config: Its `max_concurrency` bounds the chats in flight; without one it is 64.
            return_exceptions: Return errors in the place of answers.
            **kwargs: Settings of the calls.
        """
        ask = partial(self.invoke, **kwargs)
        return self._batch(ask, inputs, config, return_exceptions=return_exceptions)

    @override
    def batch_as_completed(  # type: ignore[override]  # it has overloads
        self,
        inputs: Sequence[LanguageModelInput],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, AIMessage | Exception]]:
        """Do the same as `batch`, and yield the position and the answer of each input as they come.

        Closing the iterator stops what still runs.
        """
        ask = partial(self.invoke, **kwargs)
        return self._answers(ask, inputs, config, return_exceptions=return_exceptions)

    @override
    async def abatch(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Do the same as `batch` without blocking; canceling it stops all of them."""
        ask = partial(self.ainvoke, **kwargs)
        return await self._batch_async(ask, inputs, config, return_exceptions=return_exceptions)

    @override
    def abatch_as_completed(  # type: ignore[override]  # it has overloads
        self,
        inputs: Sequence[LanguageModelInput],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[int, AIMessage | Exception]]:
        """Do the same as `batch_as_completed` without blocking."""
        ask = partial(self.ainvoke, **kwargs)
        return self._answers_async(ask, inputs, config, return_exceptions=return_exceptions)

    @property
    def _llm_type(self) -> str:
        return "langchain-gpu"

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        with self._hold(request) as generator, langchain_errors():
            return self._result(generator, generator.generate([request])[0])

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, stop, kwargs)
        with self._streamed(request) as (generator, deltas):
            broken = BrokenCalls()
            for delta in deltas:
                for piece in broken(delta):
                    yield self._chunk(generator, piece)

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        # By the stream, which stops when the task is canceled; a blocking call would run on.
        async with self._astreamed(request) as (generator, deltas):
            return self._result(generator, collect([delta async for delta in deltas]))

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request = self._request(messages, stop, kwargs)
        async with self._astreamed(request) as (generator, deltas):
            broken = BrokenCalls()
            async for delta in deltas:
                for piece in broken(delta):
                    yield self._chunk(generator, piece)

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> Request:
        asked = self._asked(stop, kwargs)
        extra = asked["extra"]
        return Request(
            messages=to_dicts(messages),
            tools=extra.pop("tools", None) or (),
            tool_choice=to_tool_choice(extra.pop("tool_choice", None)),
            **asked,
        )

    def _result(self, generator: Generator, completion: Completion) -> ChatResult:
        message = to_message(completion, self._metadata(generator))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, generator: Generator, delta: Delta) -> ChatGenerationChunk:
        metadata = self._metadata(generator) if delta.finish_reason else {}
        return ChatGenerationChunk(message=to_chunk(delta, metadata))


def _estimated(chat: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of a chat whose characters alone are known."""
    characters = len(json.dumps([chat, tools], ensure_ascii=False))
    return characters // _CHARACTERS_PER_TOKEN


__all__ = ["ChatGPU"]
