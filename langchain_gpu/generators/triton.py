"""Chats with a model that a Triton Inference Server runs, streamed over gRPC."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_gpu._extras import require
from langchain_gpu.generators.base import (
    Completion,
    Deltas,
    Message,
    PromptTooLongError,
    Request,
    collect,
)
from langchain_gpu.generators.parallel import generate_all
from langchain_gpu.generators.registry import Options, refuse
from langchain_gpu.generators.remote import Put, streamed
from langchain_gpu.generators.triton_form import Form
from langchain_gpu.generators.triton_pieces import Pieces
from langchain_gpu.hardware.devices import Device
from langchain_gpu.servers.deadline import within
from langchain_gpu.servers.errors import RefusedError, ServerError
from langchain_gpu.servers.http import retrying
from langchain_gpu.servers.triton import TritonClient
from langchain_gpu.servers.triton_tensors import Arrays, Input

if TYPE_CHECKING:  # it imports transformers
    from langchain_gpu.generators.triton_template import ChatTemplate

logger = logging.getLogger(__name__)

_CHATS = 64  # at the same time; the engines behind Triton batch what they are given together
_LOADABLE = ("tokenizer", "input", "output")


class TritonGenerator:
    """A model behind a Triton Inference Server: Triton's vLLM and TensorRT-LLM, or one's own.

    A model with an input `messages` is given the chat as JSON. All others are given text: the
    tokenizer that `load` names makes it with its chat template.

    Args:
        model: Its name in Triton's model repository.
        options: `n_parallel` bounds the chats in flight (64); `n_ctx` is the window, which Triton
            does not tell. `load` may hold `tokenizer` (folder or name of the model's tokenizer) and
            `input` and `output` (tensors of text that are called otherwise than `text_input` and
            `text_output`).

    Raises:
        ServerError: Nothing answers there, or it has no such model; lists those it has.
        ValueError: An option that a server's model does not have, or tensors of no known form.
    """

    plain_prompts = True

    def __init__(self, model: str, options: Options) -> None:
        refuse(options, "triton", "dtype", "device", "n_gpu_layers", "n_threads", "keep_alive")
        if unknown := sorted(set(options.load) - set(_LOADABLE)):
            known = ", ".join(_LOADABLE)
            raise ValueError(f"load_kwargs of the back end 'triton' are {known}, not {unknown}")
        self._server = options.server
        self._name = model
        self._n_ctx = options.n_ctx
        self._n_parallel = options.n_parallel or _CHATS
        self._slots = asyncio.Semaphore(self._n_parallel)
        self._template = _template(options.load.get("tokenizer"))
        self._client = TritonClient(options.server)
        # Nothing on the client's thread holds this object: dropping it ends the thread.
        weakref.finalize(self, self._client.close)
        try:
            self._form = Form.of(self._client.run(self._client.describe(model)), options.load)
        except BaseException:
            self._client.close()
            raise

    @property
    def device(self) -> Device:
        """The server."""
        host = self._client.host
        return Device(kind="remote", name=host, reason=f"{host} serves {self._name}")

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together.

        Raises:
            NotImplementedError: `n_ctx` is not given; Triton does not say.
        """
        if self._n_ctx is None:
            raise NotImplementedError(
                f"{self._client.host} does not say how long the window of {self._name} is: give "
                f"n_ctx"
            )
        return self._n_ctx

    @property
    def max_batch(self) -> int:
        """Chats in flight at the same time; more of them wait."""
        return self._n_parallel

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer every request, `max_batch` at a time."""
        return generate_all(self.stream, requests, width=self._n_parallel)

    def stream(self, request: Request) -> Deltas:
        """Ask, and yield the answer piece by piece; closing the iterator ends it on the server too.

        A server that does not say why an answer ended is taken to have ended it by itself
        (`"stop"`), unless it counted as many tokens as were asked for.

        Raises:
            PromptTooLongError: The prompt does not fit the window.
            ServerTimeoutError: The answer was not complete in time.
            ServerError: The server did not give it, although it was asked several times, or broke
                off in the middle.
            ValueError: The model has no input for what is asked, or needs a chat template.
        """
        sent = self._inputs(request)
        seconds = request.timeout or self._server.timeout
        tools = request.tools if request.tool_choice != "none" else ()
        return streamed(self._client, partial(self._answer, request, sent, seconds), tools)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens.

        Raises:
            NotImplementedError: No tokenizer is named.
        """
        return self._counter().tokenize(text)

    def count_chat_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Tokens of the prompt that a chat becomes, template included.

        Without a tokenizer here, a model that takes messages and counts is asked for one token.

        Raises:
            NotImplementedError: No tokenizer is named, and the model does not count.
            PromptTooLongError: It counts, and the prompt does not fit its window.
        """
        if self._template is None and self._form.messages is not None and self._form.counts:
            request = Request(messages=messages, tools=tools, max_tokens=1)
            if (usage := collect(self.stream(request)).usage) is not None:
                return usage.input_tokens
        return self._counter().count(messages, tools)

    def close(self) -> None:
        """End what is under way and close the connection."""
        self._client.close()

    def _inputs(self, request: Request) -> list[Input]:
        filled = self._form.fill(request, self._prompt(request))
        return [
            Input(tensor.name, tensor.datatype, values)
            for tensor, values in self._form.arrays(filled)
        ]

    def _prompt(self, request: Request) -> str | None:
        """Return what goes into the input for text; None where the messages go as they are."""
        if request.tools and request.tool_choice not in ("auto", "none"):
            raise ValueError(
                f"tool_choice={request.tool_choice!r} cannot be enforced by Triton: choose 'auto'"
            )
        if request.prompt is not None:
            if self._form.prompt is None:
                raise ValueError(
                    f"{self._name} takes messages only, no plain prompt: chat with it (ChatGPU)"
                )
            return request.prompt
        if self._form.messages is not None:
            return None
        if self._template is None:
            raise ValueError(
                f"{self._name} takes text, not messages: name the model's tokenizer, whose chat "
                f"template makes it, with load_kwargs={{'tokenizer': FOLDER_OR_NAME}}; a plain "
                f"prompt (GPULLM) needs none"
            )
        tools = request.tools if request.tool_choice != "none" else ()
        return self._template.render(request.messages, tools)

    def _counter(self) -> ChatTemplate:
        if self._template is None:
            raise NotImplementedError(
                "Triton does not count tokens: name the model's tokenizer with "
                "load_kwargs={'tokenizer': ...}, or give custom_get_token_ids"
            )
        return self._template

    async def _answer(self, request: Request, sent: list[Input], seconds: float, put: Put) -> None:
        attempts = retrying(self._server.max_retries, within=seconds)
        async with within(self._client.host, seconds, "finish the answer"), self._slots:
            try:
                await attempts(self._attempt, request, sent, put)
            except RefusedError as error:
                if not error.too_long:
                    raise
                remedy = f"lower max_tokens, or have it served with a larger window ({error})"
                raise PromptTooLongError(None, self._n_ctx, remedy) from None

    async def _attempt(self, request: Request, sent: list[Input], put: Put) -> None:
        pieces = Pieces(self._form, self._client.host, request.stop, request.max_tokens)

        def take(arrays: Arrays) -> bool:
            if (delta := pieces.read(arrays)) is not None:
                put(delta)
            return pieces.stopped

        try:
            await self._client.stream(self._name, sent, self._form.outputs, take)
        except ServerError as error:
            # What was handed out cannot be taken back; what has a reason is whole.
            error.again = error.again and not pieces.begun
            if not pieces.ended:
                raise
        put(pieces.end())


def _template(name: str | None) -> ChatTemplate | None:
    if name is None:
        return None
    require("transformers", extra="local")
    from langchain_gpu.generators.triton_template import ChatTemplate

    return ChatTemplate(str(name))


__all__ = ["TritonGenerator"]
