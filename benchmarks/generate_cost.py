"""What `ChatGPU` itself costs between a caller and llama.cpp: CPU time, threads and requests.

The engine's chunks are heard once and then replayed at a steady pace, so that whatever CPU time is
left is that of the classes around it. CPU time says something on a busy machine too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.outputs.chat_result import ChatResult

from langchain_gpu import ChatGPU
from langchain_gpu.llama.server import LlamaServer

_QUESTION = "What is special about number 7?"
_PACE = 0.001  # seconds between two chunks: whoever waits for them falls asleep, as it really does
_STEADY = 100  # chunks of a long answer

Push = Callable[[Callable[[Mapping[str, Any]], bool]], None]


class Replay:
    """Stands in for the binding, and says what it was heard to say.

    Args:
        server: Asked once for an answer of two tokens.

    Attributes:
        chunks: Pieces of text of an answer.
    """

    def __init__(self, server: LlamaServer) -> None:
        heard: list[dict[str, Any]] = []
        body = {
            "messages": [{"role": "user", "content": _QUESTION}],
            "max_tokens": 2,
            "temperature": 0,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }

        def hear(chunk: dict[str, Any]) -> bool:
            heard.append(chunk)
            return False

        server.chat(body, hear)
        texts = [place for place, chunk in enumerate(heard) if _text(chunk)]
        self._before, self._text = heard[: texts[0]], heard[texts[0]]
        self._after = heard[texts[-1] + 1 :]
        self.chunks = 1

    def handle_chat_completions(
        self, _: Mapping[str, Any], hear: Callable[[Mapping[str, Any]], bool]
    ) -> None:
        """Answer as the binding does."""
        for chunk in self._before:
            hear(chunk)
        for _each in range(self.chunks):
            time.sleep(_PACE)
            if hear(self._text):
                return
        for chunk in self._after:
            hear(chunk)


class _Plain(BaseChatModel):
    """LangChain's base class over the same pieces, with no engine below: what nobody can save."""

    chunks: int = 1

    @property
    def _llm_type(self) -> str:
        return "plain"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        for _each in range(self.chunks):
            time.sleep(_PACE)
            yield ChatGenerationChunk(message=AIMessageChunk(content="a"))
        last = AIMessageChunk(content="", chunk_position="last")
        yield ChatGenerationChunk(message=last)

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for each in self._stream():
            yield each


def measure(chat: ChatGPU, *, rounds: int = 15) -> dict[str, Any]:
    """Return what a stream of `chat`, on llama.cpp, costs beside the engine.

    Returns:
        `rows` with microseconds of CPU until the first piece, and for each further one; `threads`
        that one stream starts and `requests` it sends to the engine beside the chat.
    """
    with chat._hold() as generator:  # noqa: SLF001 - the engine under the class
        server: LlamaServer = generator._open  # type: ignore[attr-defined]  # noqa: SLF001
    list(chat.stream(_QUESTION, max_tokens=1))  # what is asked only once is asked now
    with counted(server) as counts:
        list(chat.stream(_QUESTION, max_tokens=2, ignore_eos=True))
    native, replay, plain = server._native, Replay(server), _Plain()  # noqa: SLF001
    server._native = replay  # noqa: SLF001
    try:
        with asyncio.Runner() as runner:
            rows = _rows(chat, replay, plain, runner, rounds)
    finally:
        server._native = native  # noqa: SLF001
    return {"pace_ms": _PACE * 1000, "rounds": rounds, "rows": rows, **counts}


@contextmanager
def counted(server: LlamaServer) -> Iterator[dict[str, int]]:
    """Count the threads that are started and the requests to the engine's socket until the end."""
    counts = {"threads": 0, "requests": 0}
    start, ask = threading.Thread.start, server._ask  # noqa: SLF001

    def starting(thread: threading.Thread) -> None:
        counts["threads"] += 1
        start(thread)

    def asking(*given: Any) -> dict[str, Any]:
        counts["requests"] += 1
        return ask(*given)

    threading.Thread.start = starting  # type: ignore[assignment, method-assign]
    server._ask = asking  # type: ignore[assignment, method-assign]  # noqa: SLF001
    try:
        yield counts
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        del server._ask  # noqa: SLF001 - the class has its own


class _Clock:
    """CPU seconds until the first piece of text, and until now."""

    def __init__(self) -> None:
        self._began = time.process_time()
        self._first: float | None = None

    def hear(self, text: object) -> bool:
        if text and self._first is None:
            self._first = time.process_time() - self._began
        return False

    def stop(self) -> tuple[float, float]:
        spent = time.process_time() - self._began
        if self._first is None:
            raise RuntimeError("an answer had no text")
        return self._first, spent


def _bare(replay: Replay) -> tuple[float, float]:
    clock = _Clock()
    replay.handle_chat_completions({}, lambda chunk: clock.hear(_text(chunk)))
    return clock.stop()


def _pulled(model: BaseChatModel) -> tuple[float, float]:
    clock = _Clock()
    for piece in model.stream(_QUESTION):
        clock.hear(piece.content)
    return clock.stop()


async def _awaited(model: BaseChatModel) -> tuple[float, float]:
    clock = _Clock()
    async for piece in model.astream(_QUESTION):
        clock.hear(piece.content)
    return clock.stop()


def _rows(
    chat: ChatGPU, replay: Replay, plain: _Plain, runner: asyncio.Runner, rounds: int
) -> list[dict[str, Any]]:
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "engine": lambda: _bare(replay),
        "LangChain's base class, stream": lambda: _pulled(plain),
        "LangChain's base class, astream": lambda: runner.run(_awaited(plain)),
        "ChatGPU.stream": lambda: _pulled(chat),
        "ChatGPU.astream": lambda: runner.run(_awaited(chat)),
    }
    firsts: dict[str, list[float]] = {name: [] for name in ways}
    each: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first warms up
        for name, way in ways.items():
            replay.chunks = plain.chunks = 1
            first, short = way()
            replay.chunks = plain.chunks = 1 + _STEADY
            _, long = way()
            if turn:
                firsts[name].append(first)
                each[name].append((long - short) / _STEADY)
    begin, step = median(firsts.pop("engine")), median(each.pop("engine"))
    return [
        {
            "name": name,
            "first_us": round((median(firsts[name]) - begin) * 1e6),
            "chunk_us": round((median(each[name]) - step) * 1e6, 1),
        }
        for name in firsts
    ]


def _text(chunk: Mapping[str, Any]) -> str:
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


__all__ = ["Replay", "counted", "measure"]
