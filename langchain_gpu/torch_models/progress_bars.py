"""Loading without the bars of transformers: nobody asked for them, and they break other lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from langchain_gpu.utils.extras import require

ItemT = TypeVar("ItemT")


@contextmanager
def no_bars() -> Iterator[None]:
    """Load a model of transformers in here; what the user chose holds again afterwards."""
    logging = require("transformers.utils.logging", extra="local")
    # It draws a bar of tqdm's own, which no setting of transformers turns off.
    unpacking = require("transformers.modeling_gguf_pytorch_utils", extra="local")
    shown, drawn = logging.is_progress_bar_enabled(), getattr(unpacking, "tqdm", None)
    logging.disable_progress_bar()
    if drawn is not None:
        unpacking.tqdm = _without_bar
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if drawn is not None and drawn is not _without_bar:  # else another thread puts it back
            unpacking.tqdm = drawn


def _without_bar(items: Iterable[ItemT], **_: Any) -> Iterable[ItemT]:
    return items


__all__ = ["no_bars"]
