"""`ChatGPU`: one LangChain chat model over the engines that run on your own hardware."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr, SecretStr, field_validator
from typing_extensions import override

from langchain_gpu.events import Listener
from langchain_gpu.generators.base import (
    Completion,
    Delta,
    Generator,
    PromptTooLongError,
    Request,
    collect,
)
from langchain_gpu.generators.pump import pulled_async
from langchain_gpu.generators.registry import Choice, Options, check_name, choose, create
from langchain_gpu.hardware.devices import Device
from langchain_gpu.messages import response_format, structured, to_chunk, to_dicts, to_message
from langchain_gpu.servers.server import Server

# Fields that are sampling settings of one call, and may be given with the call too.
_PER_CALL = ("max_tokens", "temperature", "top_p", "seed", "timeout")
_PLACING = (
    "device",
    "dtype",
    "fallback",
    "n_ctx",
    "n_parallel",
    "n_gpu_layers",
    "n_threads",
    "keep_alive",
)
# Seconds a server may take for an answer when nobody said: the openai client's own default.
_SERVER_SECONDS = 600.0


class _Loaded:
    """The engine once it is loaded. A copy or an unpickled object loads its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.settings: tuple[str, str, Options] | None = None
        self.choice: Choice | None = None
        self.generator: Generator | None = None

    def __reduce__(self) -> tuple[type[_Loaded], tuple[()]]:
        return _Loaded, ()


