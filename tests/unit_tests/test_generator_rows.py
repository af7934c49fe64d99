"""One answer, token by token: text, stops, limits, and what a listener sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from langchain_gpu.generators.base import Delta, Request
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
    shown: list[Delta | None] = []
    answer.listener = shown.append
    say(answer, "a€😀b", END)
    *pieces, last, nothing = shown
    assert [piece.text for piece in pieces if piece] == ["a", "€", "😀", "b"]
    assert last is not None
    assert (last.text, last.finish_reason, last.usage) == ("", "stop", answer.usage)
    assert nothing is None


def test_a_character_cut_by_the_limit_is_shown_as_broken() -> None:
    assert say(row(limit=2), "a€") == "a\ufffd"


def test_a_stop_string_finishes_and_is_not_shown() -> None:
    answer = row(stop=("###",))
    assert say(answer, "one##two###three") == "one##two"
    assert (answer.done, answer.finish_reason) == (True, "stop")


def test_what_was_held_back_for_a_stop_string_comes_at_the_end() -> None:
    assert say(row(stop=("###",)), "one##", END) == "one##"


def test_a_canceled_row_ends_and_ignores_what_comes() -> None:
    answer = row()
    shown: list[Delta | None] = []
    answer.listener = shown.append
    say(answer, "a")
    answer.cancel()
    assert say(answer, "bc") == "a"
    assert (answer.done, answer.canceled) == (True, True)
    assert [piece and piece.text for piece in shown] == ["a", None]


def test_time_that_is_over_fails_this_row_and_raises_where_it_is_awaited() -> None:
    answer = row(timeout=1e-9)
    say(answer, "ab")
    assert (answer.done, len(answer.tokens)) == (True, 1)
    with pytest.raises(TimeoutError, match="not complete"):
        answer.wait()
    with pytest.raises(TimeoutError, match="not complete"):
        row(timeout=0.01).wait()  # nobody adds anything


def test_a_finished_row_cannot_fail_any_more() -> None:
    answer = row()
    say(answer, "hi", END)
    answer.fail(RuntimeError("too late"))
    assert answer.wait().text == "hi"
    broken = row()
    broken.fail(RuntimeError("in time"))
    with pytest.raises(RuntimeError, match="in time"):
        broken.wait()


def test_log_probabilities_go_with_the_text_they_made() -> None:
    answer = row(stop=("###",))
    shown: list[Delta | None] = []
    answer.listener = shown.append
    for letter in b"a##b":
        answer.add(letter, {"token": chr(letter)})
    answer.add(END, {"token": "<end>"})
    told = [[each["token"] for each in piece.logprobs] for piece in shown if piece]
    assert told == [["a"], ["#", "#", "b"], ["<end>"]]
    assert [each["token"] for each in answer.wait().logprobs] == ["a", "#", "#", "b", "<end>"]
