"""Truncation by a server: refused first, then asked for, and warned about once."""

from __future__ import annotations

import warnings
from typing import Protocol, TypeVar

from langchain_gpu.events import TruncationWarning, users_line
from langchain_gpu.servers.errors import RefusedError

PartT = TypeVar("PartT")
PartT_contra = TypeVar("PartT_contra", contravariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Asks(Protocol[PartT_contra, T_co]):
    """Sends a request for a part, with or without leave to truncate."""

    async def __call__(self, part: PartT_contra, /, *, cut: bool) -> T_co:
        """Ask."""


class Truncation:
    """Lets a server truncate texts that are too long, and learns of it.

    A server that may truncate does not say whether it did. So it is first asked to refuse such
    texts, and to truncate only what it refused; most texts are short, and a refusal is cheap.

    Args:
        reader: Who cuts, for the warning.
    """

    def __init__(self, reader: str) -> None:
        self._reader = reader
        self._where: str | None = None
        self._told = False

    async def ask(
        self,
        ask: Asks[PartT, T],
        part: PartT,
        where: str,
        *,
        allowed: bool,
    ) -> T:
        """Ask for `part`, and once more with a cut if it is refused for its length.

        Args:
            ask: Asks for it.
            part: What to ask for.
            where: Names the part in the warning.
            allowed: Whether a cut is what the caller wants.
        """
        try:
            return await ask(part, cut=False)
        except RefusedError as error:
            if not (allowed and error.too_long):
                raise
        answer = await ask(part, cut=True)
        self._where = self._where or where
        return answer

    def tell(self) -> None:
        """Warn, once, if something was cut. Called in the thread of the caller."""
        if self._where is None or self._told:
            return
        self._told = True
        warnings.warn(
            f"texts are longer than the model's window and were cut by {self._reader} (in the "
            f"request that begins with {self._where}); split them, or choose on_long='error'",
            TruncationWarning,
            stacklevel=users_line(),
        )
