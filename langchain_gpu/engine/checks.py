"""Checks of what goes into the engine and what comes out, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.tasks.embed import surrogate_problem
from langchain_gpu.utils.extras import require


class NonFiniteVectorError(ValueError):
    """The model returned NaN or infinity for a text."""


def as_list(texts: Any) -> list[Any]:
    """Return an iterable of texts as a list; a single string would be embedded letter by letter.

    Raises:
        TypeError: It is one string, or nothing to iterate over.
    """
    return texts if isinstance(texts, list) else list(iterate(texts))


def iterate(texts: Any) -> Iterator[Any]:
    """Return an iterator over texts. Accepts and raises what `as_list` does."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts is a single {type(texts).__name__}; pass a list: [text]")
    try:
        return iter(texts)
    except TypeError:
        raise TypeError(f"texts is {type(texts).__name__}, not a list of str") from None


def check_on_error(policy: object) -> None:
    """Refuse any other value: a misspelled `"raise"` would silently skip.

    Raises:
        ValueError: It is neither `"raise"` nor `"skip"`.
    """
    if policy not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', not {policy!r}")


def text_problem(item: object) -> str | None:
    """Say why something cannot be embedded; None if it can."""
    if not isinstance(item, str):
        return f"is {type(item).__name__}, not str"
    return surrogate_problem(item)


def check_buffer(out: object, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Check that vectors can be written into `out`, before any is computed.

    Raises:
        TypeError: It is not an array.
        ValueError: It has another shape or dtype, or is read-only.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out must be {dtype} of shape {shape}, not {out.dtype} {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only; open a memmap with mode 'r+' or 'w+'")


def non_finite(vectors: NDArray[Any]) -> list[int]:
    """Return the rows that hold NaN or infinity."""
    rows: list[int] = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    return rows


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None] | None]:
    """Count finished texts in a bar on stderr while the block runs.

    Args:
        total: Texts that the bar counts to.
        shown: Whether there is a bar at all.

    Yields:
        Called with the number of texts finished since the last call; None where no bar is shown.

    Raises:
        ImportError: tqdm is not installed; the message has the pip line.
    """
    if not shown:
        yield None
        return
    tqdm = require("tqdm.auto", extra="local").tqdm
    with tqdm(total=total, desc="Embedding", unit="text") as bar:
        yield bar.update
