"""JSON over HTTP: what is asked again, what is not, and what no message ever shows."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from langchain_gpu.servers import http
from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
    ServerError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from langchain_gpu.servers.http import JsonClient
from langchain_gpu.servers.server import Server
from tests.unit_tests.scripted_server import Asked, Reply, Script, Scripted, serving

URL = "http://far.example:8000"
KEY = "sk-never-to-be-seen"
SECRET = "header-secret-42"  # noqa: S105 - it is none


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with serving(monkeypatch) as running:
        yield running


@pytest.fixture
def clients() -> Iterator[list[JsonClient]]:
    opened: list[JsonClient] = []
    yield opened
    for client in opened:
        client.close()


def ask(clients: list[JsonClient], **settings: Any) -> Any:
    client = JsonClient(URL, Server(url=URL, **settings))
    clients.append(client)
    return client.run(client.post(f"{URL}/x", {"a": 1}))


def in_turn(*replies: Reply) -> Script:
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


OK = Reply({"fine": True})


@pytest.mark.parametrize(
    "trouble",
    [
        *(Reply(status=status) for status in (408, 409, 425, 429, 500, 502, 503, 504)),
        Reply({"fine": True, "padding": "x" * 10_000}, cut=True),
        Reply(b'{"fine": tr'),
        Reply(b"<html>a proxy's page</html>"),
    ],
    ids=lambda reply: str(reply.status) + str(reply.cut) + str(reply.body)[:8],
)
def test_what_may_pass_is_asked_again(
    server: Scripted, clients: list[JsonClient], trouble: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = in_turn(trouble, trouble, OK)
    assert ask(clients, max_retries=2) == {"fine": True}
    assert server.of("/x") == [{"a": 1}] * 3
    assert sum("asking again" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_what_will_not_pass_is_asked_once(
    server: Scripted, clients: list[JsonClient], status: int
) -> None:
    server.script = in_turn(Reply(status=status, body={"error": {"message": "no way"}}))
    with pytest.raises(RefusedError, match=f"far.example:8000 answered {status}: no way") as caught:
        ask(clients)
    assert caught.value.status == status
    assert len(server.asked) == 1


def test_retries_are_bounded(server: Scripted, clients: list[JsonClient]) -> None:
    server.script = in_turn(Reply(status=500, body={"detail": "the model burst"}))
    with pytest.raises(ServerError, match="answered 500: the model burst"):
        ask(clients, max_retries=3)
    assert len(server.asked) == 4


def test_no_retries(server: Scripted, clients: list[JsonClient]) -> None:
    server.script = in_turn(Reply(status=503))
    with pytest.raises(ServerError, match="answered 503"):
        ask(clients, max_retries=0)
    assert len(server.asked) == 1


class TestRetryAfter:
    """A server that says when it wants to be asked is not asked before."""

    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """What would have been waited, without waiting."""
        found: list[float] = []
        wait = http._wait

        def instead(state: Any) -> float:
            found.append(wait(state))
            return 0.0

        monkeypatch.setattr(http, "_wait", instead)
        return found

    def test_seconds(self, server: Scripted, clients: list[JsonClient], waits: list[float]) -> None:
        server.script = in_turn(Reply(status=429, headers={"Retry-After": "7.5"}), OK)
        assert ask(clients) == {"fine": True}
        assert waits == [7.5]

    def test_a_date(self, server: Scripted, clients: list[JsonClient], waits: list[float]) -> None:
        moment = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
        server.script = in_turn(Reply(status=503, headers={"Retry-After": moment}), OK)
        assert ask(clients) == {"fine": True}
        assert 0 < waits[0] <= 30

    @pytest.mark.parametrize("value", ["soon", "-3", "Mon, 99 Nonsense"])
    def test_nonsense_is_read_over(
        self, server: Scripted, clients: list[JsonClient], waits: list[float], value: str
    ) -> None:
        server.script = in_turn(Reply(status=503, headers={"Retry-After": value}), OK)
        assert ask(clients) == {"fine": True}
        assert waits == [0.0]

    def test_an_hour_is_not_slept(
        self, server: Scripted, clients: list[JsonClient], waits: list[float]
    ) -> None:
        server.script = in_turn(Reply(status=429, headers={"Retry-After": "3600"}), OK)
        with pytest.raises(ServerError, match="answered 429") as caught:
            ask(clients)
        assert caught.value.after == 3600
        assert waits == []


def test_the_back_off_grows_and_is_jittered() -> None:
    class State:
        def __init__(self, attempt: int) -> None:
            self.attempt_number = attempt
            self.outcome = None

    early = {http._BACK_OFF(State(1)) for _ in range(50)}  # type: ignore[arg-type]
    late = {http._BACK_OFF(State(5)) for _ in range(50)}  # type: ignore[arg-type]
    assert len(early) > 10, "it is drawn"
    assert max(early) <= 0.5
    assert 0.5 < max(late) <= 20


def test_a_timeout_says_what_to_change(server: Scripted, clients: list[JsonClient]) -> None:
    server.script = in_turn(Reply(delay=60))
    with pytest.raises(
        ServerTimeoutError, match="did not answer within 0.1 seconds; raise timeout"
    ):
        ask(clients, timeout=0.1, max_retries=1)
    assert server.heard(2) == 2


def test_a_slow_drip_ends_too(monkeypatch: pytest.MonkeyPatch, clients: list[JsonClient]) -> None:
    """The time-out is for the whole request: bytes that trickle in do not prolong it."""

    async def drip(_: httpx.Request) -> httpx.Response:
        async def body() -> Any:
            while True:
                yield b" "
                await asyncio.sleep(0.01)

        return httpx.Response(200, content=body())

    monkeypatch.setattr(http, "new_transport", lambda: httpx.MockTransport(drip))
    with pytest.raises(ServerTimeoutError):
        ask(clients, timeout=0.2, max_retries=0)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, clients: list[JsonClient]) -> None:
    monkeypatch.setattr(http, "_BACK_OFF", lambda _: 0.0)
    monkeypatch.setattr(
        http, "new_transport", lambda: httpx.AsyncHTTPTransport(uds="/nowhere/at/all")
    )
    with pytest.raises(ServerUnreachableError, match="far.example:8000 cannot be reached"):
        ask(clients)


def test_a_redirect_is_not_followed(server: Scripted, clients: list[JsonClient]) -> None:
    server.script = in_turn(Reply(status=307, headers={"Location": "http://evil.example/x"}))
    with pytest.raises(ServerError, match="points to 'http://evil.example/x'; redirects are not"):
        ask(clients, api_key=KEY)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("url", "environment"), [("http://127.0.0.1:1", False), ("http://far.example", True)]
)
def test_proxies_are_for_other_machines(
    monkeypatch: pytest.MonkeyPatch, clients: list[JsonClient], url: str, *, environment: bool
) -> None:
    seen: list[Any] = []
    original = httpx.AsyncClient

    def record(**settings: Any) -> httpx.AsyncClient:
        seen.append(settings)
        return original(**settings)

    monkeypatch.setattr(
        http, "new_transport", lambda: httpx.MockTransport(lambda _: httpx.Response(200, json={}))
    )
    monkeypatch.setattr(httpx, "AsyncClient", record)
    client = JsonClient(url, Server(url=url))
    clients.append(client)
    client.run(client.get(url))
    assert seen[0]["trust_env"] is environment
    assert seen[0]["follow_redirects"] is False


class TestSecrets:
    """The key travels in one header and shows nowhere."""

    def settings(self) -> dict[str, Any]:
        return {"api_key": KEY, "headers": {"X-Token": f"Token {SECRET}"}, "max_retries": 1}

    def test_they_are_sent(self, server: Scripted, clients: list[JsonClient]) -> None:
        server.script = in_turn(OK)
        ask(clients, **self.settings())
        assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
        assert server.asked[0].headers["x-token"] == f"Token {SECRET}"

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(status=401, body={"error": {"message": f"Incorrect API key: {KEY}"}}),
            Reply(status=500, body=f"you sent {KEY} and header-secret-42".encode()),
            Reply(body=f"not json, but {KEY} and header-secret-42".encode()),
            Reply(status=302, headers={"Location": f"http://x/?key={KEY}"}),
        ],
        ids=lambda reply: str(reply.status),
    )
    def test_an_error_does_not_show_them(
        self,
        server: Scripted,
        clients: list[JsonClient],
        reply: Reply,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.script = in_turn(reply)
        with pytest.raises(ServerError) as caught:
            ask(clients, **self.settings())
        error: BaseException | None = caught.value
        assert "Bearer" not in caplog.text, "whatever is logged, at any level"
        # What a server itself sends back, its libraries may log as headers when asked to debug.
        ours = [each.message for each in caplog.records if not each.name.startswith("httpcore")]
        shown = "".join(ours) + repr(clients[0]) + repr(Server(**self.settings()))
        while error is not None:
            shown += str(error) + repr(error)
            error = error.__cause__ or error.__context__
        assert KEY not in shown
        assert SECRET not in shown
        assert "***" in shown

    @pytest.mark.parametrize("status", [200, 500])
    def test_nor_the_beginning_of_one_where_an_answer_is_cut(
        self, server: Scripted, clients: list[JsonClient], status: int
    ) -> None:
        body = f"{'-' * 292}{KEY}".encode()
        server.script = in_turn(Reply(status=status, body=body))
        with pytest.raises(ServerError, match="-{292}") as caught:
            ask(clients, **self.settings())
        assert KEY[:4] not in str(caught.value)

    @pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX: y", f" {KEY}", f"{KEY}é"])
    def test_one_that_cannot_be_sent_is_refused_unseen(self, key: str) -> None:
        with pytest.raises(ValueError, match="api_key holds characters that cannot be sent") as bad:
            JsonClient(URL, Server(url=URL, api_key=key))
        assert KEY not in str(bad.value)

    def test_nor_a_header(self) -> None:
        with pytest.raises(ValueError, match="the value of header 'X-Token'") as bad:
            JsonClient(URL, Server(url=URL, headers={"X-Token": f"{KEY}\n"}))
        assert KEY not in str(bad.value)

    def test_401_asks_about_the_key(self, server: Scripted, clients: list[JsonClient]) -> None:
        server.script = in_turn(Reply(status=401))
        with pytest.raises(RefusedError, match="it may want an api_key"):
            ask(clients)
        with pytest.raises(RefusedError, match="is api_key right?"):
            ask(clients, api_key=KEY)


class TestClosing:
    """Whatever is under way, a close ends at once, and so does everybody who waits."""

    def test_under_way(self, server: Scripted) -> None:
        server.script = in_turn(Reply(delay=60))
        client = JsonClient(URL, Server(url=URL, concurrency=2))
        flights = [client.start(client.post(f"{URL}/x", {})) for _ in range(5)]
        failures: list[str] = []

        def wait(flight: Any) -> None:
            with pytest.raises(RuntimeError, match="closed while a request was under way") as bad:
                flight()
            failures.append(str(bad.value))

        waiters = [threading.Thread(target=wait, args=(flight,)) for flight in flights]
        for waiter in waiters:
            waiter.start()
        client.close()
        for waiter in waiters:
            waiter.join(20)
        assert len(failures) == 5

    def test_twice_and_after(self, server: Scripted) -> None:
        client = JsonClient(URL, Server(url=URL))
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="the connection is closed"):
            client.run(client.get(URL))

    def test_the_thread_ends(self, server: Scripted) -> None:
        server.script = in_turn(OK)
        before = set(threading.enumerate())
        client = JsonClient(URL, Server(url=URL))
        client.run(client.get(URL))
        assert set(threading.enumerate()) - before
        client.close()
        assert not [
            thread for thread in set(threading.enumerate()) - before if "gpu" in thread.name
        ]

    def test_what_nobody_waits_for_is_cancelled(
        self, server: Scripted, clients: list[JsonClient]
    ) -> None:
        """Its slot is free again, or the second request would wait behind it forever."""
        server.script = lambda asked: Reply(delay=60) if asked.body == {"slow": 1} else OK
        client = JsonClient(URL, Server(url=URL, concurrency=1, timeout=30, max_retries=0))
        clients.append(client)
        slow = client.start(client.post(f"{URL}/x", {"slow": 1}))
        del slow
        gc.collect()
        assert client.run(client.post(f"{URL}/x", {})) == {"fine": True}

    def test_a_forked_process_is_told(self, server: Scripted, clients: list[JsonClient]) -> None:
        server.script = in_turn(OK)
        client = JsonClient(URL, Server(url=URL))
        clients.append(client)
        client._loop._pid = os.getpid() + 1
        with pytest.raises(RuntimeError, match="do not survive a fork"):
            client.run(client.get(URL))
        client._loop._pid = os.getpid()


def test_requests_in_flight_are_bounded(server: Scripted, clients: list[JsonClient]) -> None:
    """All three at the same time, and never a fourth."""
    gate = threading.Barrier(3, timeout=20)

    def script(_: Asked) -> Reply:
        gate.wait()  # breaks, and answers nothing, where fewer than three are under way
        return OK

    server.script = script
    client = JsonClient(URL, Server(url=URL, concurrency=3))
    clients.append(client)
    flights = [client.start(client.post(f"{URL}/x", {"n": n})) for n in range(12)]
    assert [flight() for flight in flights] == [{"fine": True}] * 12
    assert server.busiest == 3


async def test_callable_where_a_loop_runs(server: Scripted, clients: list[JsonClient]) -> None:
    server.script = in_turn(OK)
    assert ask(clients) == {"fine": True}


def test_not_json(server: Scripted, clients: list[JsonClient]) -> None:
    server.script = in_turn(Reply(b"<html>"))
    with pytest.raises(BadAnswerError, match="something other than JSON: '<html>'"):
        ask(clients)
