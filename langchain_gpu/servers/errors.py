"""Errors of servers, and of the way there."""

from __future__ import annotations

import re

# How servers say that an item has more tokens than the model reads: OpenAI and vLLM, Ollama, TEI,
# llama.cpp, NIM.
_TOO_LONG = re.compile(
    r"(context|input|sequence|prompt|model) (length|size|window)"
    r"|must have less than \d+ tokens"
    r"|input is too large to process"
    r"|maximum allowed token size"
    r"|too many tokens",
    re.IGNORECASE,
)
# Statuses that may be about what was sent, not about who asked or for which model.
_ABOUT_ITEMS = frozenset({400, 413, 422})
_NO_SUCH_PLACE = frozenset({404, 405})


class ServerError(RuntimeError):
    """A server did not do what it was asked for.

    Attributes:
        status: HTTP status of the answer; None where there was none.
        again: Asking again may help.
        after: Seconds the server wants to be left alone first; None where it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        again: bool = False,
        after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.again = again
        self.after = after

    @property
    def about_items(self) -> bool:
        """Whether one of the items, or their number, may be the reason."""
        return False


class ServerUnreachableError(ServerError):
    """Nothing listens there, or the connection broke."""


class ServerTimeoutError(ServerError, TimeoutError):
    """The server did not answer within the time-out."""


class BadAnswerError(ServerError):
    """The answer is not what the form of the request promises."""


class NotFiniteError(BadAnswerError):
    """The answer holds NaN or infinity for one of the items."""

    @property
    def about_items(self) -> bool:
        """See `ServerError.about_items`."""
        return True


class FailedItemError(ServerError):
    """The server fails for every request that holds this item, and answers others.

    Attributes:
        position: Of the item, in the caller's sequence.
    """

    def __init__(self, what: str, position: int, reason: ServerError) -> None:
        """Blame the item that is called `what`, as in `"text 7"`."""
        message = f"{what} {position} makes the server fail: {reason}"
        super().__init__(message, status=reason.status)
        self.position = position
        self._what = what
        self._reason = reason

    def at(self, position: int) -> FailedItemError:
        """Return the same error with the item's position in another sequence."""
        return FailedItemError(self._what, position, self._reason)

    @property
    def about_items(self) -> bool:
        """See `ServerError.about_items`."""
        return True


class RefusedError(ServerError):
    """The server will not do it, however often it is asked.

    Attributes:
        detail: The server's own words.
    """

    def __init__(self, message: str, *, status: int, detail: str) -> None:
        super().__init__(message, status=status)
        self.detail = detail

    @property
    def too_long(self) -> bool:
        """Whether an item is longer than the model's window."""
        return says_too_long(self.detail)

    @property
    def about_items(self) -> bool:
        """See `ServerError.about_items`."""
        return self.status in _ABOUT_ITEMS or self.too_long

    @property
    def no_such_place(self) -> bool:
        """Whether the server has nothing at that address, whatever the model."""
        return self.status in _NO_SUCH_PLACE and "model" not in self.detail.lower()


def no_ollama(host: str, error: RefusedError) -> RefusedError:
    """Return what to raise where a server has none of the places that Ollama has."""
    return RefusedError(
        f"{host} does not answer as Ollama does at this base_url: leave out /v1 and all else that "
        f"follows the port, or take backend='openai' ({error.detail})",
        status=error.status or 404,
        detail=error.detail,
    )


def says_too_long(detail: str) -> bool:
    """Say whether a server's words mean that an item is longer than the model's window."""
    return _TOO_LONG.search(detail) is not None
