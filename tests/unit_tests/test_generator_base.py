"""Requests refuse nonsense; answers are put together from their pieces."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from langchain_gpu.generators.base import (
    Completion,
    Delta,
    Deltas,
    Request,
    Timings,
    ToolCall,
    Usage,
)
from langchain_gpu.generators.parallel import generate_all, generate_all_async
from langchain_gpu.generators.pump import Stoppable
from langchain_gpu.generators.streams import Timer, collect

HELLO = [{"role": "user", "content": "hello"}]
LAST = Delta(finish_reason="stop", usage=Usage(3, 2), timings=Timings(0.1, 0.2, None))


def test_no_messages_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to answer"):
        Request(messages=[])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("timeout", 0.0),
        ("stop", ("",)),
    ],
)
def test_a_number_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name.replace("_", ".")):
        Request(messages=HELLO, **{name: value})  # type: ignore[arg-type]


def test_pieces_become_one_answer() -> None:
    pieces = [
        Delta(text="he", reasoning="hm"),
        Delta(text="llo", tool_calls=(ToolCall(1, "b", "g", "{}"), ToolCall(0, "a", "f", '{"x"'))),
        Delta(tool_calls=(ToolCall(0, None, None, ": 1}"),)),
        LAST,
    ]
    assert collect(pieces) == Completion(
        text="hello",
        reasoning="hm",
        tool_calls=(ToolCall(0, "a", "f", '{"x": 1}'), ToolCall(1, "b", "g", "{}")),
        finish_reason="stop",
        usage=Usage(3, 2),
        timings=Timings(0.1, 0.2, None),
    )


@pytest.mark.parametrize("pieces", [[], [Delta(text="half an ans")]])
def test_half_an_answer_is_no_answer(pieces: list[Delta]) -> None:
    with pytest.raises(RuntimeError, match="without saying why"):
        collect(pieces)


def test_timings_stand_on_the_last_piece_only() -> None:
    end = Delta(finish_reason="stop", usage=Usage(3, 2))
    pieces = [Delta(), Delta(text="a"), Delta(), Delta(text="b"), end]
    seen = list(filter(None, map(Timer(), pieces)))
    assert [delta.text for delta in seen] == ["a", "b", ""]
    assert [delta.timings is None for delta in seen] == [True, True, False]
    timings = seen[-1].timings
    assert timings is not None
    assert 0 <= timings.time_to_first_token <= timings.seconds


def requests(*texts: str) -> list[Request]:
    return [Request(messages=[{"role": "user", "content": text}]) for text in texts]


def test_many_chats_come_back_in_order() -> None:
    def echo(request: Request) -> Deltas:
        yield Delta(text=request.messages[0]["content"])
        yield LAST

    answers = generate_all(echo, requests("a", "b", "c"), width=2)
    assert [answer.text for answer in answers] == ["a", "b", "c"]
    assert generate_all(echo, [], width=2) == []


def test_a_failing_chat_stops_the_others_and_its_error_is_raised() -> None:
    endless_runs = threading.Event()

    def endless_or_broken(request: Request) -> Deltas:
        if request.messages[0]["content"] == "broken":
            endless_runs.wait()
            raise OSError("the engine is gone")
        while True:
            endless_runs.set()
            yield Delta(text="and ")

    with pytest.raises(OSError, match="the engine is gone"):
        generate_all(endless_or_broken, requests("endless", "broken"), width=2)


def test_an_interrupt_stops_all_chats(press_ctrl_c: Callable[[], None]) -> None:
    begun: list[str] = []
    closed: list[str] = []

    def endless(request: Request) -> Deltas:
        name = request.messages[0]["content"]
        begun.append(name)
        if name == "a":
            time.sleep(0.05)  # the main thread has begun to wait
            press_ctrl_c()
        try:
            while True:  # until it is closed: a busy machine may take a while to interrupt
                time.sleep(0.01)
                yield Delta(text="and ")
        finally:
            closed.append(name)

    with pytest.raises(KeyboardInterrupt) as caught:
        generate_all(endless, requests("a", "b", "c"), width=1)
    assert begun == closed == ["a"]
    assert caught.tb is not None  # as a notebook keeps it: what is closed is not merely dropped


class Silent:
    """Presses Ctrl-C when it begins, and brings nothing until it is stopped."""

    def __init__(self, press_ctrl_c: Callable[[], None]) -> None:
        self.press_ctrl_c = press_ctrl_c
        self.begun = False
        self.stopped = threading.Event()
        self.ended_by_itself = threading.Event()

    def __call__(
        self, put: Callable[[Delta], object], end: Callable[[BaseException | None], object]
    ) -> Callable[[], object]:
        def run() -> None:
            if not self.begun:
                self.begun = True
                time.sleep(0.05)  # the main thread has begun to wait
                self.press_ctrl_c()
            if not self.stopped.wait(30):
                self.ended_by_itself.set()
            put(LAST)
            end(None)

        threading.Thread(target=run, daemon=True).start()
        return self.stopped.set


def test_an_interrupt_stops_what_says_nothing(press_ctrl_c: Callable[[], None]) -> None:
    silent = Silent(press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        generate_all(lambda _: Stoppable(silent), requests("a", "b"), width=1)
    assert silent.stopped.is_set()
    assert not silent.ended_by_itself.is_set()


async def test_all_chats_are_answered_in_order_and_told_without_blocking() -> None:
    def echo(request: Request) -> Deltas:
        yield Delta(text=request.messages[0]["content"])
        yield LAST

    told: list[str] = []

    async def tell(delta: Delta) -> None:
        told.append(delta.text)

    answers = await generate_all_async(echo, requests("a", "b", "c"), width=2, tell=tell)
    assert [answer.text for answer in answers] == ["a", "b", "c"]
    assert sorted(told) == ["", "", "", "a", "b", "c"]
    assert await generate_all_async(echo, [], width=2) == []


async def test_a_failing_chat_and_a_canceled_task_stop_the_others() -> None:
    closed = threading.Semaphore(0)
    endless_runs = threading.Event()

    def endless_or_broken(request: Request) -> Deltas:
        if request.messages[0]["content"] == "broken":
            endless_runs.wait()
            raise OSError("the engine is gone")
        try:
            while True:
                endless_runs.set()
                yield Delta(text="and ")
        finally:
            closed.release()

    with pytest.raises(OSError, match="the engine is gone"):
        await generate_all_async(endless_or_broken, requests("endless", "broken"), width=2)
    assert await asyncio.to_thread(closed.acquire, timeout=10)

    endless_runs.clear()
    task = asyncio.create_task(generate_all_async(endless_or_broken, requests("endless"), width=1))
    await asyncio.to_thread(endless_runs.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(closed.acquire, timeout=10)
