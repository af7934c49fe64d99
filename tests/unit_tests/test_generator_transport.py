"""A thread that reads an answer asks the server by itself: no other thread, and no hang."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_gpu.generators.parallel import generate_all_async
from langchain_gpu.generators.pump import Stoppable
from langchain_gpu.generators.streams import collect
from langchain_gpu.servers import http
from langchain_gpu.servers.errors import ServerError, ServerTimeoutError
from tests.unit_tests.chat_script import (
    CHAT,
    DONE,
    Opens,
    ask,
    chat_server,
    chunk,
    opening,
    refusal,
    says,
    script,
)
from tests.unit_tests.scripted_server import Asked, Reply, Scripted

server, opens = chat_server, opening

_WHOLE = [chunk("b"), chunk(finish="stop"), DONE]
_SECONDS = 10.0  # nothing here takes as long, and the time-outs are longer


def stopped_after(seconds: float, stream: Any) -> float:
    """Stop a stream from another thread while this one reads it; seconds until it ended."""
    assert isinstance(stream, Stoppable)
    threading.Timer(seconds, stream.stop).start()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="closed while a request was under way"):
        list(stream)
    return time.monotonic() - began


def test_no_thread_for_each(server: Scripted, opens: Opens) -> None:
    generator = opens()
    generator.generate([ask()])
    before = set(threading.enumerate())
    names: list[str] = []

    def read() -> None:
        for _ in generator.stream(ask()):
            names.extend(thread.name for thread in set(threading.enumerate()) - before)

    readers = [threading.Thread(target=read, name="reader") for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(_SECONDS)
    assert len(server.of(CHAT)) == 9
    assert {name for name in names if name.startswith("langchain-gpu")} == set()


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "after a while"])
def test_an_answer_may_be_asked_for_between_two_pieces_of_another(
    server: Scripted, opens: Opens, *, slow: bool
) -> None:
    """With a single place: the one that waits for it would wait for itself."""
    script(server, lambda _: says("Hel", "lo"))
    generator = opens(n_parallel=1)
    texts = []
    for piece in generator.stream(ask()):
        time.sleep(0.4 if slow else 0.0)
        texts.append(piece.text + collect(generator.stream(ask())).text)
    assert texts == ["HelHello", "loHello", "Hello"]
    assert server.busiest == 1


async def test_a_task_may_too(server: Scripted, opens: Opens) -> None:
    generator = opens(n_parallel=1)
    with_one_open = generator.stream(ask())
    next(with_one_open)
    (answer,) = await generate_all_async(generator.stream, [ask()], width=1)
    assert answer.text == "Hello"
    assert [piece.text for piece in with_one_open] == ["lo", ""]


def test_the_time_of_the_reader_does_not_count(server: Scripted, opens: Opens) -> None:
    parts: list[bytes | float] = [chunk("a"), 0.05, *_WHOLE]
    script(server, Reply(parts=parts))
    stream = opens().stream(ask(timeout=2))
    texts = []
    for piece in stream:
        time.sleep(0.75)  # three times, and the server has all of the time-out for itself
        texts.append(piece.text)
    assert texts == ["a", "b", ""]


def test_the_time_of_the_server_does_after_that_too(server: Scripted, opens: Opens) -> None:
    script(server, Reply(parts=[chunk("a"), 30.0]))
    stream = opens().stream(ask(timeout=0.5))
    next(stream)
    time.sleep(1.2)
    began = time.monotonic()
    with pytest.raises(ServerTimeoutError, match="within 0.5 seconds; raise timeout"):
        next(stream)
    assert time.monotonic() - began < _SECONDS


def test_one_that_waits_for_a_place_is_bounded(server: Scripted, opens: Opens) -> None:
    gate = threading.Event()

    def parts() -> Iterator[bytes | float]:
        yield 0.05
        gate.wait(_SECONDS)
        yield from _WHOLE

    script(server, lambda _: Reply(parts=parts()))
    generator = opens(n_parallel=1)
    reader = threading.Thread(target=lambda: collect(generator.stream(ask())))
    reader.start()
    while not server.of(CHAT):
        time.sleep(0.01)
    with pytest.raises(ServerTimeoutError, match="finish the answer within 0.3 seconds"):
        generator.generate([ask(timeout=0.3)])
    gate.set()
    reader.join(_SECONDS)
    assert len(server.of(CHAT)) == 1


@pytest.mark.parametrize(
    "parts", [[30.0], [chunk("a"), 30.0]], ids=["before the first byte", "between two pieces"]
)
def test_another_thread_can_stop_it(server: Scripted, opens: Opens, parts: list[Any]) -> None:
    generator = opens()
    collect(generator.stream(ask()))
    script(server, Reply(parts=parts))
    assert stopped_after(0.3, generator.stream(ask())) < _SECONDS
    script(server, says("x"))
    assert generator.generate([ask()])[0].text == "x"


def test_it_can_be_stopped_before_the_answer_begins(server: Scripted, opens: Opens) -> None:
    script(server, lambda _: Reply(delay=30.0))
    assert stopped_after(0.3, opens().stream(ask())) < _SECONDS


def test_it_can_be_stopped_while_it_waits_for_another_attempt(
    server: Scripted, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_BACK_OFF", lambda _: 15.0)
    script(server, refusal("busy", 503))
    assert stopped_after(0.5, opens().stream(ask())) < _SECONDS
    assert len(server.of(CHAT)) == 1


def test_one_that_was_stopped_before_it_began_asks_nothing(server: Scripted, opens: Opens) -> None:
    stream = opens().stream(ask())
    assert isinstance(stream, Stoppable)
    stream.stop()
    with pytest.raises(RuntimeError, match="closed while a request was under way"):
        list(stream)
    assert server.of(CHAT) == []


def test_it_can_be_stopped_while_it_waits_for_a_place(server: Scripted, opens: Opens) -> None:
    script(server, Reply(parts=[0.05, 0.02] * 500))
    generator = opens(n_parallel=1)
    first = generator.stream(ask())

    def read() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            list(first)

    reader = threading.Thread(target=read)
    reader.start()
    while not server.of(CHAT):
        time.sleep(0.01)
    assert stopped_after(0.3, generator.stream(ask())) < _SECONDS
    assert isinstance(first, Stoppable)
    first.stop()
    reader.join(_SECONDS)
    assert not reader.is_alive()
    assert len(server.of(CHAT)) == 1


@pytest.mark.parametrize("parts", [[30.0], [chunk("a"), 30.0]], ids=["nothing yet", "a piece"])
def test_ctrl_c_ends_it_at_once(
    server: Scripted, opens: Opens, press_ctrl_c: Callable[[], None], parts: list[Any]
) -> None:
    script(server, Reply(parts=parts))
    generator = opens()

    def press() -> None:
        while not server.of(CHAT):
            time.sleep(0.01)
        time.sleep(0.2)  # for the first piece, where there is one
        press_ctrl_c()

    threading.Thread(target=press, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        generator.generate([ask()])
    assert time.monotonic() - began < _SECONDS
    script(server, says("x"))
    assert generator.generate([ask()])[0].text == "x"


def test_one_that_is_dropped_gives_its_place_back(server: Scripted, opens: Opens) -> None:
    script(server, Reply(parts=[chunk("a"), 0.02] * 500))
    generator = opens(n_parallel=1)
    stream = generator.stream(ask())
    next(stream)
    del stream
    gc.collect()
    assert server.left.wait(_SECONDS)
    script(server, says("x"))
    began = time.monotonic()
    assert generator.generate([ask()])[0].text == "x"
    assert time.monotonic() - began < _SECONDS


def test_one_that_fails_leaves_a_line_that_works(server: Scripted, opens: Opens) -> None:
    script(server, Reply(parts=[chunk("a")], cut=True), says("x"))
    generator = opens(max_retries=0)
    with pytest.raises(ServerError):
        generator.generate([ask()])
    assert generator.generate([ask()])[0].text == "x"


def test_a_closed_one_says_so(opens: Opens) -> None:
    generator = opens()
    generator.close()
    with pytest.raises(RuntimeError, match="the connection is closed"):
        generator.generate([ask()])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_connections_do_not_survive_a_fork(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = opens()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)  # what a child would see
        with pytest.raises(RuntimeError, match="do not survive a fork"):
            generator.generate([ask()])


def test_nothing_of_the_environment_is_sent(
    server: Scripted, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "not-for-you")
    seen: list[Asked] = []

    def look(asked: Asked) -> Reply:
        seen.append(asked)
        return says("x")

    script(server, look)
    opens(headers={"X-Key": "for-you"}).generate([ask()])
    assert seen[0].headers["x-key"] == "for-you"
    assert "not-for-you" not in str(seen[0].headers)
