"""An Ollama by script: it has models, loads and unloads them, and streams what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.unit_tests.scripted_server import Asked, Reply, Scripted, serving

Lines = Iterable[bytes | float]


def line(text: str = "", **more: Any) -> bytes:
    """One line of an answer."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    return json.dumps({"model": "m", "message": message, "done": False, **more}).encode() + b"\n"


def done(**more: Any) -> bytes:
    """The last line."""
    counts = {"prompt_eval_count": 11, "eval_count": 3, "load_duration": 1000}
    return line("", **{"done": True, "done_reason": "stop", **counts, **more})


def text_line(text: str = "", **more: Any) -> bytes:
    """One line of what goes on from a plain prompt; with `done=True` the last one."""
    counts = {"done_reason": "stop", "prompt_eval_count": 11, "eval_count": 3}
    end = counts if more.get("done") else {}
    return json.dumps({"model": "m", "response": text, "done": False, **end, **more}).encode() + (
        b"\n"
    )


def call(name: str, **arguments: Any) -> bytes:
    """A line with a tool call as Ollama sends it."""
    return line(message={"tool_calls": [{"function": {"name": name, "arguments": arguments}}]})


def hello(body: Any) -> Reply:
    return Reply(parts=[line("Hel"), line("lo."), done()])


def paris(body: Any) -> Reply:
    return Reply(parts=[text_line(" Pa"), text_line("ris"), text_line(done=True)])


@dataclass
class FakeOllama:
    """Answers every request as Ollama does.

    Attributes:
        chat: Answers a chat that is not only about loading.
        plain: Answers a plain prompt.
        models: Names it has.
        loaded: What is in its memory.
        size: Bytes of a loaded model.
        on_gpu: Of these, on a GPU.
        window: What it says of the window; an old one says nothing.
        longest: Window the model was made for.
        capabilities: What it says the model can do.
        parameters: Lines of the Modelfile.
        pulls: Models it can fetch.
    """

    chat: Callable[[Any], Reply] = hello
    plain: Callable[[Any], Reply] = paris
    models: list[str] = field(default_factory=lambda: ["m:latest"])
    loaded: set[str] = field(default_factory=set)
    size: int = 1000
    on_gpu: int = 0
    window: int | None = 4096
    longest: int = 8192
    capabilities: list[str] = field(default_factory=lambda: ["completion", "tools"])
    parameters: str = ""
    pulls: Callable[[], Reply] | None = None

    def __call__(self, asked: Asked) -> Reply:
        name = _full((asked.body or {}).get("model", "m"))
        if asked.path == "/api/pull" and self.pulls is not None:
            self.models.append(name)
            return self.pulls()
        if asked.path == "/api/tags":
            return Reply({"models": [{"name": each, "model": each} for each in self.models]})
        if asked.path == "/api/ps":
            return Reply({"models": [self._row(each) for each in sorted(self.loaded)]})
        if name not in self.models:
            return Reply(status=404, body={"error": f"model '{name}' not found"})
        return self._show() if asked.path == "/api/show" else self._run(name, asked.body)

    def _show(self) -> Reply:
        info = {
            "general.architecture": "llama",
            "llama.context_length": self.longest,
            "llama.block_count": 3,
        }
        more = {"capabilities": self.capabilities, "parameters": self.parameters}
        return Reply({"model_info": info, **more})

    def _run(self, name: str, body: Any) -> Reply:
        """A chat, or a load or unload, which are chats without messages."""
        if body.get("messages") or body.get("prompt"):
            self.loaded.add(name)
            return self.chat(body) if "messages" in body else self.plain(body)
        gone = body.get("keep_alive") == 0
        (self.loaded.discard if gone else self.loaded.add)(name)
        reason = "unload" if gone else "load"
        return Reply({"model": name, "message": {}, "done": True, "done_reason": reason})

    def _row(self, name: str) -> dict[str, Any]:
        row = {"name": name, "model": name, "size": self.size, "size_vram": self.on_gpu}
        return row if self.window is None else row | {"context_length": self.window}


@pytest.fixture
def an_ollama() -> FakeOllama:
    """One that says hello; a file calls it `fake`."""
    return FakeOllama()


@pytest.fixture
def ollama_server(monkeypatch: pytest.MonkeyPatch, fake: FakeOllama) -> Iterator[Scripted]:
    """Where the `fake` answers; a file calls it `server`."""
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    with serving(monkeypatch, fake) as running:
        yield running


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"
