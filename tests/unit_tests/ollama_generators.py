"""Generators and chats on an Ollama of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_gpu import ChatGPU
from langchain_gpu.generators.base import Request
from langchain_gpu.generators.ollama import OllamaGenerator
from langchain_gpu.generators.registry import Options
from langchain_gpu.servers.server import Server
from tests.unit_tests.scripted_ollama import FakeOllama
from tests.unit_tests.scripted_server import Reply, Scripted

URL = "http://ollama.test"
SECRET = "sk-do-not-show-this"  # noqa: S105  no secret: tests look for it


@pytest.fixture
def ollama_generators(server: Scripted) -> Iterator[Callable[..., OllamaGenerator]]:
    """Make generators on the `server`, closed at the end; a file calls it `make`."""
    made: list[OllamaGenerator] = []

    def build(*, max_retries: int = 2, timeout: float = 10, **options: Any) -> OllamaGenerator:
        where = Server(url=URL, max_retries=max_retries, timeout=timeout, api_key=SECRET)
        made.append(OllamaGenerator("m", Options(server=where, **options)))
        return made[-1]

    yield build
    for each in made:
        each.close()


def ask(**settings: Any) -> Request:
    return Request(messages=[{"role": "user", "content": "Hi."}], **settings)


def chat(**settings: Any) -> ChatGPU:
    return ChatGPU(**{"model": "m", "backend": "ollama", "base_url": URL, **settings})


def sent(server: Scripted) -> Any:
    """The last chat that was asked for."""
    return [body for body in server.of("/api/chat") if body["messages"]][-1]


def script(fake: FakeOllama, *parts: bytes | float, **reply: Any) -> None:
    fake.chat = lambda _: Reply(parts=parts, **reply)
