"""Chats with a model of a Triton Inference Server, streamed over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_gpu.generators.base import Deltas, Message, PromptTooLongError, Request
from langchain_gpu.generators.hermes import calls_in_text
from langchain_gpu.generators.images import check_images
from langchain_gpu.generators.options import Options, check_load, refuse
from langchain_gpu.generators.remote import Put, RemoteGenerator, Take, put_all
from langchain_gpu.generators.streams import Stage, collect
from langchain_gpu.generators.transport import Transport
from langchain_gpu.generators.triton_form import Form
from langchain_gpu.generators.triton_pieces import Pieces
from langchain_gpu.servers.errors import RefusedError
from langchain_gpu.servers.triton import TritonClient
from langchain_gpu.servers.triton_tensors import Arrays, Input
from langchain_gpu.utils.extras import require

if TYPE_CHECKING:  # it imports transformers
    from langchain_gpu.generators.triton_template import ChatTemplate

_CHATS = 64  # at the same time; the engines behind Triton batch what they are given together
_LOADABLE = ("tokenizer", "input", "output")


class TritonGenerator(RemoteGenerator):
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

    _client: TritonClient

    def __init__(self, model: str, options: Options) -> None:
        refuse(options, "triton", "dtype", "device", "n_gpu_layers", "n_threads", "keep_alive")
        check_load(options, "triton", _LOADABLE)
        self._template = _template(options.load.get("tokenizer"))
        super().__init__(model, TritonClient(options.server), options, _CHATS)
        try:
            self._form = Form.of(self._client.run(self._client.describe(model)), options.load)
        except BaseException:
            self._client.close()
            raise

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together.

        Raises:
            NotImplementedError: `n_ctx` is not given; Triton does not say.
        """
        if self._options.n_ctx is None:
            raise NotImplementedError(
                f"{self._client.host} does not say how long the window of {self._name} is: give "
                f"n_ctx"
            )
        return self._options.n_ctx

    def stream(self, request: Request) -> Deltas:
        """Ask, and yield the answer piece by piece; closing the iterator ends it on the server too.

        A server that does not say why an answer ended is taken to have ended it by itself
        (`"stop"`), unless it counted as many tokens as were asked for.

        Raises:
            PromptTooLongError: The prompt does not fit the window.
            ServerTimeoutError: The answer was not complete in time.
            TimeoutError: The chat template does not end.
            ServerError: The server did not give it, although it was asked several times, or broke
                off in the middle.
            ValueError: The model has no input for what is asked, or needs a chat template.
        """
        sent = self._inputs(request)
        return self._started(request, partial(self._answer, request, sent))

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
        remedy = "serve a vision model that takes `messages`"
        check_images(request.messages, f"{self._name}, which takes text", remedy)
        return self._template.render(request.messages, request.callable_tools, request.timeout)

    def _reader(self, request: Request) -> Stage:
        return calls_in_text(request.callable_tools)  # Triton gives nothing but text

    def _counter(self) -> ChatTemplate:
        if self._template is None:
            raise NotImplementedError(
                "Triton does not count tokens: name the model's tokenizer with "
                "load_kwargs={'tokenizer': ...}, or give custom_get_token_ids"
            )
        return self._template

    async def _answer(
        self, request: Request, sent: list[Input], transport: Transport, seconds: float, put: Put
    ) -> None:
        async with transport.attempts(seconds) as attempts:
            try:
                await attempts(self._attempt, request, sent, put)
            except RefusedError as error:
                if not error.too_long:
                    raise
                remedy = f"lower max_tokens, or have it served with a larger window ({error})"
                raise PromptTooLongError(None, self._options.n_ctx, remedy) from None

    async def _attempt(self, request: Request, sent: list[Input], put: Put) -> None:
        pieces = Pieces(self._form, self._client.host, request.stop, request.max_tokens)

        async def ask(take: Take) -> None:
            async def until_stopped(arrays: Arrays) -> bool:
                await take(arrays)
                return pieces.stopped

            await self._client.stream(self._name, sent, self._form.outputs, until_stopped)

        await put_all(pieces, put, ask)
        await put(pieces.end())


def _template(name: str | None) -> ChatTemplate | None:
    if name is None:
        return None
    require("transformers", extra="local")
    from langchain_gpu.generators.triton_template import ChatTemplate

    return ChatTemplate(str(name))


__all__ = ["TritonGenerator"]
