"""The official Ollama client: one deadline, errors without secrets, answers that can be ended."""

from __future__ import annotations

import os
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
)
from contextlib import AbstractContextManager, aclosing, closing, contextmanager
from dataclasses import replace
from typing import Any, cast

import httpx
import ollama

from langchain_gpu.servers import address, http
from langchain_gpu.servers.client import Client
from langchain_gpu.servers.connections import BlockingClient, ConnectionPool, Hooks
from langchain_gpu.servers.deadline import within
from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
    ServerError,
    ServerUnreachableError,
)
from langchain_gpu.servers.replies import Replies
from langchain_gpu.servers.server import ASK_SECONDS, CONNECT_SECONDS, Server

# What Ollama says inside a stream about the request itself, under the status 200.
_REFUSALS = ("invalid", "does not support", "unsupported")


class _Official(ollama.AsyncClient):
    """The official client, given whole bodies.

    Its `chat` rebuilds tools in a form that has no room for nested parameters and alternatives,
    and it has no argument for `truncate`.
    """

    async def once(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        method = "GET" if body is None else "POST"
        return cast("dict[str, Any]", await self._request(dict, method, path, json=body))

    async def lines(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        found = await self._request(dict, "POST", path, json=body, stream=True)
        return cast("AsyncGenerator[dict[str, Any], None]", found)


class _Blocking(ollama.Client):
    """The official client, given whole bodies."""

    def lines(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        found = self._request(dict, "POST", path, json=body, stream=True)
        return cast("Generator[dict[str, Any], None, None]", found)


class OllamaClient(Client):
    """Asks one Ollama.

    Redirects are not followed: a key must not travel to another host. The key is `server.api_key`,
    or OLLAMA_API_KEY as everywhere with Ollama.

    Args:
        url: Where it is, without a slash at its end.
        server: How patiently it is asked, with which key and headers.

    Attributes:
        host: Host and port, for messages.
    """

    def __init__(self, url: str, server: Server) -> None:
        host = address.host_of(url)
        server = replace(server, api_key=server.api_key or os.environ.get("OLLAMA_API_KEY"))
        self._server = server
        self._replies = Replies(host, server)
        ambient = not address.is_loopback(url)
        self._settings: dict[str, Any] = {
            "host": url,
            "headers": address.headers_of(server),
            "timeout": httpx.Timeout(None, connect=CONNECT_SECONDS),  # `within` bounds the rest
            "follow_redirects": False,
            "trust_env": ambient,
            # One for all connections: each would read the certificates again.
            "verify": httpx.create_ssl_context(trust_env=ambient),
        }
        self._client = _Official(
            **self._settings,
            transport=http.new_transport(),
            event_hooks={"response": [self._check]},
        )
        super().__init__(host, self._client.close, ConnectionPool(self._blocking_client))

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        seconds: float | None = None,
        max_retries: int | None = None,
    ) -> dict[str, Any]:
        """Return the JSON that answers `body`, or a GET without one.

        Args:
            path: Place on the server, `"/api/show"`.
            body: JSON.
            seconds: For all attempts; None takes what suits a quick question.
            max_retries: Attempts after the first one; None takes the setting.

        Raises:
            RefusedError: The server will not do it, however often it is asked.
            ServerError: It did not do it, although it was asked several times.
        """
        seconds = seconds or min(ASK_SECONDS, self._server.timeout)
        retries = self._server.max_retries if max_retries is None else max_retries
        async with within(self.host, seconds, f"answer {path}", timeout=self._server.timeout):
            return await http.retrying(retries, within=seconds)(self._once, path, body)

    async def stream(
        self, path: str, body: Mapping[str, Any], take: Callable[[Any], Awaitable[object]]
    ) -> None:
        """Hand every line of a streamed answer to `take`. Asks once.

        Raises:
            RefusedError: The server will not do it, however often it is asked.
            ServerError: It broke off, or did something else.
        """
        with self._errors():
            async with aclosing(await self._client.lines(path, body)) as lines:
                async for line in lines:
                    await take(line)

    async def _once(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        with self._errors():
            return await self._client.once(path, body)

    def _blocking_client(self, hooks: Hooks) -> BlockingClient:
        """Return a client that blocks, with one connection."""

        def check(response: httpx.Response) -> None:
            if not response.is_success:
                response.read()
                raise self._replies.error(response)

        client = _Blocking(
            **self._settings,
            transport=http.new_blocking_transport(),
            event_hooks={**hooks, "response": [check]},
        )
        return _BlockingStream(client, self._errors)

    async def _check(self, response: httpx.Response) -> None:
        # Here, and not from the client's own error: that one has lost the headers.
        if not response.is_success:
            await response.aread()
            raise self._replies.error(response)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what the client raises as errors of ours."""
        try:
            yield
        except ServerError:
            raise
        except ollama.ResponseError as error:  # inside a stream
            words = self._replies.shown(str(error.error))
            if any(word in words for word in _REFUSALS):
                raise RefusedError(
                    f"{self.host} refused: {words}", status=400, detail=words
                ) from None
            raise self._replies.error_of(500, words) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError) as error:
            words = self._replies.clean(str(error.__context__ or error) or type(error).__name__)
            raise ServerUnreachableError(
                f"{self.host} cannot be reached: {words}. Is Ollama running? Start it: ollama "
                f"serve",
                again=True,
            ) from None
        except httpx.HTTPError as error:
            words = self._replies.clean(str(error) or type(error).__name__)
            raise ServerUnreachableError(
                f"{self.host} broke the connection: {words}", again=True
            ) from None
        except (ValueError, TypeError, AttributeError) as error:  # no JSON, or no object
            shown = self._replies.shown(str(getattr(error, "doc", error)))
            raise BadAnswerError(
                f"{self.host} sent something that is not a JSON object: {shown!r}; "
                f"is base_url right?",
                again=True,
            ) from None


class _BlockingStream:
    """Does the same as `OllamaClient.stream`, in the caller's thread."""

    def __init__(
        self, client: _Blocking, errors: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._client = client
        self._errors = errors

    async def stream(
        self, path: str, body: Mapping[str, Any], take: Callable[[Any], Awaitable[object]]
    ) -> None:
        with self._errors(), closing(self._client.lines(path, body)) as lines:
            for line in lines:
                await take(line)

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]


__all__ = ["OllamaClient"]
