"""Names of files and folders."""

from __future__ import annotations

import os
from typing import Any


def text_of(value: Any) -> Any:
    """Return a `pathlib.Path` as text, and anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


__all__ = ["text_of"]
