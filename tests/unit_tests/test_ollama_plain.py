"""Plain prompts through Ollama's `/api/generate`, past the template: `GPULLM` with a script."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.outputs import Generation

from langchain_gpu import GPULLM
from langchain_gpu.events import TruncationWarning
from langchain_gpu.servers.errors import RefusedError, ServerError, ServerTimeoutError
from tests.unit_tests.scripted_ollama import FakeOllama, text_line
from tests.unit_tests.scripted_server import Reply, Scripted, serving

PLAIN = "/api/generate"


@pytest.fixture
def fake() -> FakeOllama:
    return FakeOllama()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, fake: FakeOllama) -> Iterator[Scripted]:
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    with serving(monkeypatch, fake) as running:
        yield running


@pytest.fixture
def llm(server: Scripted) -> Iterator[GPULLM]:
    place = {"backend": "ollama", "base_url": "http://ollama.test", "timeout": 20}
    with GPULLM(model="m", temperature=0, max_tokens=9, n_parallel=12, **place) as model:
        yield model


def asked(server: Scripted) -> list[Any]:
    return [body for body in server.of(PLAIN) if "prompt" in body]


async def test_every_way_gives_the_same_text(server: Scripted, llm: GPULLM) -> None:
    assert llm.invoke("The capital is") == " Paris"
    assert list(filter(None, llm.stream("The capital is"))) == [" Pa", "ris"]
    assert await llm.ainvoke("The capital is") == " Paris"
    assert "".join([text async for text in llm.astream("The capital is")]) == " Paris"
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
    prompts: list[Any] = [f"prompt {number}" for number in range(12)]
    result = await llm.agenerate(prompts) if is_async else llm.generate(prompts)
    assert [each[0].text for each in result.generations] == prompts
    assert result.llm_output is not None
    assert result.llm_output["token_usage"] == {
        "prompt_tokens": 132,
        "completion_tokens": 36,
        "total_tokens": 168,
    }
    first = result.generations[0][0]
    assert isinstance(first, Generation)
    info = first.generation_info or {}
    assert (info["finish_reason"], info["backend"]) == ("stop", "ollama")
    texts = await llm.abatch(prompts) if is_async else llm.batch(prompts)
    assert texts == prompts


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
    begun = threading.Event()

    def parts() -> Iterator[bytes | float]:
        yield text_line("x")
        begun.set()
        yield from [text_line(), 0.02] * 2000

    fake.plain = lambda _: Reply(parts=parts())
    task = asyncio.create_task(llm.ainvoke("x"))
    assert await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.left.wait, 10)


def test_an_empty_prompt_loads_nothing(server: Scripted, llm: GPULLM) -> None:
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        llm.batch(["x", ""])
    assert asked(server) == []
