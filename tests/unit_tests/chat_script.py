"""Answers in OpenAI's streamed form, for the scripted server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from langchain_gpu.generators.base import Request
from langchain_gpu.generators.openai import OpenAIGenerator
from langchain_gpu.generators.registry import Options
from langchain_gpu.servers import openai
from langchain_gpu.servers.server import Server
from tests.unit_tests.scripted_server import Asked, Reply, Script, Scripted, models, serving

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


def event(data: Any) -> bytes:
    """One event of the stream."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def chunk(text: str | None = None, *, finish: str | None = None, **delta: Any) -> bytes:
    """A chunk with the next text, or with other fields of a delta."""
    if text is not None:
        delta["content"] = text
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"id": "1", "model": "served-m", "choices": [choice]})


def usage(**counts: Any) -> bytes:
    """The chunk that says how many tokens there were."""
    return event({"id": "1", "model": "served-m", "choices": [], "usage": counts or USAGE})


DONE = event(b"[DONE]")


def says(*texts: str, finish: str = "stop") -> Reply:
    """A whole answer, as vLLM streams it."""
    parts = [chunk("", role="assistant"), *map(chunk, texts), chunk(finish=finish), usage(), DONE]
    return Reply(parts=parts)


def chat(script: Script) -> Script:
    """A whole server with the model `m`, whose answers to chats the script gives."""

    def whole(asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return models("m", max_model_len=256)
        if asked.path == CHAT:
            return script(asked)
        return Reply(status=404, body={"detail": "Not Found"})

    return whole


@contextmanager
def chatting(monkeypatch: pytest.MonkeyPatch, script: Script) -> Iterator[Scripted]:
    """Run a server to which every address leads, for the official client too."""
    with serving(monkeypatch, chat(script)) as server:
        place = str(server.path)
        monkeypatch.setattr(openai, "new_transport", lambda: httpx2.AsyncHTTPTransport(uds=place))
        monkeypatch.setattr(
            openai, "new_blocking_transport", lambda: httpx2.HTTPTransport(uds=place)
        )
        yield server


Opens = Callable[..., OpenAIGenerator]


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A server that says hello; a file calls it `server`."""
    with chatting(monkeypatch, lambda _: says("Hel", "lo")) as running:
        yield running


@pytest.fixture
def opening(server: Scripted) -> Iterator[Opens]:
    """Open generators that ask the server; they are closed at the end."""
    opened: list[OpenAIGenerator] = []

    def open_it(
        model: str = "m", url: str = "http://far.example", **settings: Any
    ) -> OpenAIGenerator:
        names = ("n_ctx", "n_parallel", "load", "device", "dtype", "keep_alive")
        options = {name: settings.pop(name) for name in names if name in settings}
        place = Server(url=url, **{"timeout": 20.0, **settings})
        opened.append(OpenAIGenerator(model, Options(server=place, **options)))
        return opened[-1]

    yield open_it
    for generator in opened:
        generator.close()


def ask(text: str = "hi", **settings: Any) -> Request:
    return Request(messages=[{"role": "user", "content": text}], **settings)


def script(server: Scripted, *replies: Reply | Callable[[Asked], Reply]) -> None:
    """Answer chats by these in turn, the last one forever."""
    waiting = list(replies)
    lock = threading.Lock()

    def answer(asked: Asked) -> Reply:
        with lock:
            reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return reply if isinstance(reply, Reply) else reply(asked)

    server.script = chat(answer)


def refusal(message: str, status: int = 400, **headers: str) -> Reply:
    return Reply(status=status, body={"error": {"message": message}}, headers=headers)
