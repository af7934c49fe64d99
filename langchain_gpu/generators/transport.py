"""Two ways to ask a server for one answer: on the client's loop, or in the thread that reads it.

Both run the same coroutine, which sends the request and hands out pieces. On the client's loop it
is an ordinary task. In the reader's thread its calls block, and it is suspended only to hand out a
piece: that needs no second thread, which at 64 streams in one process would cost more than reading
them.
"""

from __future__ import annotations

import threading
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

from langchain_gpu.servers.client import Client
from langchain_gpu.servers.connections import BlockingClient, Connection, ConnectionPool
from langchain_gpu.servers.deadline import late, within
from langchain_gpu.servers.errors import RefusedError, ServerError
from langchain_gpu.servers.http import retrying
from langchain_gpu.servers.loop import Flight, interrupted
from langchain_gpu.utils.slots import Slot, SlotPool

T = TypeVar("T")
Repeated = Callable[..., Awaitable[Any]]

_TASK = "finish the answer"


class Transport(Protocol):
    """How the request for one answer is sent."""

    def attempts(self, seconds: float) -> AbstractAsyncContextManager[Repeated]:
        """Wait for a slot among the chats in flight; yield a function that retries an attempt.

        Raises:
            ServerTimeoutError: What is awaited inside took longer.
        """

    @property
    def client(self) -> BlockingClient:
        """The client that sends one request. In a thread it exists inside `attempts` only."""

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Await another request to the same server."""


class OnLoop:
    """Sends the request on the client's event loop.

    Args:
        client: The client.
        slots: Bounds the chats in flight.
        max_retries: Attempts after the first one.
    """

    def __init__(self, client: Client, slots: SlotPool, max_retries: int) -> None:
        self._client = client
        self._slots = slots
        self._max_retries = max_retries

    @asynccontextmanager
    async def attempts(self, seconds: float) -> AsyncIterator[Repeated]:
        """See `Transport.attempts`."""
        async with within(self._client.host, seconds, _TASK), self._slots.taken_async():
            yield retrying(self._max_retries, within=seconds)

    @property
    def client(self) -> Any:
        """See `Transport.client`."""
        return self._client

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """See `Transport.beside`."""
        return await work


class InThread:
    """Sends the request in the thread that reads the answer.

    The time that the reader spends between two pieces does not count towards the timeout.

    Args:
        client: Whose connections; what is asked beside goes over its loop.
        connections: Its connections for this.
        slots: Bounds the chats in flight.
        max_retries: Attempts after the first one.
    """

    def __init__(
        self, client: Client, connections: ConnectionPool, slots: SlotPool, max_retries: int
    ) -> None:
        self._client = client
        self._connections = connections
        self._slots = slots
        self._max_retries = max_retries
        self._until = 0.0
        self._slot = Slot()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._connection: Connection | None = None
        self._flight: Flight[Any] | None = None

    def read(self, work: Coroutine[T, None, None]) -> Generator[T, None, None]:
        """Run a coroutine, and yield what it hands out."""
        try:
            while True:
                try:
                    item = work.send(None)
                except StopIteration:
                    return
                self._leave()
                yield item
                self._return()
        finally:
            work.close()

    def stop(self) -> None:
        """Cancel it, from any thread: the reader gets an error."""
        with self._lock:
            self._stopped.set()
            connection, flight, turn = self._connection, self._flight, self._slot.turn
        if turn is not None:
            turn.cancel()
        if flight is not None:
            flight.cancel()
        if connection is not None:
            connection.cut()

    @asynccontextmanager
    async def attempts(self, seconds: float) -> AsyncIterator[Repeated]:
        """See `Transport.attempts`."""
        self._until = time.monotonic() + seconds
        try:
            slot = self._slots.taken(self._slot, self._until, self._stopped.is_set)
            with slot, self._on_connection():
                yield retrying(
                    self._max_retries, within=seconds, sleep=self._sleep, unwanted=self._ended
                )
        except (ServerError, TimeoutError, CancelledError) as error:
            if self._ended():
                raise interrupted() from None
            if time.monotonic() >= self._until and not isinstance(error, RefusedError):
                raise late(self._client.host, seconds, _TASK) from None
            raise

    @property
    def client(self) -> BlockingClient:
        """See `Transport.client`."""
        assert self._connection is not None  # noqa: S101 - attempts() is around it
        self._look()
        return self._connection.client

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """See `Transport.beside`."""
        flight = self._client.start(work)
        with self._lock:
            self._flight = flight
        try:
            if self._stopped.is_set():
                raise interrupted()
            return flight(max(0.0, self._until - time.monotonic()))
        finally:
            self._flight = None
            flight.cancel()

    @contextmanager
    def _on_connection(self) -> Iterator[None]:
        with self._connections.taken(self._until) as connection:
            with self._lock:
                self._connection = connection
            try:
                yield
            finally:
                with self._lock:
                    self._connection = None

    async def _sleep(self, seconds: float) -> None:
        self._stopped.wait(max(0.0, min(seconds, self._until - time.monotonic())))
        self._look()
        if time.monotonic() >= self._until:
            raise TimeoutError

    def _ended(self) -> bool:
        """Whether it was canceled here, which looks like a broken connection to the client."""
        return self._stopped.is_set() or self._connections.closed

    def _look(self) -> None:
        if self._stopped.is_set():
            raise interrupted()

    def _leave(self) -> None:
        self._slot.away = time.monotonic()
        if self._connection is not None:
            self._connection.away = True

    def _return(self) -> None:
        away, self._slot.away = self._slot.away, None
        assert away is not None  # noqa: S101 - _leave() was before
        self._until += time.monotonic() - away
        if self._connection is not None:
            self._connection.until = self._until
            self._connection.away = False


@types.coroutine
def handed_out(item: T) -> Generator[T, None, None]:
    """Yield an item to the reader, in a coroutine that `InThread.read` runs."""
    yield item


__all__ = ["InThread", "OnLoop", "Repeated", "Transport", "handed_out"]
