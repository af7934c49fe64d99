"""The official OpenAI client for any server: one deadline, no secrets in errors, no environment."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2
import openai

from langchain_gpu.servers import address
from langchain_gpu.servers.client import Client
from langchain_gpu.servers.connections import BlockingClient, ConnectionPool, Hooks
from langchain_gpu.servers.deadline import within
from langchain_gpu.servers.errors import (
    BadAnswerError,
    ServerUnreachableError,
)
from langchain_gpu.servers.http import retrying
from langchain_gpu.servers.log_redaction import SecretFilter
from langchain_gpu.servers.replies import Replies, words_of
from langchain_gpu.servers.server import ASK_SECONDS, CONNECT_SECONDS, Server

_NO_KEY = "none"  # the client insists on a key; servers without keys read over it
_CUT_OFF = frozenset({"RemoteProtocolError", "ReadError"})


def new_transport() -> Any:
    """Return what carries requests; None for the network."""
    return None


def new_blocking_transport() -> Any:
    """Do the same for clients that block."""
    return None


class OpenAIClient(Client):
    """Asks one server that speaks OpenAI's form.

    Attempts are repeated by `retrying` and not by the client: its waits know nothing of a deadline,
    and it does not repeat a stream that breaks before it has brought anything. Redirects are not
    followed: a key must not travel to another host. No key, organization or project is taken from
    the environment: it was not meant for this server.

    Args:
        url: Where it is, without a slash at its end.
        server: How patiently it is asked, with which key and headers.
        query: Parameters of every address.

    Attributes:
        host: Host and port, for messages.
    """

    def __init__(self, url: str, server: Server, query: Mapping[str, str] | None = None) -> None:
        host = address.host_of(url)
        self._server = server
        secrets = _secrets_of(query or {})
        self._replies = Replies(host, server, secrets)
        address.headers_of(server)  # refuses what cannot be sent, without showing it
        self._settings: dict[str, Any] = {
            "base_url": url,
            "api_key": server.api_key or _NO_KEY,
            "admin_api_key": "",
            "default_headers": server.headers,
            "default_query": query,
            "max_retries": 0,
            "timeout": openai.Timeout(None, connect=CONNECT_SECONDS),
        }
        ambient = not address.is_loopback(url)
        self._network: dict[str, Any] = {
            "follow_redirects": False,
            "trust_env": ambient,
            # One for all connections: each would read the certificates again.
            "verify": httpx2.create_ssl_context(trust_env=ambient),
        }
        web = openai.DefaultAsyncHttpxClient(transport=new_transport(), **self._network)
        client = openai.AsyncOpenAI(http_client=web, **self._settings)
        client.organization = client.project = None
        self._client = client
        super().__init__(host, client.close, ConnectionPool(self._blocking_client))
        # Last: the logs of the process keep it until it is closed.
        self._hidden = SecretFilter(self._replies.clean) if secrets else None

    def close(self) -> None:
        """See `Client.close`."""
        super().close()
        if self._hidden is not None:
            self._hidden.close()

    async def ask(self, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON that answers `body`, or a GET without one.

        Raises:
            RefusedError: The server will not do it, however often it is asked.
            ServerError: It did not do it, although it was asked several times.
        """
        seconds = min(ASK_SECONDS, self._server.timeout)
        async with within(self.host, seconds, f"answer {url}", timeout=self._server.timeout):
            return await retrying(self._server.max_retries, within=seconds)(self._ask, url, body)

    async def stream(
        self, url: str, body: Mapping[str, Any], take: Callable[[Any], Awaitable[object]]
    ) -> None:
        """Hand every chunk of a streamed answer to `take`. Asks once.

        Raises:
            RefusedError: The server will not do it, however often it is asked.
            ServerError: It broke off, or did something else.
        """
        with self._errors():
            # Parsed JSON: models of the client's own would cost time.
            stream = await self._client.post(
                url, body=body, cast_to=object, stream=True, stream_cls=openai.AsyncStream[object]
            )
            async with stream:
                if (kind := _other_form(stream.response)) is not None:
                    raise self._no_form(kind, await stream.response.aread())
                async for chunk in stream:
                    await take(chunk)

    async def _ask(self, url: str, body: Mapping[str, Any] | None) -> Any:
        with self._errors():
            if body is None:
                answer = await self._client.get(url, cast_to=object)
            else:
                answer = await self._client.post(url, body=body, cast_to=object)
        if not isinstance(answer, str):
            return answer
        try:  # what the client gives for anything that does not call itself JSON
            return json.loads(answer)
        except ValueError:
            raise self._no_form("text", answer.encode()) from None

    def _blocking_client(self, hooks: Hooks) -> BlockingClient:
        """Return a client that blocks, with one connection."""
        web = openai.DefaultHttpxClient(
            transport=new_blocking_transport(), event_hooks=hooks, **self._network
        )
        client = openai.OpenAI(http_client=web, **self._settings)
        client.organization = client.project = None
        return _BlockingStream(client, self._errors, self._no_form)

    def _no_form(self, kind: str, said: bytes) -> BadAnswerError:
        text = said.decode(errors="replace")
        return BadAnswerError(
            f"{self.host} sent {kind or 'something'} instead of what OpenAI's form promises: "
            f"{self._replies.shown(text)!r}; is base_url right?"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what the client raises as errors of ours."""
        try:
            yield
        except openai.APIStatusError as error:
            raise self._replies.error(error.response) from None
        except openai.APIConnectionError as error:
            raise self._unreachable(error) from None
        except openai.APIError as error:  # inside a stream
            detail = self._replies.shown(words_of(error.body) if error.body else error.message)
            status = int(error.code) if error.code and error.code.isdecimal() else 500
            raise self._replies.error_of(status, detail) from None
        except json.JSONDecodeError as error:
            shown = self._replies.shown(error.doc)
            raise BadAnswerError(
                f"{self.host} sent something that is not JSON: {shown!r}", again=True
            ) from None

    def _unreachable(self, error: openai.APIConnectionError) -> ServerUnreachableError:
        cause = error.__cause__ or error
        name = type(cause).__name__
        if isinstance(error, openai.APITimeoutError):
            what = f"did not accept a connection within {CONNECT_SECONDS:g} seconds"
        else:
            what = "broke the connection" if name in _CUT_OFF else "cannot be reached"
        words = self._replies.clean(str(cause) or name)
        return ServerUnreachableError(f"{self.host} {what}: {words}", again=True)


class _BlockingStream:
    """Does the same as `OpenAIClient.stream`, in the caller's thread."""

    def __init__(
        self,
        client: openai.OpenAI,
        errors: Callable[[], AbstractContextManager[None]],
        no_form: Callable[[str, bytes], BadAnswerError],
    ) -> None:
        self._client = client
        self._errors = errors
        self._no_form = no_form

    async def stream(
        self, url: str, body: Mapping[str, Any], take: Callable[[Any], Awaitable[object]]
    ) -> None:
        with self._errors():
            stream = self._client.post(
                url, body=body, cast_to=object, stream=True, stream_cls=openai.Stream[object]
            )
            with stream:
                if (kind := _other_form(stream.response)) is not None:
                    raise self._no_form(kind, stream.response.read())
                for chunk in stream:
                    await take(chunk)

    def close(self) -> None:
        self._client.close()


def _other_form(response: httpx2.Response) -> str | None:
    """Return what a server sends in place of a stream of events."""
    kind = response.headers.get("content-type", "")
    return kind if "html" in kind or "json" in kind else None


def _secrets_of(query: Mapping[str, Any]) -> set[str]:
    """Return the values of an address's parameters, as they are and as addresses hold them."""
    values = set(filter(address.is_secret, map(str, query.values())))
    forms = (str, quote, quote_plus, partial(quote, safe=""))
    return {form(value) for form in forms for value in values}


__all__ = ["OpenAIClient", "new_blocking_transport", "new_transport"]
