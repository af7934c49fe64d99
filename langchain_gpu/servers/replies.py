"""Errors from a server's unsuccessful responses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.servers import address
from langchain_gpu.servers.errors import RefusedError, ServerError, says_too_long
from langchain_gpu.servers.server import Server

# Statuses after which the same request may succeed; so may it after any 5xx.
_AGAIN = frozenset({408, 409, 425, 429})
_SHOWN = 300  # characters of an answer that an error quotes
_PATIENCE = 10.0  # seconds a server may ask for, however short the time-out is


class Reply(Protocol):
    """A response as httpx and its successors have it, read to its end."""

    @property
    def status_code(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP headers."""

    @property
    def text(self) -> str:
        """The body."""

    @property
    def reason_phrase(self) -> str:
        """What the status means."""

    def json(self) -> Any:
        """The body, parsed; ValueError where it is no JSON."""


class Replies:
    """Makes errors, without secrets, of a server's unsuccessful responses.

    Args:
        host: Host and port, for messages.
        server: How patiently it is asked, and with which key.
        secrets: What else no message may show.
    """

    def __init__(self, host: str, server: Server, secrets: Iterable[str] = ()) -> None:
        self._host = host
        self._server = server
        found = {*address.secrets_of(server), *secrets}
        self._secrets = sorted(found, key=len, reverse=True)  # one may begin another

    def shown(self, text: str) -> str:
        """Return the beginning of a text that a message may quote."""
        return self.clean(text)[:_SHOWN]

    def clean(self, text: str) -> str:
        """Hide secrets. Before a text is cut: the beginning of one would not be found."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def error(self, reply: Reply) -> ServerError:
        """Return what to raise for an answer whose status is not success."""
        status, detail = reply.status_code, self.shown(_detail(reply))
        if status in range(300, 400):
            place = self.clean(reply.headers.get("location", "an unknown place"))
            return ServerError(
                f"{self._host} points to {place!r}; redirects are not followed: give that address",
                status=status,
            )
        return self.error_of(status, detail, _retry_after(reply))

    def error_of(self, status: int, detail: str, after: float | None = None) -> ServerError:
        """Return what to raise for a status and the server's words.

        Args:
            status: HTTP status, or what the server calls so inside an answer.
            detail: Its words, without secrets.
            after: Seconds it wants to be left alone first.
        """
        message = f"{self._host} answered {status}: {detail}"
        if says_too_long(detail):  # some servers say so with a 500
            return RefusedError(message, status=status, detail=detail)
        if status in _AGAIN or status in range(500, 600):
            error = ServerError(message, status=status, again=True, after=after)
            # The same batch would not fit again; and a pause of an hour would look like a hang.
            patience = max(self._server.timeout, _PATIENCE)
            if is_out_of_memory(error) or (after is not None and after > patience):
                error.again = False
            return error
        if status in {401, 403}:
            message += (
                " (is api_key right?)" if self._server.api_key else " (it may want an api_key)"
            )
        return RefusedError(message, status=status, detail=detail)


def _retry_after(reply: Reply) -> float | None:
    value = reply.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(
        0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    )


def words_of(found: Any) -> str:
    """Return a server's own words out of what it calls an error."""
    for _ in range(2):  # {"error": {"message": ...}}, {"error": ...}, {"detail": ...}
        if isinstance(found, dict):
            names = ("message", "error", "detail")
            found = next((found[name] for name in names if found.get(name)), found)
    return str(found)


def _detail(reply: Reply) -> str:
    try:
        found: Any = reply.json()
    except ValueError:
        return reply.text.strip() or reply.reason_phrase
    return words_of(found)


__all__ = ["Replies", "Reply", "words_of"]
