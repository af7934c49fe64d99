"""Plain prompts through Ollama's `/api/generate`, past the template: `GPULLM` with a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError

from langchain_gpu import GPULLM
from langchain_gpu.events import TruncationWarning
from langchain_gpu.servers.errors import RefusedError, ServerError, ServerTimeoutError
from tests.unit_tests.plain_texts import echoed, in_other_ways
from tests.unit_tests.scripted_ollama import FakeOllama, an_ollama, ollama_server, text_line
from tests.unit_tests.scripted_server import Endless, Reply, Scripted, cancel

PLAIN = "/api/generate"

fake, server = an_ollama, ollama_server


@pytest.fixture
def llm(server: Scripted) -> Iterator[GPULLM]:
    place = {"backend": "ollama", "base_url": "http://ollama.test", "timeout": 20}
    with GPULLM(model="m", temperature=0, max_tokens=9, n_parallel=12, **place) as model:
        yield model


def asked(server: Scripted) -> list[Any]:
    return [body for body in server.of(PLAIN) if "prompt" in body]


async def test_every_way_gives_the_same_text(server: Scripted, llm: GPULLM) -> None:
    assert list(filter(None, llm.stream("The capital is"))) == [" Pa", "ris"]
    assert await in_other_ways(llm, "The capital is") == [" Paris"] * 3
    body = asked(server)[0]
    assert body == {
        "model": "m",
        "prompt": "The capital is",
        "raw": True,
        "stream": True,
        "truncate": False,
        "shift": False,
        "options": {"temperature": 0, "num_predict": 9},
    }
    assert asked(server) == [body] * 4


@pytest.mark.parametrize("is_async", [False, True])
async def test_prompts_are_in_flight_together_and_counted(
    fake: FakeOllama, llm: GPULLM, *, is_async: bool
) -> None:
    gate = threading.Barrier(12, timeout=10)

    def echo(body: Any) -> Reply:
        gate.wait()  # passes when all twelve are here
        return Reply(parts=[text_line(body["prompt"]), text_line(done=True)])

    fake.plain = echo
    info, tokens = await echoed(llm, 12, is_async=is_async)
    assert tokens == {"prompt_tokens": 132, "completion_tokens": 36, "total_tokens": 168}
    assert (info["finish_reason"], info["backend"]) == ("stop", "ollama")


def test_settings_stand_where_ollama_reads_them(server: Scripted, llm: GPULLM) -> None:
    tuned = llm.model_copy(update={"top_p": 0.5, "seed": 3, "model_kwargs": {"top_k": 5}})
    tuned.invoke("x", stop=["\n"], max_tokens=2, response_format={"type": "json_object"})
    body = asked(server)[0]
    options = {"temperature": 0, "top_p": 0.5, "seed": 3, "top_k": 5}
    assert body["options"] == {**options, "stop": ["\n"], "num_predict": 2}
    assert body["format"] == "json"


@pytest.mark.parametrize(
    ("extra", "words"),
    [({"raw": False}, "'raw'"), ({"prompt": "y"}, "'prompt'"), ({"think": True}, "chat template")],
)
def test_options_that_have_no_meaning_are_refused(
    extra: dict[str, Any], words: str, server: Scripted, llm: GPULLM
) -> None:
    with pytest.raises(ValueError, match=words):
        llm.invoke("x", **extra)
    assert asked(server) == []


def test_log_probabilities(fake: FakeOllama, llm: GPULLM) -> None:
    score = {"token": "a", "logprob": -0.5}
    end = text_line(done=True)
    fake.plain = lambda _: Reply(parts=[text_line("a", logprobs=[score]), end])
    result = llm.generate(["x"], logprobs=True)
    info = getattr(result.generations[0][0], "generation_info", {})
    assert info["logprobs"] == {"content": [score]}


async def test_a_prompt_that_does_not_fit(fake: FakeOllama, llm: GPULLM) -> None:
    words = "the input length exceeds the context length"
    fake.plain = lambda _: Reply(status=400, body={"error": words})
    with pytest.raises(ContextOverflowError, match="window holds 4096"):
        llm.invoke("x")
    with pytest.raises(ContextOverflowError, match="window holds 4096"):
        await llm.ainvoke("x")
    # Older servers cut it and say nothing.
    fake.plain = lambda _: Reply(parts=[text_line("a"), text_line(done=True, eval_count=1)])
    with pytest.warns(TruncationWarning, match="the prompt has about 6000 tokens.* has read 11"):
        llm.invoke("four " * 4800)


def test_trouble_is_told(fake: FakeOllama, llm: GPULLM) -> None:
    fake.plain = lambda _: Reply(parts=[text_line("a")])
    with pytest.raises(ServerError, match="without saying that it is done"):
        llm.invoke("x")
    fake.plain = lambda _: Reply(parts=[text_line("a"), json.dumps({"error": "odd"}).encode()])
    with pytest.raises(ServerError, match="odd"):
        llm.invoke("x")
    fake.plain = lambda _: Reply(parts=[text_line("a"), 30.0])
    with pytest.raises(ServerTimeoutError, match="within 0.3 seconds"):
        llm.invoke("x", timeout=0.3)
    fake.plain = lambda _: Reply(status=404, body={"error": "model 'm' not found"})
    with pytest.raises(RefusedError, match="ollama pull m"):
        llm.invoke("x")


def test_one_that_fails_ends_the_others(fake: FakeOllama, llm: GPULLM) -> None:
    def answer(body: Any) -> Reply:
        if body["prompt"] == "bad":
            return Reply(status=400, body={"error": "no such thing"})
        return Reply(parts=[text_line("x"), 30.0])

    fake.plain = answer
    with pytest.raises(RefusedError, match="no such thing"):
        llm.batch(["good", "bad"])


async def test_canceling_ends_it_on_the_server(
    fake: FakeOllama, server: Scripted, llm: GPULLM
) -> None:
    parts = Endless(text_line("x"), text_line())
    fake.plain = lambda _: Reply(parts=parts)
    await cancel(llm.ainvoke("x"), parts.begun, server.left)


def test_an_empty_prompt_loads_nothing(server: Scripted, llm: GPULLM) -> None:
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        llm.batch(["x", ""])
    assert asked(server) == []
