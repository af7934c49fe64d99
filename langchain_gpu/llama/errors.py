"""Errors of llama.cpp: a file that is not loaded, a request that is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ModelLoadError(RuntimeError):
    """A GGUF file could not be loaded; the message names the file."""


class LlamaError(RuntimeError):
    """llama.cpp refused a request.

    Attributes:
        details: What llama.cpp said about it: `code`, `type`, `message` and more.
    """

    def __init__(self, details: Mapping[str, Any]) -> None:
        super().__init__(f"llama.cpp: {details.get('message', 'failed without a message')}")
        self.details = details

    def at(self, place: str) -> LlamaError:
        """Return the same error with the place where it came about, a clause in brackets."""
        message = f"{self.details.get('message', self)} ({place})"
        return LlamaError({**self.details, "message": message})


def raise_error(answer: Any) -> None:
    """Raise what an answer of llama.cpp says went wrong, if it says so.

    Raises:
        LlamaError: It does.
    """
    if isinstance(answer, Mapping) and "error" in answer:
        raise LlamaError(answer["error"])


__all__ = ["LlamaError", "ModelLoadError", "raise_error"]
