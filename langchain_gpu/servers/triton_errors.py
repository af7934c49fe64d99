"""Errors from gRPC statuses of a Triton server."""

from __future__ import annotations

import re

from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.servers.errors import (
    RefusedError,
    ServerError,
    ServerTimeoutError,
    ServerUnreachableError,
    says_too_long,
)
from langchain_gpu.servers.replies import Replies
from langchain_gpu.servers.server import Server

# How gRPC says that there is no connection, under whatever status.
_BROKEN = re.compile(
    r"failed to connect|connection (refused|reset)|socket closed|name resolution|dns|broken pipe"
    r"|stream removed|rst_stream|goaway|recvmsg|handshake|endpoint closing|transport",
    re.IGNORECASE,
)
_STATUSES = {
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 405,
}
_TRANSPORT = ("UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED")
_ABOUT_ITEMS = 422  # a model that fails says INTERNAL, and one of the items may be the reason


class Faults:
    """Turns the statuses of one server into errors that show no secret.

    Args:
        host: Host and port, for messages.
        server: How patiently it is asked, and with which key.
    """

    def __init__(self, host: str, server: Server) -> None:
        self._host = host
        self._has_key = bool(server.api_key)
        self._replies = Replies(host, server)

    def shown(self, text: str) -> str:
        """Return the beginning of a text that a message may quote."""
        return self._replies.shown(text)

    def of(self, code: str, words: str) -> ServerError:
        """Return what to raise.

        Args:
            code: The status, `"StatusCode.UNAVAILABLE"`; empty inside a stream of an old server.
            words: The server's own.
        """
        name, detail = code.removeprefix("StatusCode."), self.shown(words)
        message = f"{self._host} answered {name or 'with an error'}: {detail}"
        if says_too_long(detail):
            return RefusedError(message, status=400, detail=detail)
        if name in _TRANSPORT and _BROKEN.search(detail):
            return ServerUnreachableError(f"{self._host} cannot be reached: {detail}", again=True)
        if name == "DEADLINE_EXCEEDED":
            return ServerTimeoutError(f"{message}; raise timeout", again=True)
        if name == "RESOURCE_EXHAUSTED" and "larger than max" in detail:
            return RefusedError(message, status=413, detail=detail)
        if name in {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED", "ABORTED"}:
            busy = ServerError(message, status=503, again=True)
            # The same batch would not fit either.
            busy.again = not is_out_of_memory(busy)
            return busy
        if name in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
            message += " (is api_key right?)" if self._has_key else " (it may want an api_key)"
        return RefusedError(message, status=_STATUSES.get(name, _ABOUT_ITEMS), detail=detail)


__all__ = ["Faults"]
