"""Whether a server's internal error is caused by an item of the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.servers.errors import ServerError

FAILED = 500  # not 502 to 504: those come from a server that is down or overloaded
_CULPRITS = 4  # failing items of a request after which the server itself is taken for the cause


class Suspicion:
    """Decides whether an item of a request may have made a server fail.

    A broken server must not be asked for every half of the request. So a harmless request is sent
    first, once, and only if that succeeds are items suspected, a few per request at most.

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
