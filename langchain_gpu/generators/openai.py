"""Chats with an OpenAI-compatible server: vLLM, SGLang, llama-server, NIM, TGI, OpenLLM."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from langchain_gpu.events import TruncationWarning, users_line
from langchain_gpu.generators.base import Deltas, Message, PromptTooLongError, Request
from langchain_gpu.generators.openai_plain import DEFAULT_TOKENS
from langchain_gpu.generators.openai_route import Route, explained, route_of
from langchain_gpu.generators.options import Options, check_load, refuse
from langchain_gpu.generators.remote import Put, RemoteGenerator, put_all
from langchain_gpu.generators.transport import Transport
from langchain_gpu.servers import address
from langchain_gpu.servers.errors import BadAnswerError, RefusedError
from langchain_gpu.servers.openai import OpenAIClient
from langchain_gpu.servers.openai_models import Served, bases_of, find_served, window_in

logger = logging.getLogger(__name__)

_CHATS = 64  # at the same time; servers batch what they are given together
_LOADABLE = ("default_headers", "default_query")


class OpenAIGenerator(RemoteGenerator):
    """A model behind any server that speaks OpenAI's form.

    Answers always stream, so that one that nobody waits for any more ends on the server too.

    Args:
        model: The server's name of the model.
        options: `n_parallel` bounds the chats in flight (64); `n_ctx` is the window where the
            server does not say its own; `load` may hold the client's `default_headers` and
            `default_query`.

    Raises:
        ServerError: Nothing answers there, or it wants another key.
        ValueError: An option that a server's model does not have.
    """

    _client: OpenAIClient

    def __init__(self, model: str, options: Options) -> None:
        refuse(options, "openai", "dtype", "device", "n_gpu_layers", "n_threads", "keep_alive")
        check_load(options, "openai", _LOADABLE)
        if options.server.url is None:
            raise ValueError("backend='openai' needs base_url: the address of the server")
        url = address.check_url(options.server.url)
        headers = {**options.server.headers, **options.load.get("default_headers", {})}
        server = replace(options.server, headers=headers)
        client = OpenAIClient(url, server, options.load.get("default_query"))
        super().__init__(model, client, replace(options, server=server), _CHATS)
        self._asks_usage = True  # until the server refuses to say
        self._counts = True  # until it turns out to count no tokens
        try:
            self._served = client.run(_look(client, url, model))
        except BaseException:
            client.close()
            raise

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together.

        Raises:
            NotImplementedError: The server does not say, and `n_ctx` is not given.
        """
        known = [size for size in (self._served.window, self._options.n_ctx) if size is not None]
        if not known:
            raise NotImplementedError(
                f"{self._client.host} does not say how long the window of {self._name} is: "
                f"give n_ctx"
            )
        return min(known)

    def stream(self, request: Request) -> Deltas:
        """Ask, and yield the answer piece by piece; closing the iterator ends it on the server too.

        A plain prompt without `max_tokens` takes the rest of the window where the server counts
        tokens; elsewhere it is as long as the server likes, and a warning says when that is short.

        Raises:
            PromptTooLongError: The prompt does not fit the window.
            ServerTimeoutError: The answer was not complete in time.
            ServerError: The server did not give it, although it was asked several times, or broke
                off in the middle.
            ValueError: An extra option that the call itself sets.
        """
        route = route_of(self._name, request, self._served)
        return self._started(request, partial(self._answer, route))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens.

        Raises:
            NotImplementedError: The server does not tokenize; vLLM, SGLang and llama-server do.
        """
        if self._served.owner == "llamacpp":
            return self._tokens({"content": text, "add_special": False})
        return self._tokens({"model": self._name, "prompt": text, "add_special_tokens": False})

    def count_chat_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Tokens of the prompt that a chat becomes, template included.

        Raises:
            NotImplementedError: The server does not tokenize.
        """
        chat: dict[str, Any] = {"messages": list(messages)}
        if tools:
            chat["tools"] = list(tools)
        if self._served.owner == "llamacpp":
            prompt = self._beside("/apply-template", chat).get("prompt")
            return len(self._tokens({"content": prompt, "add_special": False}))
        return len(self._tokens({"model": self._name, **chat}))

    async def _answer(self, route: Route, transport: Transport, seconds: float, put: Put) -> None:
        async with transport.attempts(seconds) as attempts:
            try:
                if route.unbounded:
                    route = await transport.beside(self._bounded(route))
                await attempts(self._attempt, route, transport, put)
            except RefusedError as error:
                raise explained(error, self._client.host, self._served, route) from None

    async def _bounded(self, route: Route) -> Route:
        """Leave a plain prompt the rest of the window, which servers do for chats only."""
        if not self._counts or self._served.owner == "llamacpp":  # llama.cpp does it by itself
            return route
        try:
            window = self.context_length
            body = {"model": self._name, "prompt": route.prompt}
            answer = await self._client.ask(f"{self._served.root}/tokenize", body)
            tokens = len(answer["tokens"])
        except (NotImplementedError, RefusedError, KeyError, TypeError):
            self._counts = False
            return route
        if tokens >= window:
            raise PromptTooLongError(tokens, window, "have it served with a larger window")
        return route.bounded(window - tokens)

    async def _attempt(self, route: Route, transport: Transport, put: Put) -> None:
        body = route.body
        if not self._asks_usage:
            body = {name: value for name, value in body.items() if name != "stream_options"}
        pieces = route.pieces(self._client.host)
        ask = partial(transport.client.stream, self._served.base + route.path, body)
        try:
            await put_all(pieces, put, ask)
        except RefusedError as error:
            if "stream_options" not in body or "stream_options" not in error.detail:
                raise
            self._asks_usage = False
            await self._attempt(route, transport, put)
            return
        last = pieces.end()
        if last.usage is None:
            logger.warning("%s does not say how many tokens an answer took", self._client.host)
        elif route.unbounded and last.finish_reason == "length":
            self._warn_if_short(last.usage.output_tokens)
        await put(last)

    def _warn_if_short(self, tokens: int) -> None:
        if tokens <= DEFAULT_TOKENS:
            warnings.warn(
                f"{self._client.host} ended the text after {tokens} tokens, its own limit where "
                f"none is given: give max_tokens",
                TruncationWarning,
                stacklevel=users_line(),
            )

    def _beside(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask for what servers have beside the OpenAI form."""
        host = self._client.host
        try:
            answer = self._client.run(self._client.ask(self._served.root + path, body))
        except RefusedError as error:
            if not error.no_such_place:
                raise
            raise NotImplementedError(
                f"{host} has no {path}, so tokens cannot be counted there: give "
                f"custom_get_token_ids to count them here"
            ) from None
        if not isinstance(answer, dict):
            raise BadAnswerError(f"{host} answered {path} with {type(answer).__name__}")
        return answer

    def _tokens(self, body: dict[str, Any]) -> list[int]:
        tokens = self._beside("/tokenize", body).get("tokens")
        if not isinstance(tokens, list):
            raise BadAnswerError(f"{self._client.host} answered /tokenize without a list of tokens")
        return tokens


async def _look(client: OpenAIClient, url: str, model: str) -> Served:
    """Find the OpenAI form below `url`, and what it says of the model."""
    found = await find_served(url, model, client.ask) or Served(bases_of(url)[0])
    if found.owner == "llamacpp":
        return replace(found, window=await _llama_window(client, found))
    return found


async def _llama_window(client: OpenAIClient, found: Served) -> int | None:
    try:
        return window_in(await client.ask(f"{found.root}/props"))
    except (BadAnswerError, RefusedError):
        return None  # a proxy may let through, or answer, what is below /v1 and nothing else


__all__ = ["OpenAIGenerator"]
