"""How many tokens a batch of chats may hold: halved when memory runs out, doubled later."""

from __future__ import annotations

from langchain_gpu.utils.backoff import Backoff


class TokenBudget:
    """The bound on a batch, counted as its rows times the longest that one may become.

    Attributes:
        tokens: The bound; None while no batch has failed.
    """

    def __init__(self) -> None:
        self.tokens: int | None = None
        self._backoff = Backoff()

    def failed(self, rows: int, longest: int) -> int:
        """Go down to the larger half of a batch that failed; return the bound before."""
        failed, half = rows * longest, (rows + 1) // 2 * longest
        old = failed if self.tokens is None else min(self.tokens, failed)
        self.tokens = min(old, half)
        self._backoff.failed()
        return old

    def finished(self, rows: int, longest: int) -> int | None:
        """Count a batch that succeeded, if it was a full one; double the bound after enough.

        Returns:
            The bound before, if it has grown; None where nothing has changed.
        """
        old = self.tokens
        # A single row always runs, whatever its length: it shows nothing about the bound.
        if old is None or rows == 1 or 2 * rows * longest <= old:
            return None
        if not self._backoff.succeeded():
            return None
        self.tokens = 2 * old
        return old

    def forget(self) -> None:
        """Remove the bound: the model has moved to another device."""
        self.tokens = None


__all__ = ["TokenBudget"]
