"""Embedders on a server of the tests that speaks OpenAI's form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import Embedder, load
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.servers.server import Server
from tests.unit_tests.scripted_server import (
    Asked,
    Reply,
    Scripted,
    openai,
    serving,
)

PLAIN = EmbedOptions()
TEXTS = [f"text {number} " + "word " * (number * 7 % 40) for number in range(100)]
Loads = Callable[..., Embedder]


@pytest.fixture
def openai_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """One that embeds; a file calls it `server`."""
    with serving(monkeypatch, openai) as running:
        yield running


@pytest.fixture
def openai_embedders(server: Scripted) -> Iterator[Loads]:
    """Load embedders on the `server`, closed at the end; a file calls it `loads`."""
    opened: list[Embedder] = []

    def load_it(**settings: Any) -> Embedder:
        url = settings.pop("url", "http://far.example")
        model = settings.pop("model", "m")
        more = {
            name: settings.pop(name) for name in ("dtype", "device", "options") if name in settings
        }
        config = EmbedderConfig(
            model=model, backend="openai", server=Server(url=url, **settings), **more
        )
        opened.append(load(config))
        return opened[-1]

    yield load_it
    for embedder in opened:
        embedder.close()


def run(embedder: Embedder, texts: list[str], options: EmbedOptions = PLAIN) -> Any:
    return embedder.engine.run(texts, options).vectors


def instead(server: Scripted, answer: Callable[[Any], Reply | None]) -> None:
    """Answer batches in another way: what the callable returns None for is answered as usual."""

    def script(asked: Asked) -> Reply:
        if asked.path == "/v1/embeddings" and asked.body["input"] != ["dimension"]:
            return answer(asked.body) or openai(asked)
        return openai(asked)

    server.script = script


def refusal(message: str, status: int = 400) -> Reply:
    return Reply(status=status, body={"error": {"message": message, "code": status}})
