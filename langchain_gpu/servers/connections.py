"""Blocking HTTP connections: a caller waits in its own thread, and any other can end its wait."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol
from weakref import WeakSet

from langchain_gpu.servers.loop import CLOSED, FORKED
from langchain_gpu.servers.server import CONNECT_SECONDS

_LEAST = 0.001  # seconds: none at all would mean to wait forever
_TICK = 1.0  # seconds between two looks at most: one whose caller was away is late later
_IDLE = 10.0  # seconds after which the thread that looks ends

Hooks = Mapping[str, list[Callable[[Any], Any]]]
"""What an httpx client calls for its requests."""


class BlockingClient(Protocol):
    """A client that blocks, and keeps one connection."""

    def stream(
        self, place: str, body: Mapping[str, Any], take: Callable[[Any], Awaitable[object]], /
    ) -> Coroutine[Any, Any, None]:
        """Hand every part of a streamed answer to `take`: it waits for nothing but that."""

    def close(self) -> None:
        """Close the connection."""


class Connection:
    """A connection for one caller at a time.

    Args:
        build: Makes the client, which calls the hooks.

    Attributes:
        client: The client.
        until: When waiting ends, by `time.monotonic`.
        away: Whether its caller is at something else: nothing waits.
    """

    def __init__(self, build: Callable[[Hooks], BlockingClient]) -> None:
        self.until = math.inf
        self.away = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False
        self.client = build({"request": [self._prepare]})

    def ready(self, until: float) -> None:
        """Make it a new caller's."""
        with self._lock:
            self._cut = False
        self.until = until
        self.away = False

    def cut(self) -> None:
        """End what is waited for, and every further wait of this caller, from any thread."""
        with self._lock:
            self._cut = True
            self._end()

    def _prepare(self, request: Any) -> None:
        left = max(_LEAST, self.until - time.monotonic())
        limits = dict.fromkeys(("read", "write", "pool"), left)
        request.extensions["timeout"] = {**limits, "connect": min(CONNECT_SECONDS, left)}
        request.extensions["trace"] = self._trace

    def _trace(self, _event: str, info: Mapping[str, Any]) -> None:
        # "connect_tcp.complete", "start_tls.complete" and so on: what came of it is the stream.
        about = getattr(info.get("return_value"), "get_extra_info", None)
        if about is not None:
            with self._lock:
                self._socket = about("socket")
        if self._cut:  # before there was anything to end
            with self._lock:
                self._end()

    def _end(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                # Of the socket itself: one with TLS would say goodbye, and may have to wait.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class ConnectionPool:
    """The connections to one server: those that nobody uses are kept for the next.

    Args:
        build: Makes the client of a connection.
    """

    def __init__(self, build: Callable[[Hooks], BlockingClient]) -> None:
        self._build = build
        # Reentrant: a garbage collection in here may end a stream, which gives its connection back.
        self._changed = threading.Condition(threading.RLock())
        self._free: list[Connection] = []
        # Weakly: Ctrl-C may keep a caller from giving its connection back.
        self._busy: WeakSet[Connection] = WeakSet()
        self._next = math.inf  # when the thread that looks wakes up
        self._looking = False
        self._closed = False
        self._pid = os.getpid()

    @contextmanager
    def taken(self, until: float) -> Iterator[Connection]:
        """Have a connection while the context is open.

        Args:
            until: When waiting ends, by `time.monotonic`; what waits then is ended by an error.

        Raises:
            RuntimeError: They are closed, or this process was forked since they were made.
        """
        connection = self._take(until)
        try:
            yield connection
        finally:
            self._back(connection)

    @property
    def closed(self) -> bool:
        """Whether they are closed."""
        return self._closed

    def close(self) -> None:
        """End all that waits, and close all connections. May be called again."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            busy = list(self._busy)
            self._changed.notify_all()
        for connection in busy:  # each is closed by its caller, who gives it back
            connection.cut()
        for connection in free:
            connection.client.close()

    def _take(self, until: float) -> Connection:
        if os.getpid() != self._pid:
            raise RuntimeError(FORKED)
        with self._changed:
            if self._closed:
                raise RuntimeError(CLOSED)
            connection = self._free.pop() if self._free else Connection(self._build)
            connection.ready(until)
            self._busy.add(connection)
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="langchain-gpu-late", daemon=True).start()
            elif until < self._next:
                self._changed.notify_all()
        return connection

    def _back(self, connection: Connection) -> None:
        with self._changed:
            self._busy.discard(connection)
            closed = self._closed
            if not closed:
                self._free.append(connection)
        if closed:
            connection.client.close()

    def _look(self) -> None:
        """Cut the connections of those who would wait for too long."""
        while True:
            with self._changed:
                now = time.monotonic()
                waiting = [connection for connection in self._busy if not connection.away]
                late = [connection for connection in waiting if connection.until <= now]
                if not late:
                    waits = [connection.until - now for connection in waiting]
                    pause = min([_TICK, *waits]) if self._busy else _IDLE
                    self._next = now + pause
                    woken = self._changed.wait(pause)
                    if self._closed or not (woken or self._busy):
                        self._looking = False
                        return
            for connection in late:
                connection.until = math.inf  # it is cut once
                connection.cut()


__all__ = ["BlockingClient", "Connection", "ConnectionPool", "Hooks"]
