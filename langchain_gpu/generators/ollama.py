"""Chats with a model on an Ollama server."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from langchain_gpu.generators.base import Deltas, Message, PromptTooLongError, Request
from langchain_gpu.generators.images import check_images
from langchain_gpu.generators.ollama_form import LOAD_OPTIONS, Pieces, body_of, path_of
from langchain_gpu.generators.ollama_models import Model, fetch, missing
from langchain_gpu.generators.ollama_placement import (
    Placed,
    by_plan,
    device_of,
    find,
    load_options,
    problem_of,
    report,
)
from langchain_gpu.generators.ollama_window import warn_if_cut, window_of
from langchain_gpu.generators.options import Options, check_load, refuse
from langchain_gpu.generators.remote import Put, RemoteGenerator, put_all
from langchain_gpu.generators.streams import collect
from langchain_gpu.generators.toolcalls import no_tools
from langchain_gpu.generators.transport import Transport
from langchain_gpu.hardware.devices import Device
from langchain_gpu.servers import address
from langchain_gpu.servers.deadline import within
from langchain_gpu.servers.errors import RefusedError, ServerError
from langchain_gpu.servers.ollama import OllamaClient

logger = logging.getLogger(__name__)

_CHATS = 4  # at the same time; Ollama lets further ones wait, and their time-out runs
_LOAD_SECONDS = 600.0  # large models come from slow disks
_UNLOAD_SECONDS = 10.0  # it stays longer where somebody else still uses it
_TICK = 0.05  # seconds between two looks
_RELOADED = 0.3e9  # nanoseconds: looking a loaded model up takes far less


class OllamaGenerator(RemoteGenerator):
    """A model on an Ollama server, which loads it when this object is made.

    Answers are always streamed, so that one that is canceled ends on the server too.

    Args:
        model: Ollama's name of the model, `"qwen3:8b"`.
        options: `n_gpu_layers`, `n_ctx`, `n_threads` and `keep_alive` are Ollama's `num_gpu`,
            `num_ctx`, `num_thread` and `keep_alive`. `load` may hold `pull` (True fetches a model
            that is not there), `timeout` (seconds for loading, and of silence while fetching; 600)
            and Ollama's options for loading, such as `num_batch` and `main_gpu`.

    Raises:
        RefusedError: Ollama does not have the model; the message lists those it has.
        ServerError: Nothing answers there, or the model cannot be loaded.
        DeviceNotFoundError: Less is on the GPU than was asked for and `fallback="error"`.
        ValueError: An option that Ollama does not have.
    """

    _client: OllamaClient

    def __init__(self, model: str, options: Options) -> None:
        refuse(options, "ollama", "dtype")
        options = by_plan(options)
        check_load(options, "ollama", ("pull", "timeout", *sorted(LOAD_OPTIONS)))
        load = dict(options.load)
        pull, seconds = load.pop("pull", False), load.pop("timeout", _LOAD_SECONDS)
        self._load = {**load, **load_options(options)}
        self._seconds = float(seconds)
        self._warned = False
        self._placed: Placed | None = None
        url = options.server.url
        url = address.check_url(url) if url else address.ollama_url()
        client = OllamaClient(url, options.server)
        super().__init__(model, client, options, _CHATS)
        self._ours = False
        try:
            self._model: Model = client.run(fetch(client, model, self._seconds, pull=pull))
            client.run(self._start())
        except BaseException:
            self.close()
            raise

    @property
    def device(self) -> Device:
        """The server; its reason says how much of the model is on a GPU there."""
        return device_of(self._client.host, self._placed)

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together."""
        said = self._placed.window if self._placed else None
        return said or window_of(self._model, self._load)

    def stream(self, request: Request) -> Deltas:
        """Ask, and yield the answer piece by piece; closing the iterator ends it on the server too.

        Raises:
            PromptTooLongError: The prompt does not fit the window.
            ServerTimeoutError: The answer was not complete in time.
            ServerError: The server did not give it, although it was asked several times, or broke
                off in the middle.
            ValueError: An option that Ollama does not have, tools for a model without them, or an
                image for one that reads none or that Ollama would have to fetch.
        """
        return self._streamed(request)

    def _streamed(self, request: Request, *, counting: bool = False) -> Deltas:
        if request.tools and self._model.tools is False:
            raise no_tools(f"the chat template of {self._model.name}")
        if self._model.vision is False:
            remedy = "take a model with the capability 'vision'; `ollama show MODEL` lists them"
            check_images(request.messages, self._model.name, remedy)
        body = body_of(self._model.name, request, self._load, self._options.keep_alive)
        attempt = partial(self._attempt, path_of(request), body, counting)
        return self._started(request, partial(self._answer, attempt))

    def tokenize(self, text: str) -> list[int]:
        """Raise: Ollama shows no token ids.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "Ollama shows no token ids: give custom_get_token_ids to have them from a tokenizer "
            "here; count_chat_tokens and get_num_tokens_from_messages count a chat"
        )

    def count_chat_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Tokens of the prompt that a chat becomes, template included.

        Ollama counts only what it reads: the prompt is read once, and one token written. The chat
        itself then finds it in the server's cache.

        Raises:
            PromptTooLongError: The prompt does not fit the window.
            NotImplementedError: The server says nothing of tokens.
        """
        request = Request(messages=messages, tools=tools, max_tokens=1)
        usage = collect(self._streamed(request, counting=True)).usage
        if usage is None:
            raise NotImplementedError(f"{self._client.host} does not count the tokens of a prompt")
        return usage.input_tokens

    def close(self) -> None:
        """Close all connections. A model that this object had loaded is unloaded."""
        if self._ours:
            self._ours = False
            with suppress(ServerError, RuntimeError):  # it is gone, or will go by its own clock
                self._client.run(self._unload())
        self._client.close()

    async def _start(self) -> None:
        """Have the model loaded, and look where it went."""
        name = self._model.name
        self._ours = find(name, await self._client.ask("/api/ps")) is None
        body: dict[str, Any] = {"model": name, "messages": [], "options": self._load}
        keep = self._options.keep_alive
        if keep is not None and not re.fullmatch(r"0+(\.0*)?[a-z]*", str(keep)):
            body["keep_alive"] = keep  # with none at all Ollama would not even load it
        await self._client.ask("/api/chat", {**body, "stream": False}, seconds=self._seconds)
        await self._look()
        if self._placed is not None and self._placed.window is None:
            # A server too old to say: from here on it is told.
            self._load.setdefault("num_ctx", window_of(self._model, self._load))

    async def _unload(self) -> None:
        """Have the model unloaded, and wait: Ollama answers before its memory is free."""
        name = self._model.name
        async with within(self._client.host, _UNLOAD_SECONDS, f"unload {name}"):
            # Once: a server that is gone has nothing left to free.
            ask = partial(self._client.ask, max_retries=0)
            await ask("/api/generate", {"model": name, "keep_alive": 0})
            for _ in range(int(_UNLOAD_SECONDS / _TICK)):
                if find(name, await ask("/api/ps")) is None:
                    return
                await asyncio.sleep(_TICK)

    async def _look(self) -> None:
        self._placed = find(self._model.name, await self._client.ask("/api/ps"))
        if self._placed is None or self._warned:
            return
        problem = problem_of(self._options, self._placed, self._model.layers)
        if problem is not None:
            self._warned = True
            report(self._options, self._placed, problem)

    async def _look_again(self) -> None:
        """Look up where the model is if it was loaded for this answer; log a failure."""
        try:
            await self._look()
        except ServerError as error:
            logger.warning("cannot see where %s runs now: %s", self._model.name, error)

    async def _answer(
        self,
        attempt: Callable[[Transport, Put], Awaitable[None]],
        transport: Transport,
        seconds: float,
        put: Put,
    ) -> None:
        async with transport.attempts(seconds) as attempts:
            try:
                await attempts(attempt, transport, put)
            except RefusedError as error:
                raise await transport.beside(self._explained(error)) from None

    async def _attempt(
        self,
        path: str,
        body: dict[str, Any],
        counting: bool,  # noqa: FBT001 - bound by position, as all of them are
        transport: Transport,
        put: Put,
    ) -> None:
        pieces = Pieces(self._client.host)
        await put_all(pieces, put, partial(transport.client.stream, path, body))
        last = pieces.end()
        if ((pieces.last or {}).get("load_duration") or 0) > _RELOADED:
            await transport.beside(self._look_again())
        if last.usage is None:
            logger.warning("%s does not say how many tokens an answer took", self._client.host)
        elif body.get("truncate") is False:
            warn_if_cut(body, last.usage, self.context_length, counting=counting)
        if body.get("logprobs") and pieces.begun and not pieces.scored:
            logger.warning(
                "%s gives no log probabilities: this version of Ollama may be too old",
                self._client.host,
            )
        await put(last)

    async def _explained(self, error: RefusedError) -> Exception:
        """Add a remedy to the server's message, where it names none."""
        if error.too_long:
            return PromptTooLongError(None, self.context_length)
        if error.status == 404:  # noqa: PLR2004  it was there when this object was made
            return await missing(self._client, self._model.name, error)
        return error


__all__ = ["OllamaGenerator"]
