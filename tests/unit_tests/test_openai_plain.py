"""Plain prompts through OpenAI's `/completions`: `GPULLM` with a scripted server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError

from langchain_gpu import GPULLM
from langchain_gpu.events import TruncationWarning
from langchain_gpu.generators.base import Request
from langchain_gpu.generators.streams import collect
from langchain_gpu.servers.errors import RefusedError, ServerError, ServerTimeoutError
from tests.unit_tests.chat_script import DONE, Opens, chatting, event, opening, refusal, usage
from tests.unit_tests.plain_texts import echoed, in_other_ways
from tests.unit_tests.scripted_server import Asked, Endless, Reply, Script, Scripted, cancel, models

PLAIN = "/v1/completions"


def piece(text: str = "", *, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish, **more}
    return event({"id": "1", "model": "served-m", "choices": [choice]})


def goes_on(*texts: str, finish: str = "stop") -> Reply:
    """A whole text, as vLLM streams it."""
    return Reply(parts=[*map(piece, texts), piece(finish=finish), usage(), DONE])


def writing(script: Script, owner: str = "vllm", *, counts: bool = True) -> Script:
    """A whole server with the model `m` whose texts the script gives; a token is a character."""

    def whole(asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            more = {"max_model_len": 256} if owner == "vllm" else {}
            return models("m", owned_by=owner, **more)
        if asked.path == "/props":
            return Reply({"default_generation_settings": {"n_ctx": 512}})
        if asked.path == "/tokenize" and counts:
            return Reply({"tokens": list(asked.body["prompt"].encode())})
        if asked.path == PLAIN:
            return script(asked)
        return Reply(status=404, body={"detail": "Not Found"})

    return whole


opens = opening


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with chatting(monkeypatch, lambda _: Reply(status=500)) as running:
        running.script = writing(lambda _: goes_on(" Pa", "ris"))
        yield running


@pytest.fixture
def llm(server: Scripted) -> Iterator[GPULLM]:
    with GPULLM(
        model="m", base_url="http://far.example", temperature=0, max_tokens=9, timeout=20
    ) as model:
        yield model


async def test_every_way_gives_the_same_text(server: Scripted, llm: GPULLM) -> None:
    assert list(filter(None, llm.stream("The capital is"))) == [" Pa", "ris"]
    assert await in_other_ways(llm, "The capital is") == [" Paris"] * 3
    body = server.of(PLAIN)[0]
    assert body == {
        "model": "m",
        "prompt": "The capital is",
        "temperature": 0,
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert server.of(PLAIN) == [body] * 4


@pytest.mark.parametrize("is_async", [False, True])
async def test_prompts_are_in_flight_together_and_counted(
    server: Scripted, llm: GPULLM, *, is_async: bool
) -> None:
    gate = threading.Barrier(12, timeout=10)

    def echo(asked: Asked) -> Reply:
        gate.wait()  # passes when all twelve are here
        return goes_on(asked.body["prompt"])

    server.script = writing(echo)
    info, tokens = await echoed(llm, 12, is_async=is_async)
    assert tokens == {"prompt_tokens": 84, "completion_tokens": 36, "total_tokens": 120}
    assert (info["finish_reason"], info["backend"]) == ("stop", "openai")
    assert info["usage"] == {"input_tokens": 7, "output_tokens": 3, "cached_tokens": 2}


def test_settings_stand_under_the_forms_names(server: Scripted, llm: GPULLM) -> None:
    tuned = llm.model_copy(update={"top_p": 0.5, "seed": 3, "model_kwargs": {"top_k": 5}})
    tuned.invoke("x", stop=["\n"], max_tokens=2, logprobs=True, top_logprobs=3)
    wanted = {"top_p": 0.5, "seed": 3, "top_k": 5, "stop": ["\n"], "max_tokens": 2, "logprobs": 3}
    body = server.of(PLAIN)[0]
    assert wanted.items() <= body.items()
    assert not {"top_logprobs", "messages"} & set(body)
    llm.invoke("x", logprobs=True)
    llm.invoke("x", logprobs=False)
    llm.invoke("x", logprobs=2)
    assert [body.get("logprobs") for body in server.of(PLAIN)[1:]] == [1, None, 2]
    with pytest.raises(ValueError, match="'prompt' is set by the call itself"):
        llm.invoke("x", prompt="y")
    with pytest.raises(ValueError, match="one call gives one answer"):
        llm.invoke("x", n=2)


def test_log_probabilities_are_rows_as_in_chats(server: Scripted, opens: Opens) -> None:
    columns = {
        "tokens": [" Pa", "ris"],
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [{" Pa": -0.1, " Ly": -2.0}, None],
        "text_offset": [0, 3],
    }
    script = [piece(" Paris", logprobs=columns), piece(finish="stop"), usage(), DONE]
    server.script = writing(lambda _: Reply(parts=script))
    answer = collect(opens().stream(Request(prompt="x", extra={"logprobs": 2})))
    top = [{"token": " Pa", "logprob": -0.1}, {"token": " Ly", "logprob": -2.0}]
    assert answer.logprobs == (
        {"token": " Pa", "logprob": -0.1, "top_logprobs": top},
        {"token": "ris", "logprob": -0.2, "top_logprobs": []},
    )
    rows = [{"token": "a", "logprob": -1.0, "top_logprobs": []}]  # llama-server's form
    script[0] = piece("a", logprobs={"content": rows})
    assert collect(opens().stream(Request(prompt="x"))).logprobs == tuple(rows)


class TestLength:
    def test_the_rest_of_the_window(self, server: Scripted, opens: Opens) -> None:
        """What a chat takes by itself, and a plain prompt would not: servers stop after 16."""
        opens().generate([Request(prompt="x" * 56)])
        opens(n_ctx=100).generate([Request(prompt="x" * 56)])
        assert [body["max_tokens"] for body in server.of(PLAIN)] == [200, 44]

    def test_a_prompt_that_fills_it(self, opens: Opens) -> None:
        llm = GPULLM(model="m", base_url="http://far.example")
        with pytest.raises(ContextOverflowError, match="has 256 tokens and .* holds 256"):
            llm.invoke("x" * 256)
        llm.close()

    def test_a_server_that_does_not_count_and_stops_early(
        self, server: Scripted, opens: Opens
    ) -> None:
        server.script = writing(lambda _: goes_on("a", finish="length"), counts=False)
        generator = opens()
        for _ in range(2):
            with pytest.warns(TruncationWarning, match="after 3 tokens.*give max_tokens"):
                generator.generate([Request(prompt="x")])
        generator.generate([Request(prompt="x", max_tokens=3)])  # a warning would be an error
        assert len(server.of("/tokenize")) == 1
        assert "max_tokens" not in server.of(PLAIN)[0]

    def test_llama_server_takes_it_by_itself(self, server: Scripted, opens: Opens) -> None:
        server.script = writing(lambda _: goes_on("a"), owner="llamacpp")
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        opens().generate([Request(prompt="x", response_format=wanted)])
        body = server.of(PLAIN)[0]
        assert body["json_schema"] == schema
        assert not {"max_tokens", "response_format"} & set(body)

    @pytest.mark.parametrize(
        ("wanted", "sent"),
        [
            ({"type": "json_object", "schema": {"type": "array"}}, {"type": "array"}),
            ({"type": "json_object"}, {"type": "object"}),
            ({"type": "text"}, None),
        ],
    )
    def test_llama_server_is_told_every_format(
        self, server: Scripted, opens: Opens, wanted: dict[str, Any], sent: Any
    ) -> None:
        server.script = writing(lambda _: goes_on("a"), owner="llamacpp")
        opens().generate([Request(prompt="x", response_format=wanted)])
        assert server.of(PLAIN)[0].get("json_schema") == sent
        with pytest.raises(ValueError, match="'regex' is not known"):
            opens().generate([Request(prompt="x", response_format={"type": "regex"})])


class TestTrouble:
    async def test_a_server_that_knows_only_chats(self, server: Scripted, llm: GPULLM) -> None:
        server.script = writing(lambda _: Reply(status=404, body={"detail": "Not Found"}))
        words = r"nothing at http://far.example/v1/completions; .*ChatGPU"
        with pytest.raises(RefusedError, match=words):
            llm.invoke("x")
        with pytest.raises(RefusedError, match=words):
            list(llm.stream("x"))
        with pytest.raises(RefusedError, match=words):
            await llm.ainvoke("x")

    def test_a_model_it_does_not_have(self, server: Scripted, llm: GPULLM) -> None:
        server.script = writing(lambda _: refusal("The model `m` does not exist.", 404))
        with pytest.raises(RefusedError, match="no model 'm'"):
            llm.invoke("x")

    def test_too_long(self, server: Scripted, llm: GPULLM) -> None:
        words = "This model's maximum context length is 256 tokens. Your prompt has 300 tokens."
        server.script = writing(lambda _: refusal(words))
        with pytest.raises(ContextOverflowError, match="window holds 256"):
            llm.invoke("x")

    def test_half_a_text_is_none(self, server: Scripted, llm: GPULLM) -> None:
        server.script = writing(lambda _: Reply(parts=[piece("a"), DONE]))
        with pytest.raises(ServerError, match="without a finish_reason"):
            llm.invoke("x")
        server.script = writing(lambda _: Reply(parts=[piece("a")], cut=True))
        with pytest.raises(ServerError, match="broke the connection"):
            llm.invoke("x")
        server.script = writing(lambda _: Reply(parts=[event({"choices": [{"text": 3}]})]))
        with pytest.raises(ServerError, match="cannot be read"):
            llm.invoke("x")
        server.script = writing(lambda _: Reply(parts=[piece("a"), 30.0]))
        with pytest.raises(ServerTimeoutError, match="within 0.3 seconds"):
            llm.invoke("x", timeout=0.3)

    def test_one_that_fails_ends_the_others(self, server: Scripted, llm: GPULLM) -> None:
        def answer(asked: Asked) -> Reply:
            bad = asked.body["prompt"] == "bad"
            return refusal("no such thing") if bad else Reply(parts=[piece("x"), 30.0])

        server.script = writing(answer)
        with pytest.raises(RefusedError, match="no such thing"):
            llm.batch(["good", "bad"])

    async def test_canceling_ends_it_on_the_server(self, server: Scripted, llm: GPULLM) -> None:
        parts = Endless(piece("x"), piece())
        server.script = writing(lambda _: Reply(parts=parts))
        await cancel(llm.ainvoke("x"), parts.begun, server.left)

    def test_an_empty_prompt(self, opens: Opens) -> None:
        with pytest.raises(ValueError, match="the prompt is empty"):
            opens().generate([Request(prompt="")])
