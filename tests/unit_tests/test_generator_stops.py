"""Stop strings: found across any split of the text, and never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_gpu.generators.stops import StopText


def cut(text: str, stops: list[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


@given(st.lists(st.text("ab#", max_size=4)), st.lists(st.text("ab#", min_size=1), max_size=3))
def test_any_split_gives_the_text_up_to_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    stopper = StopText(stops)
    shown = "".join(stopper.feed(piece) for piece in pieces)
    assert cut(text, stops).startswith(shown)
    hit = stopper.hit
    shown += stopper.end()
    assert shown == cut(text, stops) or not hit
    assert hit == any(stop in text for stop in stops)
    if not hit:
        assert shown == text


@pytest.mark.parametrize("piece", ["END", " END of it"])
def test_nothing_comes_through_after_a_stop(piece: str) -> None:
    stopper = StopText(["END"])
    assert stopper.feed("the ") == "the "
    assert stopper.feed("E") == ""
    assert stopper.feed(piece.removeprefix("E")) in ("", "E ")
    stopper.feed("END")
    assert stopper.hit
    assert stopper.feed("more") == ""
    assert stopper.end() == ""


def test_text_without_stops_is_never_held_back() -> None:
    stopper = StopText([])
    assert stopper.feed("abc") == "abc"
    assert stopper.end() == ""
