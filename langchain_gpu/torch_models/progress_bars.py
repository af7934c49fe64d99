"""Loading without the bars of transformers: nobody asked for them, and they break other lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_gpu.utils.extras import require


@contextmanager
def no_bars() -> Iterator[None]:
    """Load a model of transformers in here; what the user chose holds again afterwards."""
    logging = require("transformers.utils.logging", extra="local")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


__all__ = ["no_bars"]
