"""JSON over HTTP: time-outs, retries with back-off and jitter, errors without secrets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.stop import stop_after_attempt, stop_base, stop_before_delay
from tenacity.wait import wait_random_exponential

from langchain_gpu.servers import address
from langchain_gpu.servers.client import Client
from langchain_gpu.servers.deadline import within
from langchain_gpu.servers.errors import (
    BadAnswerError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from langchain_gpu.servers.replies import Replies
from langchain_gpu.servers.server import ASK_SECONDS, CONNECT_SECONDS, Server

logger = logging.getLogger(__name__)

_BACK_OFF = wait_random_exponential(multiplier=0.5, max=20)  # full jitter


def new_transport() -> httpx.AsyncBaseTransport | None:
    """Return what carries requests; None for the network."""
    return None


def new_blocking_transport() -> httpx.BaseTransport | None:
    """Do the same for clients that block."""
    return None


class JsonClient(Client):
    """Asks one server, with a bounded number of requests in flight.

    Redirects are not followed: an API that moved should be named where it is, and a key must not
    travel to another host. Proxies and certificates are taken from the environment, as every
    client does, except for a server on this machine.

    Args:
        url: Where it is, without a slash at its end.
        server: How patiently it is asked, and with which key.

    Attributes:
        url: The same.
        host: Host and port, for messages.
    """

    def __init__(self, url: str, server: Server) -> None:
        self.url = address.check_url(url)
        super().__init__(address.host_of(self.url), self._close)
        self._server = server
        self._headers = address.headers_of(server)
        self._replies = Replies(self.host, server)
        self._client: httpx.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None

    async def get(self, url: str) -> Any:
        """Return the JSON at `url`, which a server has at hand.

        Raises:
            RefusedError: The server will not do it, however often it is asked.
            ServerError: It did not do it, although it was asked several times.
        """
        seconds = min(ASK_SECONDS, self._server.timeout)
        path, timeout = httpx.URL(url).path, self._server.timeout
        async with within(self.host, seconds, f"answer {path}", timeout=timeout):
            return await self._ask("GET", url, None, seconds)

    async def post(self, url: str, body: dict[str, Any], *, final: int | None = None) -> Any:
        """Return the JSON that answers `body`.

        Args:
            url: Where to.
            body: What is sent, as JSON.
            final: A status after which nothing is asked again.

        Raises:
            RefusedError: The server will not do it, however often it is asked.
            ServerError: It did not do it, although it was asked several times.
        """
        content = json.dumps(body, separators=(",", ":")).encode()
        return await self._ask("POST", url, content, final=final)

    async def _ask(
        self,
        method: str,
        url: str,
        content: bytes | None,
        seconds: float | None = None,
        *,
        final: int | None = None,
    ) -> Any:
        if self._client is None or self._slots is None:
            self._slots = asyncio.Semaphore(self._server.concurrency)
            self._client = self._open()
        # The slot is kept while waiting: a server that is overloaded is not sent others instead.
        async with self._slots:
            return await retrying(self._server.max_retries, within=seconds)(
                self._once, self._client, method, url, content, final
            )

    async def _once(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        content: bytes | None,
        final: int | None,
    ) -> Any:
        try:
            async with asyncio.timeout(self._server.timeout):
                response = await client.request(method, url, content=content)
        except (TimeoutError, httpx.TimeoutException):
            raise ServerTimeoutError(
                f"{self.host} did not answer within {self._server.timeout:g} seconds; raise "
                f"timeout, or lower the number of texts per request",
                again=True,
            ) from None
        except httpx.HTTPError as error:
            broken = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
            what = "broke the connection" if broken else "cannot be reached"
            raise ServerUnreachableError(
                self._replies.clean(f"{self.host} {what}: {str(error) or type(error).__name__}"),
                again=True,
            ) from None
        if response.is_success:
            try:
                return response.json()
            except ValueError:
                text = self._replies.shown(response.text)
                raise BadAnswerError(
                    f"{self.host} answered with something other than JSON: {text!r}", again=True
                ) from None
        problem = self._replies.error(response)
        if response.status_code == final:
            problem.again = False
        raise problem

    def _open(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers={"Content-Type": "application/json", **self._headers},
            timeout=httpx.Timeout(
                self._server.timeout, connect=min(CONNECT_SECONDS, self._server.timeout)
            ),
            limits=httpx.Limits(
                max_connections=self._server.concurrency,
                max_keepalive_connections=self._server.concurrency,
            ),
            follow_redirects=False,
            trust_env=not address.is_loopback(self.url),
            transport=new_transport(),
        )

    async def _close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def retrying(
    max_retries: int,
    *,
    within: float | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    unwanted: Callable[[], bool] = lambda: False,
) -> AsyncRetrying:
    """Return how often and when a `ServerError` that says `again` is answered by another attempt.

    Args:
        max_retries: Attempts after the first one.
        within: Seconds after which no attempt may start; a wait beyond them is not begun.
        sleep: Waits between two attempts.
        unwanted: Whether nobody wants the answer any more: an error is then no reason to ask again.
    """

    def again(error: BaseException) -> bool:
        return getattr(error, "again", False) and not unwanted()

    stop: stop_base = stop_after_attempt(1 + max_retries)
    return AsyncRetrying(
        stop=stop if within is None else stop | stop_before_delay(within),
        wait=_wait,
        retry=retry_if_exception(again),
        before_sleep=_note,
        sleep=sleep,
        reraise=True,
    )


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    pause = state.next_action.sleep if state.next_action is not None else 0.0
    logger.warning("%s; asking again in %.1f s", error, pause)


def _wait(state: RetryCallState) -> float:
    """Return the seconds to wait: as long as the server asked for, at least a jittered back-off."""
    error = state.outcome.exception() if state.outcome is not None else None
    after: float | None = getattr(error, "after", None)
    return max(_BACK_OFF(state), after or 0.0)


__all__ = ["JsonClient", "new_blocking_transport", "new_transport", "retrying"]
