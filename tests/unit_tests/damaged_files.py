"""Files with damage in them, and how much memory it takes to find that out."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, places: range, marks: st.SearchStrategy[bytes]) -> bytes:
    """A file with other bytes, or marks that mean something in it, at some places; often cut."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(places))
        piece = draw(st.binary(min_size=1, max_size=8) | marks)
        data[place : place + len(piece)] = piece
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


def peak_of(work: Callable[[], object]) -> int:
    """The most bytes that Python had at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
