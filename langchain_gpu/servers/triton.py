"""The official Triton client over gRPC: one deadline, errors without secrets, streams that end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from tritonclient.grpc import InferRequestedOutput
from tritonclient.grpc import aio as triton
from tritonclient.utils import InferenceServerException

from langchain_gpu.servers import address
from langchain_gpu.servers.client import Client
from langchain_gpu.servers.errors import (
    RefusedError,
    ServerError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from langchain_gpu.servers.http import retrying
from langchain_gpu.servers.server import ASK_SECONDS, Server
from langchain_gpu.servers.triton_errors import Faults
from langchain_gpu.servers.triton_model import TritonModel
from langchain_gpu.servers.triton_tensors import Arrays, Input, read

logger = logging.getLogger(__name__)
T = TypeVar("T")

_RECONNECT = 2000  # milliseconds: gRPC itself waits up to two minutes before it looks again
_LARGEST = 2**31 - 1  # bytes of a message: gRPC's own limit is 4 MB, less than a batch of vectors


def channel_target(place: address.GrpcPlace) -> str:
    """Return what a channel connects to."""
    return place.host


class TritonClient(Client):
    """Asks one Triton server.

    Proxies are taken from the environment, except for a server on this machine.

    Args:
        server: Where it is (see `address.grpc_place`), how patiently it is asked, with which key.

    Attributes:
        host: Host and port, for messages.

    Raises:
        ValueError: There is no address, or it or the key cannot be used.
    """

    def __init__(self, server: Server) -> None:
        if server.url is None:
            raise ValueError("backend='triton' needs base_url: the server, as grpc://HOST:8001")
        self._place = address.grpc_place(server.url)
        super().__init__(self._place.host, self._close)
        self._server = server
        # gRPC takes names of headers in lower case only. With the last one, a stream that fails
        # says with which status.
        headers = {name.lower(): value for name, value in address.headers_of(server).items()}
        self._headers = {**headers, "triton_grpc_error": "true"}
        self._faults = Faults(self.host, server)
        self._client: Any = None
        self._slots: asyncio.Semaphore | None = None

    async def describe(self, model: str) -> TritonModel:
        """Return a model's configuration.

        Raises:
            RefusedError: There is no such model, or it is not ready; lists those there are.
            ServerError: The server did not answer, although it was asked several times.
        """
        try:
            answer = await self._patiently(
                lambda client: client.get_model_config(model, headers=self._headers),
                min(ASK_SECONDS, self._server.timeout),
            )
        except ServerUnreachableError as error:
            raise ServerUnreachableError(
                f"{error}. Is Triton running, and is this its gRPC port (usually 8001)?"
            ) from None
        except ServerError as error:
            raise await self._explained(model, error) from None
        return TritonModel.of(model, answer.config)

    async def infer(
        self,
        model: str,
        inputs: Sequence[Input],
        outputs: Sequence[str],
        parameters: Mapping[str, Any] | None = None,
    ) -> Arrays:
        """Return the outputs of one request, by name.

        Args:
            model: The model.
            inputs: What goes in.
            outputs: Which outputs to return.
            parameters: Parameters of the request.

        Raises:
            RefusedError: The server will not do it, however often it is asked.
            ServerError: It did not do it, although it was asked several times.
        """
        sent = [each.sent() for each in inputs]
        wanted = [InferRequestedOutput(name) for name in outputs]

        async def once(client: Any) -> Arrays:
            result = await client.infer(
                model,
                sent,
                outputs=wanted,
                headers=self._headers,
                client_timeout=self._server.timeout,
                parameters=dict(parameters or {}),
            )
            return read(result, outputs, self.host)

        return await self._patiently(once, self._server.timeout)

    async def stream(
        self,
        model: str,
        inputs: Sequence[Input],
        outputs: Sequence[str],
        take: Callable[[Arrays], Awaitable[object]],
    ) -> None:
        """Hand every response to `take`; a true value from it ends the stream. Asks once.

        Raises:
            RefusedError: The server will not do it, however often it is asked.
            ServerError: It broke off, or did something else.
        """
        body = {
            "model_name": model,
            "inputs": [each.sent() for each in inputs],
            "outputs": [InferRequestedOutput(name) for name in outputs],
        }

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield body

        with self._errors():
            answers = self._open().stream_infer(requests(), headers=self._headers)
            whole = False
            try:
                async for result, error in answers:
                    if error is not None:
                        raise error
                    if await take(read(result, outputs, self.host)):
                        return
                whole = True
            finally:
                if not whole:
                    answers.cancel()  # the server stops

    async def _patiently(self, ask: Callable[[Any], Coroutine[Any, Any, T]], seconds: float) -> T:
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._server.concurrency)
        # The slot is kept while waiting: a server that is overloaded is not sent others instead.
        async with self._slots:
            return await retrying(self._server.max_retries)(self._once, ask, seconds)

    async def _once(self, ask: Callable[[Any], Coroutine[Any, Any, T]], seconds: float) -> T:
        try:
            with self._errors():
                async with asyncio.timeout(seconds):
                    return await ask(self._open())
        except ServerError:
            raise
        except TimeoutError:
            raise ServerTimeoutError(
                f"{self.host} did not answer within {seconds:g} seconds; raise timeout, or lower "
                f"the number of items per request",
                again=True,
            ) from None

    def _open(self) -> Any:
        """Return the client, a new one where the connection of the last has failed.

        A channel whose connection failed answers every call with the old error until it is time to
        look again. Whoever still waits on it keeps it until then.
        """
        if self._client is not None:
            channel = self._client._channel  # noqa: SLF001 - the client does not show its state
            if channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                self._client = None
        if self._client is None:  # on the loop's own thread: a channel belongs to its loop
            options = [
                ("grpc.max_send_message_length", _LARGEST),
                ("grpc.max_receive_message_length", _LARGEST),
                ("grpc.use_local_subchannel_pool", 1),  # a new channel connects anew
                ("grpc.initial_reconnect_backoff_ms", _RECONNECT // 10),
                ("grpc.max_reconnect_backoff_ms", _RECONNECT),
                ("grpc.enable_http_proxy", int(not address.is_loopback(self._place.url))),
            ]
            self._client = triton.InferenceServerClient(
                channel_target(self._place), ssl=self._place.encrypted, channel_args=options
            )
        return self._client

    async def _close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _explained(self, model: str, error: ServerError) -> ServerError:
        """Say which models there are."""
        if isinstance(error, ServerTimeoutError) or error.status not in {404, 422, 503}:
            return error
        try:
            index = await self._patiently(
                lambda client: client.get_model_repository_index(headers=self._headers),
                min(ASK_SECONDS, self._server.timeout),
            )
        except ServerError as other:
            logger.warning("%s does not list its models: %s", self.host, other)
            return error
        words = []
        for each in index.models:
            line = self._faults.shown(each.reason).partition("\n")[0]
            why = f": {line}" if line else ""
            words.append(f"{each.name} ({(each.state or 'not loaded').lower()}{why})")
        return RefusedError(
            f"{self.host} has no model {model!r} that is ready; it has "
            f"{', '.join(words) or 'none'} ({error})",
            status=404,
            detail=str(error),
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what the client raises as errors of ours."""
        try:
            yield
        except InferenceServerException as error:
            raise self._faults.of(error.status() or "", error.message() or "") from None
        except grpc.RpcError as error:
            raise self._faults.of(str(error.code()), error.details() or "") from None


__all__ = ["TritonClient", "channel_target"]
