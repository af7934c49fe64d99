"""Answers through Ollama when something goes wrong: servers, prompts that do not fit, secrets."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import BaseMessage, HumanMessage, trim_messages

from langchain_gpu.events import TruncationWarning
from langchain_gpu.generators import ollama
from langchain_gpu.generators.base import PromptTooLongError, Request
from langchain_gpu.generators.ollama import OllamaGenerator
from langchain_gpu.servers import http
from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
    ServerError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from tests.unit_tests.ollama_generators import (
    SECRET,
    URL,
    ask,
    chat,
    ollama_generators,
    script,
    sent,
)
from tests.unit_tests.scripted_ollama import FakeOllama, an_ollama, done, line, ollama_server
from tests.unit_tests.scripted_server import Endless, Reply, Scripted, cancel, each_way, serving

fake, server, way = an_ollama, ollama_server, each_way
make = ollama_generators
pytestmark = pytest.mark.usefixtures("way")


def test_an_unknown_model_says_how_to_fetch_it_and_what_is_there(server: Scripted) -> None:
    with pytest.raises(RefusedError, match=r"ollama pull other.*It has m:latest") as caught:
        chat(model="other").invoke("x")
    assert caught.value.status == 404


def test_an_address_that_ends_as_others_do(server: Scripted) -> None:
    server.script = lambda _: Reply(status=404, body=b"404 page not found")
    with pytest.raises(RefusedError, match=r"leave out /v1 .*404 page not found") as caught:
        chat(base_url=f"{URL}/v1").invoke("x")
    assert "pull" not in str(caught.value)


def test_a_model_removed_under_way_says_so_too(
    fake: FakeOllama, make: Callable[..., OllamaGenerator]
) -> None:
    generator = make()
    fake.models.clear()
    with pytest.raises(RefusedError, match=r"ollama pull m.*It has no models"):
        generator.generate([ask()])


def test_a_storm_of_503_ends(fake: FakeOllama, server: Scripted) -> None:
    fake.chat = lambda _: Reply(status=503, body={"error": "server busy"})
    with pytest.raises(ServerError, match="503: server busy"):
        chat(max_retries=2).invoke("x")
    assert len([body for body in server.of("/api/chat") if body["messages"]]) == 3


@pytest.mark.parametrize(
    "first",
    [
        Reply(status=503, body={"error": "server busy"}),
        Reply(status=429, body={"error": "slow down"}),
        Reply(parts=[], cut=True),
        Reply(parts=[b'{"error": "llama runner process has terminated"}\n']),
        Reply(b"<html>upstream is starting</html>"),
    ],
    ids=["503", "429", "cut", "runner", "html"],
)
def test_what_fails_before_the_first_piece_is_asked_again(
    first: Reply, fake: FakeOllama, server: Scripted
) -> None:
    replies = iter([first])
    fake.chat = lambda _: next(replies, Reply(parts=[line("Hello."), done()]))
    assert chat().invoke("x").content == "Hello."


@pytest.mark.parametrize(
    ("parts", "cut", "words"),
    [
        ([line("Hel"), b'{"message": {"content"'], True, "broke the connection"),
        ([line("Hel")], False, "without saying that it is done"),
        ([line("Hel"), b"<html>\n"], False, "not a JSON object: '<html>'"),
        ([line("Hel"), b"[1]\n"], False, "not a JSON object"),
        ([line("Hel"), b'{"error": "unexpected EOF"}\n'], False, "unexpected EOF"),
        ([line("Hel"), b'{"message": {"content": 5}}\n'], False, "cannot be read"),
        ([line("Hel"), done(done_reason="unload")], False, "done_reason 'unload'"),
    ],
)
def test_half_an_answer_is_never_a_whole_one(
    parts: list[bytes | float],
    cut: bool,  # noqa: FBT001
    words: str,
    fake: FakeOllama,
    server: Scripted,
) -> None:
    script(fake, *parts, cut=cut)
    stream = chat(max_retries=3).stream("x")
    assert next(stream).text == "Hel"
    with pytest.raises(ServerError, match=words):
        list(stream)
    asked = [body for body in server.of("/api/chat") if body["messages"]]
    assert len(asked) == 1  # what was shown cannot be taken back


def test_what_is_done_is_whole_even_if_the_connection_breaks_then(
    fake: FakeOllama, server: Scripted
) -> None:
    script(fake, line("Hello."), done(), cut=True)
    assert chat().invoke("x").content == "Hello."


def test_html_forever_is_an_error_that_shows_it(fake: FakeOllama, server: Scripted) -> None:
    fake.chat = lambda _: Reply(b"<html>Welcome to nginx</html>")
    with pytest.raises(BadAnswerError, match=r"Welcome to nginx.*is base_url right"):
        chat(max_retries=1).invoke("x")


def test_a_server_that_is_no_ollama(server: Scripted) -> None:
    server.script = lambda _: Reply(b"<html>Welcome</html>")
    with pytest.raises(BadAnswerError, match="is base_url right"):
        chat(max_retries=0).invoke("x")


def test_a_redirect_is_not_followed(server: Scripted) -> None:
    server.script = lambda _: Reply(status=307, headers={"Location": "http://elsewhere.test/x"})
    with pytest.raises(ServerError, match=r"elsewhere\.test.*not followed"):
        chat().invoke("x")
    assert len(server.asked) == 1


@pytest.mark.parametrize("where", ["before", "between"])
def test_the_time_out_holds_where_no_byte_comes(
    where: str, fake: FakeOllama, server: Scripted
) -> None:
    script(fake, *([line("Hel")] if where == "between" else []), 30.0, done())
    model = chat(timeout=0.5)
    began = time.monotonic()
    with pytest.raises(ServerTimeoutError, match=r"within 0\.5 seconds"):
        model.invoke("x")
    assert time.monotonic() - began < 10
    model.close()


def test_retries_stay_within_the_time_out(
    fake: FakeOllama, server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    fake.chat = lambda _: Reply(status=503, body={"error": "busy"}, headers={"Retry-After": "900"})
    with pytest.raises(ServerError, match="busy"):
        chat(timeout=5).invoke("x")
    assert "asking again" not in caplog.text
    assert sum(bool(body.get("messages")) for body in server.of("/api/chat")) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_closing_the_stream_leaves_the_server(
    begun: bool,  # noqa: FBT001
    make: Callable[..., OllamaGenerator],
    fake: FakeOllama,
    server: Scripted,
) -> None:
    """Ollama stops computing when its client goes away."""

    def endless() -> Iterator[bytes | float]:
        while True:
            yield line("word ")
            yield 0.02

    fake.chat = lambda _: Reply(parts=endless())
    stream = make().stream(ask())
    for _ in range(1 + begun):
        next(stream)
    stream.close()
    assert server.left.wait(10)


@pytest.mark.parametrize("text", ["word ", ""], ids=["busy", "nothing to hand on"])
async def test_canceling_a_task_leaves_the_server(
    fake: FakeOllama, server: Scripted, text: str
) -> None:
    parts = Endless(line(text), line(text))
    fake.chat = lambda _: Reply(parts=parts)
    model = chat()
    await cancel(model.ainvoke("x"), parts.begun, server.left)
    model.close()


def test_a_failing_chat_ends_those_beside_it(
    fake: FakeOllama, make: Callable[..., OllamaGenerator]
) -> None:
    def answer(body: Any) -> Reply:
        if body["messages"][0]["content"] == "bad":
            return Reply(status=400, body={"error": "no such thing"})
        return Reply(parts=[line("x"), 0.2] * 200)

    fake.chat = answer
    requests = [Request(messages=[{"role": "user", "content": text}]) for text in ("good", "bad")]
    began = time.monotonic()
    with pytest.raises(RefusedError, match="400: no such thing"):
        make(timeout=60).generate(requests)
    assert time.monotonic() - began < 20


# Prompts that do not fit.


def test_a_refused_prompt_is_a_prompt_too_long(fake: FakeOllama, server: Scripted) -> None:
    words = "the input length exceeds the context length"
    fake.chat = lambda _: Reply(status=400, body={"error": words})
    with pytest.raises(ContextOverflowError, match="context window holds 4096"):
        chat().invoke("x")
    assert chat().get_num_tokens_from_messages([HumanMessage("x")]) == 4097


def test_a_history_beyond_the_window_can_be_trimmed(fake: FakeOllama, server: Scripted) -> None:
    def read(body: Any) -> Reply:
        tokens = sum(len(message["content"].split()) for message in body["messages"])
        if tokens > 4096:
            return Reply(status=400, body={"error": "the input length exceeds the context length"})
        return Reply(parts=[line("x"), done(prompt_eval_count=tokens)])

    fake.chat = read
    history: list[BaseMessage] = [HumanMessage("four " * 1000)] * 7
    assert chat().get_num_tokens_from_messages(history) > 7000
    trimmed = trim_messages(history, max_tokens=3500, token_counter=chat(), strategy="last")
    assert trimmed == history[:3]
    [part] = trim_messages(
        [HumanMessage("four\n" * 5000)],
        max_tokens=500,
        token_counter=chat(),
        strategy="last",
        allow_partial=True,
        text_splitter=partial(str.splitlines, keepends=True),
    )
    assert part.text == "four\n" * 500


def test_a_count_of_what_an_old_server_has_not_left_out_is_no_count(
    fake: FakeOllama, server: Scripted
) -> None:
    script(fake, line("x"), done(prompt_eval_count=3000))
    history: list[BaseMessage] = [HumanMessage("four " * 1000)] * 5
    assert chat().get_num_tokens_from_messages(history) > 4096  # a warning would be an error


def test_a_prompt_cut_at_the_window_is_no_answer(
    fake: FakeOllama, make: Callable[..., OllamaGenerator]
) -> None:
    script(fake, line("x"), done(prompt_eval_count=4096))
    with pytest.raises(PromptTooLongError) as caught:
        make().generate([ask()])
    assert caught.value.window == 4096


def test_messages_left_out_are_told(
    fake: FakeOllama, server: Scripted, request: pytest.FixtureRequest
) -> None:
    script(fake, line("x"), done(prompt_eval_count=3000))
    texts = [HumanMessage("four " * 1000)] * 5  # some 6,000 tokens
    with pytest.warns(TruncationWarning, match=r"holds 4096, and Ollama has read 3000") as caught:
        chat().invoke(texts)
    in_users_thread = "by the reader" in request.node.name
    assert caught[0].filename == (__file__ if in_users_thread else ollama.__file__)
    script(fake, line("x"), done(prompt_eval_count=3000))
    chat().invoke("four " * 2900)  # a warning here would be an error


def test_an_answer_beyond_the_window_is_told(fake: FakeOllama, server: Scripted) -> None:
    script(fake, line("x"), done(prompt_eval_count=4000, eval_count=200))
    with pytest.warns(TruncationWarning, match="4200 tokens, the window holds 4096"):
        chat().invoke("x")


def test_chats_are_counted_and_texts_are_not(
    make: Callable[..., OllamaGenerator], server: Scripted
) -> None:
    generator = make()
    assert generator.count_chat_tokens(ask().messages) == 11
    assert sent(server)["options"]["num_predict"] == 1
    with pytest.raises(NotImplementedError, match="custom_get_token_ids"):
        generator.tokenize("x")


# Secrets.


def test_the_key_is_never_shown(
    fake: FakeOllama, server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    def tell(body: Any) -> Reply:
        return Reply(status=500, body={"error": f"I was called with Bearer {SECRET}"})

    fake.chat = tell
    caplog.set_level(logging.DEBUG)
    model = chat(api_key=SECRET, max_retries=1)
    with pytest.raises(ServerError) as caught:
        model.invoke("x")
    script(fake, json.dumps({"error": f"key {SECRET} is odd"}).encode() + b"\n")
    with pytest.raises(ServerError) as second:
        model.invoke("x")
    said = [str(caught.value), str(second.value), caplog.text, repr(model), str(model.devices)]
    assert not [words for words in said if SECRET in words]
    assert "***" in said[0]
    assert "***" in said[1]


def test_the_key_of_the_environment_is_used_and_hidden(
    monkeypatch: pytest.MonkeyPatch, fake: FakeOllama, server: Scripted
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)
    fake.chat = lambda _: Reply(status=401, body={"error": f"bad key {SECRET}"})
    with pytest.raises(RefusedError, match="401") as caught:
        chat().invoke("x")
    assert SECRET not in str(caught.value)
    assert server.asked[-1].headers["authorization"] == f"Bearer {SECRET}"


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch) as server:
        pass
    assert not server.path.exists() or server.closing.is_set()
    with pytest.raises(ServerUnreachableError, match=r"Is Ollama running\? Start it: ollama serve"):
        chat(max_retries=1).invoke("x")


@pytest.mark.parametrize(
    ("url", "asks"), [("http://127.0.0.1:11434", True), ("http://127.0.0.1:11435", False)]
)
def test_nobody_at_ollamas_usual_port_before_its_form_is_known(
    url: str, *, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(uds="/nobody/listens/here")

    monkeypatch.setattr(http, "new_transport", refuse)
    with (
        chat(backend="auto", base_url=url, max_retries=0) as model,
        pytest.raises(ServerUnreachableError) as raised,
    ):
        model.invoke("Hi.")
    assert "cannot be reached" in str(raised.value)
    assert ("Start it: ollama serve" in str(raised.value)) is asks


def test_closing_after_the_server_has_died_is_quiet(
    server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    model = chat()
    assert model.invoke("x").content == "Hello."
    server.script = lambda _: Reply(b"{}", cut=True)
    before = len(server.asked)
    model.close()
    assert len(server.asked) == before + 1
    assert not caplog.messages


def test_a_closed_model_loads_again(server: Scripted) -> None:
    model = chat()
    assert model.invoke("x").content == "Hello."
    model.close()
    assert model.invoke("x").content == "Hello."
