"""What comes in is texts, what goes out is finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu._extras import require
from langchain_gpu.engine.tasks.embed import surrogate_problem


class NonFiniteVectorError(ValueError):
    """The model returned NaN or infinity for a text."""


def as_list(texts: Any) -> list[Any]:
    """Take any iterable of texts but a lone string, which would be embedded letter by letter.

    Raises:
        TypeError: It is one string, or nothing to iterate over.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts is one {type(texts).__name__}; pass a list: [text]")
    try:
        return texts if isinstance(texts, list) else list(texts)
    except TypeError:
        raise TypeError(f"texts is {type(texts).__name__}, not a list of str") from None


def text_problem(item: object) -> str | None:
    """Say why something cannot be embedded; None if it can."""
    if not isinstance(item, str):
        return f"is {type(item).__name__}, not str"
    return surrogate_problem(item)


def non_finite(vectors: NDArray[Any]) -> list[int]:
    """Return the rows that hold NaN or infinity."""
    rows: list[int] = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    return rows


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None] | None]:
    """Open a progress bar, or nothing."""
    if not shown:
        yield None
        return
    tqdm = require("tqdm.auto", extra="local").tqdm
    with tqdm(total=total, desc="Embedding", unit="text") as bar:
        yield bar.update
