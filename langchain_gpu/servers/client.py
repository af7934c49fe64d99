"""What every client of a server has: a name for messages, and a loop of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from langchain_gpu.hardware.devices import Device
from langchain_gpu.servers.lines import Lines
from langchain_gpu.servers.loop import Flight, Loop

T = TypeVar("T")


class Client:
    """Reaches one server, whatever is spoken there.

    Every wait is a task on a loop of its own, so that it can be ended at once, or one on a line,
    which can be cut.

    Args:
        host: Host and port, for messages.
        closing: Awaited on the loop when it closes.
        lines: Connections for callers who ask in their own threads; None where there are none.

    Attributes:
        host: The same.
        lines: The same.
    """

    def __init__(
        self,
        host: str,
        closing: Callable[[], Coroutine[Any, Any, None]],
        lines: Lines | None = None,
    ) -> None:
        self.host = host
        self.lines = lines
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
        if self.lines is not None:
            self.lines.close()
        self._loop.close()


__all__ = ["Client"]
