"""Chats with servers that speak OpenAI's form: what goes wrong, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from urllib.parse import quote, quote_plus

import pytest

from langchain_gpu.generators.base import PromptTooLongError
from langchain_gpu.generators.openai import OpenAIGenerator
from langchain_gpu.generators.openai_form import numbers_in
from langchain_gpu.generators.pump import pulled_async
from langchain_gpu.generators.registry import Options
from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
    ServerError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from langchain_gpu.servers.server import Server
from tests.unit_tests.chat_script import (
    CHAT,
    DONE,
    Opens,
    ask,
    chat_server,
    chunk,
    event,
    opening,
    refusal,
    says,
    script,
)
from tests.unit_tests.scripted_server import Asked, Reply, Scripted, each_way, models

KEY = "sk-quite-secret-0123456789"
# In the words of vLLM, SGLang, llama-server, TGI and OpenAI.
TOO_LONG = [
    ("maximum context length is 9 tokens. However, your prompt contains 12 input tokens", 12, 9),
    ("maximum context length is 9 tokens. However, your prompt contains at least 10", None, 9),
    ("context length is 9 tokens. However, you requested 15 tokens (12 in the messages)", 12, 9),
    ("The input (12 tokens) is longer than the model's context length (9 tokens).", 12, 9),
    ("request (12 tokens) exceeds the available context size (9 tokens)", 12, 9),
    ("`inputs` must have less than 9 tokens. Given: 12", 12, 9),
    ("context length is 9 tokens. However, your messages resulted in 12 tokens", 12, 9),
    ("the prompt length is too large", None, None),
]

server, opens, way = chat_server, opening, each_way
pytestmark = pytest.mark.usefixtures("way")


class TestTime:
    @pytest.mark.parametrize(
        "parts",
        [[30.0], [chunk("a"), 30.0], [chunk("a"), 0.1] * 300],
        ids=["before the first byte", "between two chunks", "a trickle"],
    )
    def test_the_whole_answer_is_bounded(
        self, server: Scripted, opens: Opens, parts: list[bytes | float]
    ) -> None:
        script(server, Reply(parts=parts))
        generator = opens()
        began = time.monotonic()
        with pytest.raises(ServerTimeoutError, match="within 0.5 seconds") as caught:
            generator.generate([ask(timeout=0.5)])
        assert time.monotonic() - began < 10
        assert isinstance(caught.value, TimeoutError)
        assert server.heard(1, CHAT) == 1  # a second attempt would have no time

    def test_the_server_hears_of_it(self, server: Scripted, opens: Opens) -> None:
        script(server, Reply(parts=[chunk("a"), 0.02] * 2000))
        with pytest.raises(ServerTimeoutError):
            opens().generate([ask(timeout=0.3)])
        assert server.left.wait(10)

    def test_closing_a_stream_ends_it_on_the_server(self, server: Scripted, opens: Opens) -> None:
        script(server, Reply(parts=[0.02, chunk("b")] * 2000))
        stream = opens().stream(ask())
        next(stream)
        stream.close()
        assert server.left.wait(10)

    def test_dropping_a_stream_ends_it_on_the_server(self, server: Scripted, opens: Opens) -> None:
        script(server, Reply(parts=[0.02, chunk("b")] * 2000))
        for _ in opens().stream(ask()):
            break
        assert server.left.wait(10)

    def test_closing_the_generator_ends_a_stream_that_hangs(
        self, server: Scripted, opens: Opens
    ) -> None:
        script(server, Reply(parts=[chunk("a"), 30.0]))
        generator = opens()
        stream = generator.stream(ask())
        next(stream)
        threading.Timer(0.2, generator.close).start()
        with pytest.raises(RuntimeError, match="closed while a request was under way"):
            next(stream)

    async def test_tasks_that_read_have_no_threads(self, server: Scripted, opens: Opens) -> None:
        def readers() -> list[str]:
            names = [thread.name for thread in threading.enumerate()]
            return [name for name in names if name.startswith("langchain-gpu")]

        script(server, Reply(parts=[chunk("a"), 0.5, chunk("b"), chunk(finish="stop"), DONE]))
        generator = opens()

        async def read() -> str:
            return "".join([piece.text async for piece in pulled_async(generator.stream(ask()))])

        before = readers()
        tasks = [asyncio.create_task(read()) for _ in range(20)]
        await asyncio.sleep(0.3)
        assert readers() == before
        assert await asyncio.gather(*tasks) == ["ab"] * 20

    def test_one_that_was_dropped_leaves_no_thread(self, server: Scripted) -> None:
        def remotes() -> set[threading.Thread]:
            return {thread for thread in threading.enumerate() if "remote" in thread.name}

        before = remotes()
        generator = OpenAIGenerator("m", Options(server=Server(url="http://far.example")))
        generator.generate([ask()])
        (mine,) = remotes() - before
        del generator
        gc.collect()
        assert not mine.is_alive()


class TestAgain:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_after_an_overload(self, server: Scripted, opens: Opens, status: int) -> None:
        script(server, refusal("busy", status), refusal("busy", status), says("x"))
        assert opens(max_retries=2).generate([ask()])[0].text == "x"

    def test_not_for_ever(self, server: Scripted, opens: Opens) -> None:
        script(server, refusal("busy", 503))
        with pytest.raises(ServerError, match="answered 503: busy"):
            opens(max_retries=3).generate([ask()])
        assert len(server.of(CHAT)) == 4

    def test_not_at_all_after_a_refusal(self, server: Scripted, opens: Opens) -> None:
        script(server, refusal("no such option"))
        with pytest.raises(RefusedError, match="no such option"):
            opens().generate([ask()])
        assert len(server.of(CHAT)) == 1

    def test_as_late_as_the_server_wants(self, server: Scripted, opens: Opens) -> None:
        script(server, refusal("busy", 429, **{"Retry-After": "0.4"}), says("x"))
        began = time.monotonic()
        opens().generate([ask()])
        assert time.monotonic() - began >= 0.4

    @pytest.mark.parametrize("after", ["30", "100000", "Fri, 01 Jan 2100 00:00:00 GMT"])
    def test_a_wait_beyond_the_time_is_not_begun(
        self, server: Scripted, opens: Opens, after: str
    ) -> None:
        script(server, refusal("busy", 429, **{"Retry-After": after}))
        began = time.monotonic()
        with pytest.raises(ServerError, match="answered 429: busy"):
            opens().generate([ask(timeout=25)])
        assert time.monotonic() - began < 20

    def test_a_stream_that_broke_before_it_brought_anything(
        self, server: Scripted, opens: Opens
    ) -> None:
        nothing = Reply(parts=[chunk("", role="assistant")], cut=True)
        script(server, nothing, Reply(parts=[], cut=True), says("x"))
        assert opens(max_retries=2).generate([ask()])[0].text == "x"

    def test_never_after_the_first_piece(self, server: Scripted, opens: Opens) -> None:
        script(server, Reply(parts=[chunk("a"), 0.05], cut=True), says("x"))
        stream = opens().stream(ask())
        assert next(stream).text == "a"
        with pytest.raises(ServerUnreachableError, match="broke the connection"):
            next(stream)
        assert len(server.of(CHAT)) == 1

    def test_an_answer_that_ended_is_whole_though_the_connection_broke(
        self, server: Scripted, opens: Opens
    ) -> None:
        script(server, Reply(parts=[chunk("a", finish="stop"), 0.05], cut=True))
        answer = opens().generate([ask()])[0]
        assert (answer.text, answer.usage) == ("a", None)

    def test_nobody_listens(self, server: Scripted) -> None:
        server.path.unlink()
        with pytest.raises(ServerUnreachableError, match="far.example cannot be reached"):
            OpenAIGenerator("m", Options(server=Server(url="http://far.example", max_retries=1)))


class TestWrongAnswers:
    @pytest.mark.parametrize(
        ("parts", "match"),
        [
            ([chunk("a")], "without a finish_reason: it is not whole"),
            ([chunk("a"), DONE], "without a finish_reason"),
            ([], "without a finish_reason"),
            ([event(b'{"choices": [')], "sent something that is not JSON"),
            ([chunk("a"), event(b"oops")], "sent something that is not JSON: 'oops'"),
            ([event([1, 2])], "a chunk that cannot be read"),
            ([event({"choices": 7})], "a chunk that cannot be read"),
            ([event({"id": 1})], "a chunk that cannot be read"),
            ([event({"choices": [{"delta": "x"}]})], "a chunk that cannot be read"),
            ([event({"choices": [{"delta": {"content": 7}}]})], "a chunk that cannot be read"),
            ([event({"choices": [{"delta": {"tool_calls": [7]}}]})], "a chunk that cannot be read"),
            ([event({"error": {"message": "gone", "code": 400}})], "answered 400: gone"),
            ([chunk("a"), event({"error": {"message": "died"}})], "answered 500: died"),
        ],
    )
    def test_are_errors(
        self, server: Scripted, opens: Opens, parts: list[bytes], match: str
    ) -> None:
        script(server, Reply(parts=parts))
        with pytest.raises(ServerError, match=match):
            opens(max_retries=1).generate([ask()])

    @pytest.mark.parametrize(
        ("kind", "body"),
        [("text/html", b"<html>hello</html>"), ("application/json", b'{"choices": []}')],
    )
    def test_something_that_is_no_stream(
        self, server: Scripted, opens: Opens, kind: str, body: bytes
    ) -> None:
        script(server, Reply(body, headers={"Content-Type": kind}))
        with pytest.raises(BadAnswerError, match="is base_url right"):
            opens().generate([ask()])

    def test_html_with_an_error(self, server: Scripted, opens: Opens) -> None:
        script(server, Reply(b"<html>Bad Gateway</html>", status=502))
        with pytest.raises(ServerError, match="answered 502: <html>Bad Gateway"):
            opens(max_retries=0).generate([ask()])

    def test_a_redirect_is_named_and_not_followed(self, server: Scripted, opens: Opens) -> None:
        script(server, Reply(status=307, headers={"Location": "http://else.example/v1"}))
        with pytest.raises(ServerError, match="points to 'http://else.example/v1'"):
            opens().generate([ask()])
        assert len(server.of(CHAT)) == 1

    def test_a_web_site(self, server: Scripted, opens: Opens) -> None:
        server.script = lambda _: Reply(b"<html>hi</html>", headers={"Content-Type": "text/html"})
        with pytest.raises(BadAnswerError, match="is base_url right"):
            opens()

    @pytest.mark.parametrize(("words", "tokens", "window"), TOO_LONG)
    def test_too_long(
        self, server: Scripted, opens: Opens, words: str, tokens: int | None, window: int | None
    ) -> None:
        assert numbers_in(words) == (tokens, window)
        script(server, refusal(words))
        with pytest.raises(PromptTooLongError, match="larger window .far.example") as caught:
            opens().generate([ask()])
        assert (caught.value.tokens, caught.value.window) == (tokens, window or 256)

    def test_a_model_it_does_not_have(self, server: Scripted, opens: Opens) -> None:
        def script(asked: Asked) -> Reply:
            if asked.path == "/v1/models":
                return models("one", "two")
            return refusal("The model `m` does not exist.", 404)

        server.script = script
        with pytest.raises(RefusedError, match="no model 'm'; it serves one, two"):
            opens().generate([ask()])

    def test_nothing_there(self, server: Scripted, opens: Opens) -> None:
        server.script = lambda _: Reply(status=404, body={"detail": "Not Found"})
        with pytest.raises(RefusedError, match="nothing at http://far.example/v1/chat/completions"):
            opens().generate([ask()])


class TestKey:
    def test_is_nowhere(
        self, server: Scripted, opens: Opens, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        header = "another-secret-value"
        generator = opens(api_key=KEY, max_retries=1, load={"default_headers": {"X-Key": header}})
        script(server, refusal(f"no: {KEY} {header}", 503))
        with pytest.raises(ServerError) as caught:
            generator.generate([ask()])
        script(server, refusal(f"no: Bearer {KEY} {header}", 401))
        with pytest.raises(RefusedError, match="is api_key right") as refused:
            generator.generate([ask()])
        script(server, Reply(parts=[event({"error": {"message": f"{KEY} {header}"}})]))
        with pytest.raises(ServerError) as inside:
            generator.generate([ask()])
        said = [caplog.text, repr(generator), str(vars(generator))]
        errors = (caught.value, refused.value, inside.value)
        said += [f"{error!r} {error} {error.__cause__!r}" for error in errors]
        for secret in (KEY, header):
            assert all(secret not in text for text in said)

    @pytest.mark.parametrize("secret", ["query-secret-1", "se/cr+et= ü"])
    def test_in_the_address_is_nowhere(
        self, server: Scripted, opens: Opens, secret: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        generator = opens(load={"default_query": {"key": secret, "v": "1"}})

        def redirect(asked: Asked) -> Reply:
            return Reply(status=307, headers={"Location": f"http://else.example{asked.path}"})

        server.script = redirect
        with pytest.raises(ServerError, match=r"else.example.*\?key=\*\*\*&v=1'") as redirected:
            generator.generate([ask()])
        server.script = lambda _: refusal(f"no such key: {secret}", 401)
        with pytest.raises(RefusedError, match=r"no such key: \*\*\*") as refused:
            generator.generate([ask()])
        for error in (redirected.value, refused.value):
            assert secret not in f"{error!r} {error}"
        assert "HTTP Request: POST http://far.example" in caplog.text
        for form in (secret, quote(secret), quote_plus(secret)):
            assert form not in caplog.text
        generator.close()
        logging.getLogger("httpx2").info("of others: %s", secret)
        assert f"of others: {secret}" in caplog.text  # what we do not send is none of our business

    @pytest.mark.parametrize("key", ["sk-1234\n", "späße"])
    def test_that_cannot_be_sent(self, opens: Opens, key: str) -> None:
        with pytest.raises(ValueError, match="api_key holds characters") as caught:
            opens(api_key=key, load={"default_query": {"key": "query-secret-1"}})
        assert key.strip() not in str(caught.value)
        assert not logging.getLogger("httpx2").filters  # nothing is left behind

    @pytest.mark.parametrize("status", [401, 403])
    def test_that_is_wanted(self, server: Scripted, opens: Opens, status: int) -> None:
        server.script = lambda _: refusal("who are you?", status)
        with pytest.raises(RefusedError, match="who are you.*may want an api_key"):
            opens()
