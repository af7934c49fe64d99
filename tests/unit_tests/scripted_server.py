"""An HTTP server that answers by script, on a Unix socket: unit tests have no network."""

from __future__ import annotations

import asyncio
import base64
import json
import socketserver
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from httpx import AsyncHTTPTransport, HTTPTransport

from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.servers import http
from langchain_gpu.servers import ollama as ollama_client
from langchain_gpu.servers import openai as openai_client

DIMENSION = 3


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    path: str
    body: Any
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """What goes back.

    Attributes:
        body: Bytes as they are, anything else as JSON.
        status: HTTP status.
        headers: More headers.
        delay: Seconds to wait first; a closing server does not wait.
        cut: Send half of the body, then drop the connection.
        parts: Sent instead of the body, as they come: bytes at once, numbers are seconds to wait.
            With `cut` the connection is dropped after them.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    parts: Iterable[bytes | float] | None = None


class Endless:
    """Parts of an answer that never ends.

    Attributes:
        begun: Set when the first is on its way.
    """

    def __init__(self, first: bytes, more: bytes) -> None:
        self.first = first
        self.more = more
        self.begun = threading.Event()

    def __iter__(self) -> Iterator[bytes | float]:
        yield self.first
        self.begun.set()
        yield from [self.more, 0.02] * 2000


Script = Callable[[Asked], Reply]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


class Scripted:
    """The server: what it was asked, and how to have it answer.

    Attributes:
        script: Called for every request; tests replace it.
        asked: Every request so far.
        busiest: Most requests it had at the same time.
        left: Set when a client went away before everything was sent.
    """

    def __init__(self, folder: Path) -> None:
        self.script: Script = lambda _: Reply(status=404, body={"error": "not found"})
        self.asked: list[Asked] = []
        self.busiest = 0
        self.path = folder / "s"
        self.closing = threading.Event()
        self.left = threading.Event()
        self._lock = threading.Lock()
        self._now = 0
        self._server = _Server(str(self.path), self._handler())

    def of(self, path: str) -> list[Any]:
        """Bodies of the requests for `path`."""
        return [asked.body for asked in self.asked if asked.path == path]

    def heard(self, count: int, path: str | None = None) -> int:
        """Return how many requests it has had, once there are `count`.

        One that its client has given up may be read later than that.
        """
        until = time.monotonic() + 10
        while time.monotonic() < until:
            asked = [each for each in self.asked if path in (None, each.path)]
            if len(asked) >= count:
                break
            time.sleep(0.01)
        return len(asked)

    @contextmanager
    def running(self) -> Iterator[Scripted]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join(5)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                raw = self.rfile.read(length)
                asked = Asked(
                    self.path,
                    json.loads(raw) if raw else None,
                    {name.lower(): value for name, value in self.headers.items()},
                )
                with outer._lock:
                    outer.asked.append(asked)
                    outer._now += 1
                    outer.busiest = max(outer.busiest, outer._now)
                try:
                    reply = outer.script(asked)
                    outer.closing.wait(reply.delay) if reply.delay > 1 else time.sleep(reply.delay)
                finally:
                    with outer._lock:
                        outer._now -= 1
                if reply.parts is not None:
                    self.send_response(reply.status)
                    whole = _send_parts(self, reply, outer.closing)
                    self.close_connection = reply.cut or not whole
                    if not whole:
                        outer.left.set()
                    return
                body = reply.body
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(reply.status)
                self.send_header("Content-Length", str(len(data)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if reply.cut else data)
                self.close_connection = reply.cut

            do_GET = do_POST = answer  # noqa: N815 - the base class's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler


def _send_parts(handler: BaseHTTPRequestHandler, reply: Reply, closing: threading.Event) -> bool:
    """Send in pieces; False when the client went away."""
    headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    for name, value in {**headers, **reply.headers}.items():
        handler.send_header(name, value)
    try:
        handler.end_headers()  # writes them: whoever leaves early may be gone by now
        for part in reply.parts or ():
            if isinstance(part, bytes):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            else:
                closing.wait(part)
        if not reply.cut:
            handler.wfile.write(b"0\r\n\r\n")
    except OSError:
        return False
    return True


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, script: Script | None = None) -> Iterator[Scripted]:
    """Run a server to which every address leads. Nothing waits between attempts."""
    with TemporaryDirectory() as folder:  # a short path: sockets want that
        server = Scripted(Path(folder))
        if script is not None:
            server.script = script
        place = str(server.path)
        monkeypatch.setattr(http, "new_transport", lambda: AsyncHTTPTransport(uds=place))
        monkeypatch.setattr(http, "new_blocking_transport", lambda: HTTPTransport(uds=place))
        monkeypatch.setattr(http, "_BACK_OFF", lambda _: 0.0)
        with server.running():
            yield server


@pytest.fixture(params=["by the reader", "on the loop"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have answers asked for by the thread that reads them, and by the client's loop."""
    if request.param == "on the loop":
        for module in (openai_client, ollama_client):
            monkeypatch.setattr(module, "ConnectionPool", lambda _: None)


async def cancel(
    call: Coroutine[Any, Any, object], begun: threading.Event, left: threading.Event
) -> None:
    """Cancel a call that has begun, and see that the server hears of it."""
    task = asyncio.create_task(call)
    assert await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(left.wait, 10)


def vector_of(text: Any) -> list[float]:
    """What the scripted models compute: one that tells texts apart."""
    data = json.dumps(text).encode()
    return [float(len(data)), float(sum(data)), float(data[len(data) // 2])]


def vectors_of(texts: list[Any]) -> Vectors:
    return np.array([vector_of(text) for text in texts], np.float32)


def embeddings(body: Any, rows: list[Any] | None = None) -> Reply:
    """Answer in OpenAI's form."""
    rows = vectors_of(body["input"]).tolist() if rows is None else rows
    if body.get("encoding_format") == "base64":
        rows = [base64.b64encode(np.array(row, "<f4").tobytes()).decode() for row in rows]
    data = [{"index": place, "embedding": row} for place, row in enumerate(rows)]
    return Reply({"object": "list", "data": data, "model": body["model"]})


def models(*names: str, **more: Any) -> Reply:
    """Answer with a list of models, as vLLM does."""
    return Reply({"data": [{"id": name, "owned_by": "vllm"} | more for name in names]})


def openai(asked: Asked) -> Reply:
    """A whole server with the model `m`."""
    if asked.path == "/v1/models":
        return models("m", max_model_len=256)
    if asked.path == "/v1/embeddings":
        return embeddings(asked.body)
    return Reply(status=404, body={"detail": "Not Found"})


def ollama(asked: Asked) -> Reply:
    """A whole Ollama with the model `m`."""
    if asked.path == "/api/version":
        return Reply({"version": "0.9.3"})
    if asked.body is not None and asked.body.get("model") != "m":
        name = asked.body.get("model")
        return Reply(status=404, body={"error": f'model "{name}" not found, try pulling it first'})
    if asked.path == "/api/show":
        return Reply({"model_info": {"general.architecture": "bert", "bert.context_length": 512}})
    if asked.path == "/api/embed":
        return Reply({"model": "m", "embeddings": vectors_of(asked.body["input"]).tolist()})
    return Reply(status=404, body=b"404 page not found")
