"""Truncation by a server: refused first, then asked for, and warned about once."""

from __future__ import annotations

import warnings
from typing import Protocol, TypeVar

from langchain_gpu.events import TruncationWarning
from langchain_gpu.servers.errors import RefusedError

PartT = TypeVar("PartT")
PartT_contra = TypeVar("PartT_contra", contravariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Asks(Protocol[PartT_contra, T_co]):
    """Asks for a part, and says whether the server shall cut what is too long in it."""

    async def __call__(self, part: PartT_contra, /, *, cut: bool) -> T_co:
        """Ask."""


class Truncation:
    """Has a server cut what is too long, so that it is not silent.

    A server that is told to cut does not say whether it did. So it is asked to refuse, and told to
    cut only what it refused; most texts are short, and a refusal costs no computation.

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
        """Warn, once, if something was cut. Called on the thread of whoever asked."""
        if self._where is None or self._told:
            return
        self._told = True
        warnings.warn(
            f"texts are longer than the model's window and were cut by {self._reader} (in the "
            f"request that begins with {self._where}); split them, or choose on_long='error'",
            TruncationWarning,
            stacklevel=3,
        )
