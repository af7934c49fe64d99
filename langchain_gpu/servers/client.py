"""What every client of a server has: a name for messages, and an event loop of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from langchain_gpu.hardware.devices import Device
from langchain_gpu.servers.connections import ConnectionPool
from langchain_gpu.servers.loop import Flight, Loop

T = TypeVar("T")


class Client:
    """Reaches one server, whatever is spoken there.

    Every wait is a task on a loop of its own, which can be canceled, or a blocking call on a
    connection, which another thread can cut.

    Args:
        host: Host and port, for messages.
        closing: Awaited on the loop when it closes.
        connections: For callers who ask in their own threads; None where there are none.

    Attributes:
        host: The same.
        connections: The same.
    """

    def __init__(
        self,
        host: str,
        closing: Callable[[], Coroutine[Any, Any, None]],
        connections: ConnectionPool | None = None,
    ) -> None:
        self.host = host
        self.connections = connections
        self._loop = Loop(closing)

    def start(self, work: Coroutine[Any, Any, T]) -> Flight[T]:
        """Start a coroutine that asks the server; calling the result waits for it."""
        return self._loop.submit(work)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that asks the server, and wait for it."""
        return self._loop.submit(work)()

    def device_of(self, model: str) -> Device:
        """Return the server as the device that a model runs on."""
        return Device(kind="remote", name=self.host, reason=f"{self.host} serves {model}")

    def close(self) -> None:
        """Cancel what is under way, and close all connections. May be called again."""
        if self.connections is not None:
            self.connections.close()
        self._loop.close()


__all__ = ["Client"]