class ChatGPU(BaseChatModel):
    """Chat with a model on the GPU, or on the CPU where there is none, and know which and why.

    Setup:
        `pip install "langchain-gpu[llama-cpp]"` for GGUF files,
        `pip install "langchain-gpu[local]"` for safetensors.

    Key arguments:
        model: A `.gguf` file, a folder with safetensors, the name of an installed model package, or
            a name on the hub (alias `model_name`).
        backend: `"auto"` takes `"llama_cpp"` for GGUF and `"transformers"` for safetensors.
        device: `"auto"`, `"cuda"`, `"cuda:1"`, `"rocm"`, `"xpu"`, `"mps"` or `"cpu"`.
        n_ctx: Window of one chat in tokens, prompt and answer together.
        fallback: `"cpu"` goes on there, with a warning, when a device is missing or too small;
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

    Structured output (llama_cpp; a grammar lets the model write nothing else):
        ```python
        class Person(BaseModel):
            name: str
            age: int


        chat.with_structured_output(Person).invoke(
            "Bob is 31 years old."
        )  # Person(name='Bob', ...)
        ```

    Constructing it loads nothing; the first call does, and `close()` frees it. It is safe to use
    from several threads: `llama_cpp` works on `n_parallel` chats at once, and several `ChatGPU` of
    one file and the same settings share the weights.
    """

    model: str = Field(validation_alias=AliasChoices("model", "model_name"), min_length=1)
    """File, folder or name of the model."""
    backend: str = "auto"
    """Which engine runs it."""
    device: str = "auto"
    """Where to run."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What transformers computes in; a GGUF file brings its own."""
    fallback: Literal["cpu", "error"] = "cpu"
    """What happens when the device is missing or too small."""
    n_ctx: int | None = Field(default=None, ge=1)
    """Window of one chat in tokens. None is 4096 for llama_cpp, which allocates it for every slot,
    and the model's own for transformers."""
    n_parallel: int | None = Field(default=None, ge=1)
    """Chats at the same time: None is 4 slots of llama_cpp, or 8 rows of a batch."""
    n_gpu_layers: int | None = Field(default=None, ge=-1)
    """llama_cpp: layers on the GPU; None and -1 take as many as fit."""
    n_threads: int | None = Field(default=None, ge=1)
    """llama_cpp: CPU threads; None takes the cores that are free when the model is loaded."""

    temperature: float | None = Field(default=None, ge=0)
    """0 takes the likeliest token; None is the engine's default."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling; None is the engine's default."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; None leaves it the rest of the window."""
    stop: list[str] | None = None
    """Strings that end the answer, and are not part of it; those given with a call replace them."""
    seed: int | None = None
    """Makes sampling repeatable on one machine."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds from the call to the last token, loading not counted; None waits."""
    streaming: bool = False
    """Stream inside `invoke` too, for callbacks that want every token."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More options for every call, under the engine's own names: `{"min_p": 0.1}`."""
    load_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More options for loading the model, under the engine's own names."""
    base_url: str | None = None
    """A server that runs the model instead of this process."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """For that server; an engine in this process asks for none."""
    max_retries: int = Field(default=2, ge=0)
    """Further attempts when a server is overloaded, fails or breaks off before it has answered;
    what fails in this process would fail again."""
    keep_alive: float | str | None = None
    """How long the model stays loaded after a call: seconds, or a server's own word (`"5m"`)."""
    on_event: Listener | None = Field(default=None, exclude=True)
    """Called for fallbacks; see `langchain_gpu.events`."""

    _loaded: _Loaded = PrivateAttr(default_factory=_Loaded)

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())

    @field_validator("backend")
    @classmethod
    def _known(cls, backend: str) -> str:
        check_name(backend)
        return backend

    @property
    def model_name(self) -> str:
        """The model, under the name other chat models give it."""
        return self.model

    @property
    def backend_reason(self) -> str:
        """Which engine is taken for which file, and why. Loads nothing."""
        loaded = self._current()
        with loaded.lock:
            choice = self._choose(loaded)
        return f"{choice.backend}: {choice.reason}"

    @property
    def devices(self) -> list[Device]:
        """Where the model runs, with the reason. Loads the model."""
        return [self._load().device]

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together. Loads the model."""
        return self._load().context_length

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids the model's own tokenizer gives, without special tokens."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._load().tokenize(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Count the tokens of the prompt that the chat becomes in the model's own template."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        return self._load().count_chat_tokens(
            to_dicts(messages), [convert_to_openai_tool(tool) for tool in tools or ()]
        )

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools (llama_cpp, with a model whose template knows tools).

        Args:
            tools: Anything LangChain can turn into a tool definition.
            tool_choice: `"auto"`, `"none"`, `"any"` (or True) for any one of them, or a tool's
                name. A forced call is enforced by a grammar.
            strict: Ask for schemas in OpenAI's strict form.
            **kwargs: Bound as they are.
        """
        formatted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        choice = _tool_choice(tool_choice)
        return super().bind(tools=formatted, tool_choice=choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable whose answers are instances of `schema`.

        Args:
            schema: Pydantic class, TypedDict or JSON schema; None only for `"json_mode"`.
            method: `"json_schema"` enforces the schema with a grammar and works with any model;
                `"function_calling"` needs a model that knows tools; `"json_mode"` enforces JSON.
            include_raw: Give `{"raw", "parsed", "parsing_error"}` instead of raising.
            strict: For interchangeability: a grammar is always strict.
            **kwargs: None are known.

        Raises:
            ValueError: No schema where one is needed, or an unknown method or argument.
        """
        if kwargs:
            raise ValueError(f"with_structured_output knows no argument {', '.join(kwargs)}")
        if method not in ("json_schema", "function_calling", "json_mode"):
            raise ValueError(f"unknown method {method!r}")
        if schema is None and method != "json_mode":
            raise ValueError(f"method={method!r} needs a schema")
        if method == "function_calling" and schema is not None:
            return super().with_structured_output(schema, include_raw=include_raw, strict=strict)
        bound = self.bind(
            response_format=response_format(schema, method),
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
        )
        return structured(bound, schema, include_raw=include_raw)

    def close(self) -> None:
        """Free the model's memory. The next call loads it again."""
        with self._loaded.lock:
            generator, self._loaded.generator = self._loaded.generator, None
        if generator is not None:
            generator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _llm_type(self) -> str:
        return "langchain-gpu"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = ("model", "backend", "stop", "model_kwargs", *_PER_CALL)
        return {name: getattr(self, name) for name in names}

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        generator = self._load()
        with _langchain_errors():
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
        generator = self._load()
        with _langchain_errors(), closing(generator.stream(request)) as deltas:
            for delta in deltas:
                yield self._chunk(generator, delta)

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        generator = await asyncio.to_thread(self._load)
        # By the stream, which stops when the task is canceled; a blocking call would run on.
        with _langchain_errors():
            async with aclosing(pulled_async(generator.stream(request))) as deltas:
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
        generator = await asyncio.to_thread(self._load)
        with _langchain_errors():
            async with aclosing(pulled_async(generator.stream(request))) as deltas:
                async for delta in deltas:
                    yield self._chunk(generator, delta)

    def _load(self) -> Generator:
        loaded = self._current()
        with loaded.lock:
            if loaded.generator is None:
                loaded.generator = create(self._choose(loaded), self._options())
            return loaded.generator

    def _current(self) -> _Loaded:
        """The engine of these settings: a copy with others must not answer with the first one's."""
        settings = (self.model, self.backend, self._options())
        if self._loaded.settings not in (None, settings):
            self._loaded = _Loaded()
        self._loaded.settings = settings
        return self._loaded

    def _options(self) -> Options:
        placing = {name: getattr(self, name) for name in _PLACING}
        server = Server(
            url=self.base_url,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            timeout=self.timeout or _SERVER_SECONDS,
            max_retries=self.max_retries,
        )
        return Options(**placing, load=self.load_kwargs, server=server, listener=self.on_event)

    def _choose(self, loaded: _Loaded) -> Choice:
        if loaded.choice is None:
            loaded.choice = choose(self.model, self.backend, self._options().server)
        return loaded.choice

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> Request:
        extra = {**self.model_kwargs, **kwargs}
        extra.pop("stream", None)  # LangChain's word for which of our methods it calls
        if extra.pop("model", self.model) != self.model:
            raise ValueError(f"this ChatGPU holds {self.model}: make another one for another model")
        settings = {name: extra.pop(name, getattr(self, name)) for name in _PER_CALL}
        return Request(
            messages=to_dicts(messages),
            tools=extra.pop("tools", None) or (),
            tool_choice=_tool_choice(extra.pop("tool_choice", None)),
            response_format=extra.pop("response_format", None),
            stop=tuple(stop if stop is not None else self.stop or ()),
            extra=extra,
            **settings,
        )

    def _result(self, generator: Generator, completion: Completion) -> ChatResult:
        message = to_message(completion, self._metadata(generator))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, generator: Generator, delta: Delta) -> ChatGenerationChunk:
        metadata = self._metadata(generator) if delta.finish_reason else {}
        return ChatGenerationChunk(message=to_chunk(delta, metadata))

    def _metadata(self, generator: Generator) -> dict[str, Any]:
        backend = self._loaded.choice.backend if self._loaded.choice else self.backend
        return {"model_name": self.model, "backend": backend, "device": str(generator.device)}


@contextmanager
def _langchain_errors() -> Iterator[None]:
    """Raise what LangChain's fallbacks look for."""
    try:
        yield
    except PromptTooLongError as error:
        raise ContextOverflowError(str(error)) from error


def _tool_choice(choice: Any) -> str:
    """Bring everything LangChain and OpenAI write for it to one string."""
    if isinstance(choice, dict):
        choice = str(choice["function"]["name"])
    if choice is None or choice is False:
        return "auto"
    return "required" if choice is True or choice == "any" else choice


__all__ = ["ChatGPU"]
