"""Settings without their secrets: for a repr, a log, a trace, the key of a cache."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_MASK = "**********"
# Headers hold tokens under any name; `max_tokens` and `eos_token_id` are not secrets.
_SECRET = re.compile(
    r"headers?$|(^|[_-])(key|token|auth|password|secret)$|authorization|cookie|apikey",
    re.IGNORECASE,
)


def redacted(value: Any) -> Any:
    """Return settings with everything hidden that is a secret by its name.

    Args:
        value: Any setting; mappings and lists are looked into.
    """
    if isinstance(value, Mapping):
        return {
            name: _hidden(each) if _SECRET.search(str(name)) else redacted(each)
            for name, each in value.items()
        }
    return [redacted(each) for each in value] if isinstance(value, list) else value


def redacted_url(url: str | None) -> str | None:
    """Return an address without the user and the password that should not be in it."""
    if url is None or "@" not in url:
        return url
    try:
        parts = urlsplit(url)
        place = f"{_MASK}@{parts.netloc.rpartition('@')[2]}"
        masked = parts._replace(netloc=place).geturl()
    except ValueError:
        return _MASK
    return masked if "@" in parts.netloc else f"{_MASK}@{url.rpartition('@')[2]}"


def _hidden(value: Any) -> Any:
    """Names stay: they say what was set."""
    if isinstance(value, Mapping):
        return dict.fromkeys(value, _MASK)
    return value if value in (None, "") else _MASK


__all__ = ["redacted", "redacted_url"]
