"""GGUF models through llama.cpp, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from langchain_gpu.generators.base import (
    Completion,
    Delta,
    Deltas,
    FinishReason,
    Message,
    PromptTooLongError,
    Request,
    ToolCall,
    Usage,
)
from langchain_gpu.generators.llama_load import start
from langchain_gpu.generators.llama_request import body_of, explained
from langchain_gpu.generators.options import Options, check_llama_cpp
from langchain_gpu.generators.parallel import generate_all
from langchain_gpu.generators.pump import Sink, pushed
from langchain_gpu.generators.streams import Timer
from langchain_gpu.generators.toolcalls import Recovery
from langchain_gpu.hardware.devices import Device
from langchain_gpu.llama.errors import LlamaError
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.utils.slots import Slot


class LlamaCppGenerator:
    """One GGUF model, shared with every other generator of the same settings.

    Args:
        path: The `.gguf` file.
        options: `n_ctx` is 4096 tokens a chat and `n_parallel` 4 chats unless given. `load` may
            hold `cache_dtype`, the type of the KV cache (`"float16"`, or `"q8_0"` and others for
            about half of its memory), and `revision` and `token`, with which the file was found on
            the hub.

    Raises:
        ModelLoadError: The file is missing, damaged, or does not fit into memory.
        DeviceNotFoundError: The device cannot be used and `fallback="error"`.
        ValueError: `dtype` is set, for a GGUF file brings its own, an option of another engine, or
            an unknown type of the KV cache.
    """

    plain_prompts = True

    def __init__(self, path: Path, options: Options) -> None:
        check_llama_cpp(options)
        self._server: LlamaServer | None
        self._device, self._server = start(path, options)

    @property
    def device(self) -> Device:
        """Where the layers are, with the reason."""
        return self._device

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together."""
        return self._open.n_ctx

    @property
    def max_batch(self) -> int:
        """Slots: chats that are worked on at the same time."""
        return self._open.settings.n_parallel

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer every request, as many at a time as there are slots."""
        return generate_all(self.stream, requests, width=self.max_batch)

    def stream(self, request: Request) -> Deltas:
        """Yield the answer piece by piece; closing the iterator frees the slot.

        Raises:
            PromptTooLongError: The prompt does not fit the window.
            LlamaError: llama.cpp refused the request.
            TimeoutError: The answer was not complete in time.
            ValueError: The model's chat template cannot describe tools, the format cannot be
                enforced, or llama.cpp knows no such option.
        """

        def push(sink: Sink[Delta]) -> None:
            server = self._open
            body = body_of(request, server)
            chunks = _Chunks(sink, request.callable_tools)
            ask = server.chat if request.prompt is None else server.complete
            # llama.cpp has a queue of its own, but prefills a queued chat, for seconds, before it
            # notices that the chat was canceled.
            slot = server.slots.taken(Slot(), unwanted=lambda: sink(None))
            with suppress(CancelledError), _explained(), slot:
                ask(body, chunks)
                chunks.finish()

        return pushed(push, timeout=request.timeout)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens."""
        return self._open.tokenize(text)

    def count_chat_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Tokens of the prompt that a chat becomes, template included."""
        body: dict[str, Any] = {"messages": list(messages)}
        if tools:
            body["tools"] = list(tools)
        return len(self.tokenize(self._open.prompt(body)))

    def close(self) -> None:
        """Let go of the weights; they are freed with the last generator that uses them.

        A chat that still runs keeps them until it ends.
        """
        self._server = None

    @property
    def _open(self) -> LlamaServer:
        if self._server is None:
            raise RuntimeError("this generator is closed")
        return self._server


@contextmanager
def _explained() -> Iterator[None]:
    """Raise llama.cpp's refusals as errors of this package."""
    try:
        yield
    except LlamaError as error:
        if error.details.get("type") == "exceed_context_size_error":
            found = error.details
            raise PromptTooLongError(found["n_prompt_tokens"], found["n_ctx"]) from error
        raise
    except ValueError as error:
        raise explained(error) from error


class _Chunks:
    """llama.cpp's chunks in, deltas out. The last delta waits for the chunk with the usage."""

    def __init__(self, sink: Sink[Delta], tools: Sequence[Mapping[str, Any]]) -> None:
        self._sink = sink
        self._timer = Timer()
        self._recovery = Recovery(tools)
        self._reason: str | None = None
        self._usage: Mapping[str, Any] | None = None

    def __call__(self, chunk: Mapping[str, Any]) -> bool:
        self._usage = chunk.get("usage") or self._usage
        if not chunk.get("choices"):
            return False
        choice = chunk["choices"][0]
        self._reason = choice.get("finish_reason") or self._reason
        piece = choice.get("delta") or {"content": choice.get("text")}
        return self._pass_on(
            Delta(
                text=piece.get("content") or "",
                logprobs=tuple(
                    _logprob(each) for each in (choice.get("logprobs") or {}).get("content") or ()
                ),
                reasoning=piece.get("reasoning_content") or "",
                tool_calls=tuple(_tool_call(call) for call in piece.get("tool_calls") or ()),
            )
        )

    def finish(self) -> None:
        if self._reason is None or self._usage is None:
            return  # canceled: nobody waits for the end
        details = self._usage.get("prompt_tokens_details") or {}
        usage = Usage(
            self._usage["prompt_tokens"],
            self._usage["completion_tokens"],
            details.get("cached_tokens", 0),
        )
        self._pass_on(Delta(finish_reason=cast("FinishReason", self._reason), usage=usage))

    def _pass_on(self, delta: Delta) -> bool:
        # Here, and not where the pieces are awaited: nobody is woken up for an empty one.
        passed = self._timer(delta)
        return self._sink(None if passed is None else self._recovery(passed))


def _logprob(each: Mapping[str, Any]) -> dict[str, Any]:
    """A token in OpenAI's form: without llama.cpp's own id."""
    named = {name: each[name] for name in ("token", "logprob", "bytes")}
    if "top_logprobs" in each:
        named["top_logprobs"] = [_logprob(other) for other in each["top_logprobs"]]
    return named


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function") or {}
    return ToolCall(
        call.get("index", 0), call.get("id"), function.get("name"), function.get("arguments") or ""
    )


__all__ = ["LlamaCppGenerator"]
