"""Names of files and folders."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BeforeValidator


def _text_of(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Name = Annotated[str, BeforeValidator(_text_of)]
"""Text that may name a file or a folder, and is taken as `pathlib.Path` too."""

__all__ = ["Name"]
