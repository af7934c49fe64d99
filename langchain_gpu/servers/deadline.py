"""A deadline for a whole call, retries and pauses included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langchain_gpu.servers.errors import ServerError, ServerTimeoutError


@asynccontextmanager
async def within(
    host: str,
    seconds: float,
    what: str,
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - of the server; nothing here waits for it
) -> AsyncIterator[None]:
    """Bound what is awaited inside.

    Args:
        host: Host and port, for messages.
        seconds: Time for all of it.
        what: What the server was to do, for messages: `"answer /api/show"`.
        timeout: The user's own, where `seconds` may be less whatever it is.

    Raises:
        ServerTimeoutError: It took longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except ServerError:  # a time-out of a part, which says more
        raise
    except TimeoutError:
        raise late(host, seconds, what, timeout) from None


def late(host: str, seconds: float, what: str, timeout: float | None = None) -> ServerTimeoutError:
    """Return what `within` raises; its arguments."""
    own = timeout is None or timeout <= seconds
    remedy = "raise timeout" if own else "check whether it is still starting, or overloaded"
    return ServerTimeoutError(f"{host} did not {what} within {seconds:g} seconds; {remedy}")


__all__ = ["late", "within"]
