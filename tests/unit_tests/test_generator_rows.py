"""One answer, token by token: text, stops, limits, and what a listener sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from langchain_gpu.generators.base import Request
from langchain_gpu.generators.rows import Row

END = 0


def decode(ids: Sequence[int]) -> str:
    """Token n is byte n; the end token has no text."""
    return bytes(token for token in ids if token != END).decode(errors="replace")


def row(limit: int = 100, **settings: Any) -> Row:
    request = Request(messages=[{"role": "user", "content": "?"}], **settings)
    return Row(request, [7, 8], limit=limit, ends=frozenset({END}), decode=decode)


def say(target: Row, text: str, *more: int) -> str:
    for token in [*text.encode(), *more]:
        target.add(token)
    return "".join(target.texts)


def test_an_end_token_finishes_and_is_no_text() -> None:
    answer = row()
    assert say(answer, "hi", END) == "hi"
    assert (answer.done, answer.finish_reason, len(answer.tokens)) == (True, "stop", 3)
    assert say(answer, "more") == "hi"


def test_the_limit_finishes() -> None:
    answer = row(limit=2)
    assert say(answer, "hello") == "he"
    assert (answer.done, answer.finish_reason, answer.left) == (True, "length", 0)


def test_a_character_of_several_tokens_comes_whole() -> None:
    answer = row()
    shown: list[str] = []

    def hear(text: str) -> bool:
        shown.append(text)
        return False

    answer.listener = hear
    say(answer, "a€😀b", END)
    assert [text for text in shown if text] == ["a", "€", "😀", "b"]


def test_a_character_cut_by_the_limit_is_shown_as_broken() -> None:
    assert say(row(limit=2), "a€") == "a\ufffd"


def test_a_stop_string_finishes_and_is_not_shown() -> None:
    answer = row(stop=("###",))
    assert say(answer, "one##two###three") == "one##two"
    assert (answer.done, answer.finish_reason) == (True, "stop")


def test_what_was_held_back_for_a_stop_string_comes_at_the_end() -> None:
    assert say(row(stop=("###",)), "one##", END) == "one##"


def test_a_listener_that_goes_away_ends_the_row() -> None:
    answer = row()
    answer.listener = lambda text: text == "b"
    assert say(answer, "abc") == "ab"
    assert (answer.done, answer.canceled) == (True, True)


def test_time_that_is_over_raises() -> None:
    answer = row(timeout=1e-9)
    with pytest.raises(TimeoutError, match="not complete"):
        say(answer, "a")
