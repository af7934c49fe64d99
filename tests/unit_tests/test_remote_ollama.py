"""Embedders behind Ollama, and finding out that it is Ollama."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from langchain_gpu.engine import backends
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import Embedder, load
from langchain_gpu.engine.tasks.embed import EmbedOptions, TextTooLongError
from langchain_gpu.events import TruncationWarning
from langchain_gpu.servers import http
from langchain_gpu.servers.address import is_loopback, ollama_url
from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from langchain_gpu.servers.server import Server
from tests.unit_tests.scripted_server import (
    Asked,
    Reply,
    Scripted,
    ollama,
    openai,
    serving,
    vectors_of,
)

TEXTS = [f"text {number} " + "word " * (number * 7 % 40) for number in range(50)]
LONG = "word " * 600
Loads = Callable[..., Embedder]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with serving(monkeypatch, ollama) as running:
        yield running


@pytest.fixture
def loads(server: Scripted) -> Iterator[Loads]:
    opened: list[Embedder] = []

    def load_it(backend: str = "ollama", model: str = "m", **settings: Any) -> Embedder:
        options = settings.pop("options", {})
        url = settings.pop("url", "http://far.example:11434")
        config = EmbedderConfig(
            model=model, backend=backend, options=options, server=Server(url=url, **settings)
        )
        opened.append(load(config))
        return opened[-1]

    yield load_it
    for embedder in opened:
        embedder.close()


def run(embedder: Embedder, texts: list[str], on_long: Any = "truncate") -> Any:
    return embedder.engine.run(texts, EmbedOptions(on_long=on_long)).vectors


def test_vectors_in_order(server: Scripted, loads: Loads) -> None:
    embedder = loads(batch_size=6, concurrency=3)
    assert np.array_equal(run(embedder, TEXTS), vectors_of(TEXTS))
    assert embedder.encoder.window == 512
    assert embedder.reason == "ollama: asked for"
    assert max(len(body["input"]) for body in server.of("/api/embed")) == 6


def test_fields_of_its_request(server: Scripted, loads: Loads) -> None:
    run(loads(options={"options": {"num_thread": 1}, "keep_alive": "10m"}), ["a"])
    assert server.of("/api/embed")[-1] == {
        "model": "m",
        "input": ["a"],
        "truncate": False,
        "options": {"num_thread": 1},
        "keep_alive": "10m",
    }
    with pytest.raises(ValueError, match="the option 'truncate' is set by the encoder"):
        loads(options={"truncate": True})


def test_a_model_that_is_not_pulled(loads: Loads) -> None:
    with pytest.raises(RefusedError, match="no model 'nope'; fetch it with: ollama pull nope"):
        loads(model="nope")


def test_an_address_that_ends_as_others_do(loads: Loads) -> None:
    with pytest.raises(RefusedError, match="leave out /v1 .*404 page not found") as caught:
        loads(url="http://far.example:11434/v1")
    assert "pull" not in str(caught.value)


def test_a_model_that_vanishes(server: Scripted, loads: Loads) -> None:
    embedder = loads()
    server.script = lambda _: Reply(status=404, body={"error": 'model "m" not found'})
    with pytest.raises(RefusedError, match="ollama pull m"):
        run(embedder, TEXTS)


def test_no_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_BACK_OFF", lambda _: 0.0)
    monkeypatch.setattr(http, "new_transport", lambda: httpx.AsyncHTTPTransport(uds="/nowhere"))
    with pytest.raises(ServerUnreachableError, match="Is Ollama running. Start it: ollama serve"):
        load(EmbedderConfig(model="m", backend="ollama"))


class TestLongTexts:
    @pytest.fixture(autouse=True)
    def refuse_long(self, server: Scripted) -> None:
        def script(asked: Asked) -> Reply:
            if (
                asked.path == "/api/embed"
                and not asked.body["truncate"]
                and LONG in asked.body["input"]
            ):
                return Reply(
                    status=400, body={"error": "input length exceeds maximum context length"}
                )
            return ollama(asked)

        server.script = script

    def test_are_cut_and_that_is_told(self, server: Scripted, loads: Loads) -> None:
        embedder = loads()
        with pytest.warns(TruncationWarning, match="were cut by far.example:11434"):
            vectors = run(embedder, [*TEXTS, LONG])
        assert np.array_equal(vectors, vectors_of([*TEXTS, LONG]))

    def test_are_refused_by_name(self, loads: Loads) -> None:
        with pytest.raises(TextTooLongError, match="text 50 was refused"):
            run(loads(), [*TEXTS, LONG], on_long="error")


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ({"embeddings": [[1, 2, 3]]}, "1 vectors for 2 texts"),
        ({"embeddings": [[1, 2, 3], [1, 2]]}, "cannot be read"),
        ({"embeddings": [[1, 2, 3], []]}, "cannot be read"),
        ({"embeddings": [[1, 2, 3], None]}, "cannot be read"),
        ({"embeddings": [[1, 2, 3], [1, 2, "three"]]}, "cannot be read"),
        ({"embeddings": [[1, 2, 3], [1, 2, float("nan")]]}, "NaN or infinity for text 1"),
        ({"embeddings": [[1], [2]]}, "shape"),
        ({"embeddings": None}, "did not return a list of vectors"),
        ([], "did not return a list of vectors"),
    ],
)
def test_wrong_answers(server: Scripted, loads: Loads, answer: Any, match: str) -> None:
    embedder = loads()
    server.script = lambda _: Reply(answer)
    with pytest.raises(BadAnswerError, match=match):
        run(embedder, ["longer", "b"])


def test_what_it_does_not_do(loads: Loads) -> None:
    encoder = loads().encoder
    with pytest.raises(ValueError, match="takes texts only, not token ids"):
        encoder.from_ids([[1, 2]])
    with pytest.raises(ValueError, match="does not count tokens"):
        encoder.count_tokens(["a"])


class TestAuto:
    """With an address and no back end, the server is asked who it is."""

    def test_ollama(self, loads: Loads) -> None:
        embedder = loads(backend="auto")
        assert embedder.reason == "ollama: far.example:11434 is Ollama 0.9.3"
        assert np.array_equal(run(embedder, TEXTS), vectors_of(TEXTS))

    def test_openai(self, server: Scripted, loads: Loads) -> None:
        server.script = openai
        embedder = loads(backend="auto")
        assert embedder.reason == "openai: far.example:11434 does not answer as Ollama does (404)"
        assert np.array_equal(run(embedder, TEXTS), vectors_of(TEXTS))

    @pytest.mark.parametrize("version", [{"version": 3}, {"release": "1"}, ["0.9.3"]])
    def test_another_server_with_such_a_place(
        self, server: Scripted, loads: Loads, version: Any
    ) -> None:
        server.script = lambda asked: (
            Reply(version) if asked.path == "/api/version" else openai(asked)
        )
        assert loads(backend="auto").reason.startswith("openai: ")

    def test_v1_in_the_address(self, server: Scripted, loads: Loads) -> None:
        server.script = openai
        assert loads(backend="auto", url="http://far.example/v1").reason.startswith("openai: the")
        assert not server.of("/api/version")

    def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http, "_BACK_OFF", lambda _: 0.0)
        monkeypatch.setattr(http, "new_transport", lambda: httpx.AsyncHTTPTransport(uds="/nowhere"))
        config = EmbedderConfig(model="m", server=Server(url="http://far.example"))
        with pytest.raises(ServerUnreachableError, match="far.example cannot be reached"):
            load(config)

    @pytest.mark.parametrize("backend", ["auto", "openai"])
    def test_one_that_says_nothing_is_given_up_soon(
        self, server: Scripted, loads: Loads, monkeypatch: pytest.MonkeyPatch, backend: str
    ) -> None:
        """A question that has its answer at hand has one bound for all attempts."""
        monkeypatch.setattr(http, "ASK_SECONDS", 0.3)
        server.script = lambda _: Reply(delay=60)
        with pytest.raises(ServerTimeoutError, match="within 0.3 seconds; check whether"):
            loads(backend, timeout=3)
        assert server.heard(1) == 1

    @pytest.mark.parametrize("backend", ["auto", "openai", "ollama"])
    @pytest.mark.parametrize("module", ["httpx", "tenacity"])
    def test_without_the_extra(
        self, monkeypatch: pytest.MonkeyPatch, backend: str, module: str
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, module, None)
        config = EmbedderConfig(model="m", backend=backend, server=Server(url="http://x"))
        with pytest.raises(ImportError, match=r'pip install "langchain-gpu\[remote\]"'):
            load(config)

    def test_which_are_remote(self) -> None:
        def remote(**settings: Any) -> bool:
            return backends.is_remote(EmbedderConfig(model="m", **settings))

        assert remote(backend="ollama")
        assert remote(backend="openai")
        assert remote(server=Server(url="http://x"))
        assert not remote()
        assert not remote(backend="torch", server=Server(url="http://x"))


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104
        (":1234", "http://127.0.0.1:1234"),
        ("box", "http://box:11434"),
        ("box:80", "http://box:80"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:8443/", "https://box:8443"),
        ("https://box/ollama", "https://box:443/ollama"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:99", "http://[::1]:99"),
        (' "box:80" ', "http://box:80"),
    ],
)
def test_ollama_host(value: str, url: str) -> None:
    """The examples are those of Ollama's own envconfig."""
    assert ollama_url({"OLLAMA_HOST": value}) == url


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:1", True),
        ("http://127.3.2.1", True),
        ("http://[::1]:80", True),
        ("http://a.localhost", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
    ],
)
def test_loopback(url: str, *, here: bool) -> None:
    assert is_loopback(url) is here
