"""Answers through Ollama: what it is sent, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from langchain_gpu.generators.base import Request
from langchain_gpu.generators.ollama import OllamaGenerator
from langchain_gpu.generators.streams import collect
from langchain_gpu.planner import ComponentPlan
from tests.unit_tests.ollama_generators import SECRET, ask, chat, ollama_generators, script, sent
from tests.unit_tests.scripted_ollama import FakeOllama, an_ollama, call, done, line, ollama_server
from tests.unit_tests.scripted_server import Reply, Scripted, each_way

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "object", "properties": {"city": {"type": "string"}}},
                "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            },
            "required": ["place"],
        },
    },
}

fake, server, way = an_ollama, ollama_server, each_way
make = ollama_generators
pytestmark = pytest.mark.usefixtures("way")


def test_an_answer_is_put_together(make: Callable[..., OllamaGenerator]) -> None:
    pieces = list(make().stream(ask()))
    assert [piece.text for piece in pieces] == ["Hel", "lo.", ""]
    answer = collect(pieces)
    assert (answer.finish_reason, answer.model) == ("stop", "m")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 3)
    assert 0 < answer.timings.time_to_first_token <= answer.timings.seconds


def test_a_plan_gives_layers_and_window(
    make: Callable[..., OllamaGenerator], fake: FakeOllama, server: Scripted
) -> None:
    fake.on_gpu = 900
    plan = ComponentPlan(
        name="chat",
        role="chat",
        model="m",
        decision="partial",
        reason="",
        context=768,
        n_gpu_layers=3,
    )
    make(plan=plan).generate([ask()])
    assert sent(server)["options"] == {"num_ctx": 768, "num_gpu": 3}
    make(plan=plan, n_ctx=512).generate([ask()])
    assert sent(server)["options"] == {"num_ctx": 512, "num_gpu": 3}


def test_everything_stands_where_ollama_reads_it(
    make: Callable[..., OllamaGenerator], fake: FakeOllama, server: Scripted
) -> None:
    fake.on_gpu = 900
    extra = {"top_k": 5, "min_p": 0.1, "think": False, "options": {"newer_option": 1}}
    request = ask(
        stop=("a",), max_tokens=7, temperature=0.5, top_p=0.9, seed=3, extra=extra, timeout=5
    )
    make(n_ctx=512, n_gpu_layers=2, n_threads=1, fallback="cpu", keep_alive="7m").generate(
        [request]
    )
    body = sent(server)
    assert body["options"] == {
        "num_ctx": 512,
        "num_gpu": 2,
        "num_thread": 1,
        "num_predict": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["a"],
        "top_k": 5,
        "min_p": 0.1,
        "newer_option": 1,
    }
    assert (body["think"], body["keep_alive"], body["stream"]) == (False, "7m", True)
    assert (body["truncate"], body["shift"]) == (False, False)
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"top_kk": 5}, "would ignore 'top_kk'.*top_k"),
        ({"num_ctx": 100}, "give n_ctx"),
        ({"options": {"num_gpu": 1}}, "give n_gpu_layers"),
        ({"num_batch": 1}, "load_kwargs"),
        ({"num_predict": 1}, "max_tokens"),
        ({"stream": False}, "the call itself"),
    ],
)
def test_options_that_would_be_lost_are_refused(
    extra: dict[str, Any], words: str, make: Callable[..., OllamaGenerator]
) -> None:
    with pytest.raises(ValueError, match=words):
        make().generate([ask(extra=extra)])


@pytest.mark.parametrize("known", [True, False])
def test_log_probabilities_that_do_not_come_are_told(
    fake: FakeOllama,
    server: Scripted,
    caplog: pytest.LogCaptureFixture,
    known: bool,  # noqa: FBT001
) -> None:
    scores: dict[str, Any] = {"logprobs": [{"token": "4", "logprob": -0.5}]} if known else {}
    script(fake, line("4", **scores), done())
    answer = chat().invoke("2 + 2?", logprobs=True)
    assert ("logprobs" in answer.response_metadata) is known
    assert ("gives no log probabilities" in caplog.text) is not known


def test_thoughts_are_apart(fake: FakeOllama, server: Scripted) -> None:
    script(
        fake, line(message={"thinking": "Hm"}), line(message={"thinking": "."}), line("4"), done()
    )
    answer = chat().invoke("2 + 2?")
    assert answer.content == "4"
    assert answer.additional_kwargs["reasoning_content"] == "Hm."


def test_tools_arrive_whole_and_calls_come_back(fake: FakeOllama, server: Scripted) -> None:
    script(fake, call("weather", place={"city": "Köln"}), call("weather", place={}), done())
    bound = chat().bind_tools([WEATHER])
    answer = bound.invoke("Weather?")
    assert sent(server)["tools"] == [WEATHER]  # nested parameters and alternatives too
    assert [each["args"] for each in answer.tool_calls] == [
        {"place": {"city": "Köln"}},
        {"place": {}},
    ]
    assert len({each["id"] for each in answer.tool_calls}) == 2
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    streamed: Any = None
    for chunk in bound.stream("Weather?"):
        streamed = chunk if streamed is None else streamed + chunk
    assert isinstance(streamed, AIMessage)
    assert [each["args"] for each in streamed.tool_calls] == [
        each["args"] for each in answer.tool_calls
    ]


def test_a_chat_with_results_of_tools_is_told_in_ollamas_form(
    fake: FakeOllama, server: Scripted
) -> None:
    first = AIMessage("", tool_calls=[{"name": "weather", "args": {"place": {}}, "id": "c1"}])
    chat().invoke([HumanMessage("Weather?"), first, ToolMessage("sunny", tool_call_id="c1")])
    _, assistant, result = sent(server)["messages"]
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"place": {}}}
    assert (result["role"], result["tool_name"], result["content"]) == ("tool", "weather", "sunny")


def test_arguments_that_are_no_json_are_named(make: Callable[..., OllamaGenerator]) -> None:
    broken: dict[str, Any] = {"id": "c", "function": {"name": "f", "arguments": "{oops"}}
    assistant: dict[str, Any] = {"role": "assistant", "tool_calls": [broken]}
    messages = [{"role": "user", "content": "x"}, assistant]
    with pytest.raises(ValueError, match="message 1: the arguments of the call 'f' are not JSON"):
        make().generate([Request(messages=messages)])


def test_a_forced_call_is_enforced_by_a_schema(fake: FakeOllama, server: Scripted) -> None:
    script(fake, line('{"name": "weather", '), line('"arguments": {"place": {}}}'), done())
    answer = chat().bind_tools([WEATHER], tool_choice="weather").invoke("x")
    names = [each["properties"]["name"]["const"] for each in sent(server)["format"]["anyOf"]]
    assert names == ["weather"]
    assert [each["name"] for each in answer.tool_calls] == ["weather"]
    chat().bind_tools([WEATHER], tool_choice="none").invoke("x")
    assert "tools" not in sent(server)


def test_tools_need_a_template_that_knows_them(fake: FakeOllama, server: Scripted) -> None:
    fake.capabilities = ["completion"]
    with pytest.raises(ValueError, match="cannot describe tools"):
        chat().bind_tools([WEATHER]).invoke("x")


def test_structured_output_is_a_format(fake: FakeOllama, server: Scripted) -> None:
    class Person(BaseModel):
        name: str

    script(fake, line('{"name": "Bob"}'), done())
    assert chat().with_structured_output(Person).invoke("x") == Person(name="Bob")
    assert sent(server)["format"]["required"] == ["name"]
    assert chat().with_structured_output(method="json_mode").invoke("x") == {"name": "Bob"}
    assert sent(server)["format"] == "json"


def test_a_format_that_is_not_known_is_named(fake: FakeOllama, server: Scripted) -> None:
    for asked in (chat(), chat().bind_tools([WEATHER])):
        with pytest.raises(ValueError, match="response_format of type 'json' is not known"):
            asked.invoke("x", response_format={"type": "json"})


def test_a_format_leaves_tools_callable(fake: FakeOllama, server: Scripted) -> None:
    wanted = {"type": "json_object", "schema": {"type": "object", "required": ["name"]}}
    script(fake, line('{"name": "weather", "arguments": {"place": {}}}'), done())
    answer = chat().bind_tools([WEATHER]).invoke("x", response_format=wanted)
    assert [each["name"] for each in answer.tool_calls] == ["weather"]
    call, other = sent(server)["format"]["anyOf"]
    assert call["properties"]["name"] == {"const": "weather"}
    assert other == wanted["schema"]
    script(fake, line('{"name": "Bob"}'), done())
    answer = chat().bind_tools([WEATHER]).invoke("x", response_format=wanted)
    assert (answer.content, answer.tool_calls) == ('{"name": "Bob"}', [])
    chat().invoke("x", response_format=wanted)
    assert sent(server)["format"] == wanted["schema"]


def test_usage_and_metadata_through_the_face(fake: FakeOllama, server: Scripted) -> None:
    answer = chat().invoke("x")
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == 11
    metadata = answer.response_metadata
    assert (metadata["model_name"], metadata["backend"]) == ("m", "ollama")
    assert metadata["finish_reason"] == "stop"
    script(fake, line("x"), line("", done=True, done_reason="length"))
    uncounted = chat().invoke("x")
    assert uncounted.usage_metadata is None  # never invented
    assert uncounted.response_metadata["finish_reason"] == "length"


async def test_async_through_the_face(server: Scripted) -> None:
    model = chat()
    assert (await model.ainvoke("x")).content == "Hello."
    assert [chunk.text async for chunk in model.astream("x")] == ["Hel", "lo.", ""]


def test_a_batch_keeps_its_order(fake: FakeOllama, server: Scripted) -> None:
    fake.chat = lambda body: Reply(parts=[line(body["messages"][0]["content"]), done()])
    texts: list[Any] = [f"text {number}" for number in range(12)]
    assert [answer.content for answer in chat(n_parallel=3).batch(texts)] == texts
    assert server.busiest <= 3
