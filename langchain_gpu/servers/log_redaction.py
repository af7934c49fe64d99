"""Removes secrets in addresses from the logs of HTTP clients."""

from __future__ import annotations

import logging
from collections.abc import Callable

# They log the whole address of every request, and at the level DEBUG headers and options too. A
# filter holds for the logger itself, not for those below it.
_LOGGERS = ("httpx", "httpx2", "httpcore.http11", "httpcore2.http11", "openai._base_client")


class SecretFilter(logging.Filter):
    """Hides secrets in what the HTTP clients log, until it is closed.

    Args:
        clean: Hides them in a text.
    """

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._clean = clean
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the message; everything is logged."""
        said = record.getMessage()
        if (shown := self._clean(said)) != said:
            record.msg, record.args = shown, None
        return True

    def close(self) -> None:
        """Leave the logs alone from here on. May be called again."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)


__all__ = ["SecretFilter"]
