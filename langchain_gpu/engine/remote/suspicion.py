"""Whether a server's internal error is caused by an item of the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.servers.errors import ServerError

FAILED = 500  # not 502 to 504: those are of a server that is down, or has too much to do
_CULPRITS = 4  # items of a request that may make it fail before the server is to blame after all


class Suspicion:
    """Suspects the items of a request that made a server fail, if it answers something else.

    A server that is broken must not be asked for every half of what it failed at. So it is asked
    for something harmless first, once, and for a few items at most.

    Args:
        harmless: Asks for something that was answered before.
        items: Of the request.
    """

    def __init__(self, harmless: Callable[[], Awaitable[object]], items: int) -> None:
        self._harmless = harmless
        self._left = _CULPRITS * (1 + items.bit_length())
        self._answers: bool | None = None

    @property
    def likely(self) -> bool:
        """Whether the server failed, and answered something else."""
        return self._answers is True

    async def __call__(self, error: ServerError) -> bool:
        """Say whether an item may be the reason. Where memory ran out, fewer at once may help."""
        if error.status != FAILED or is_out_of_memory(error):
            return False
        if self._answers is None:
            try:
                await self._harmless()
            except ServerError:
                self._answers = False
            else:
                self._answers = True
        self._left -= 1
        return self._answers and self._left >= 0


__all__ = ["FAILED", "Suspicion"]
