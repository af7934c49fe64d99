"""Tools and JSON through transformers: templates, calls in the text, grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_gpu import ChatGPU
from langchain_gpu.generators.base import Completion, Delta, Timings, Usage
from langchain_gpu.generators.hermes import Parsed, Tagged
from langchain_gpu.generators.rows import Row
from langchain_gpu.generators.streams import collect
from langchain_gpu.generators.transformers import TransformersGenerator
from langchain_gpu.utils import extras
from tests.unit_tests.tiny_chat import TEMPLATE, WITH_TOOLS, build_chat

SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "temperature": 0,
    "max_tokens": 100,
}


@tool
def add(a: Annotated[int, Field(ge=0, le=9)]) -> int:
    """Add."""
    return a


class Person(BaseModel):
    """Someone."""

    age: int = Field(ge=0, le=9)
    tall: bool


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatGPU]:
    path = build_chat(tmp_path_factory.mktemp("tools"), template=WITH_TOOLS)
    with ChatGPU(model=path, **SETTINGS) as model:
        yield model


def told(pieces: Sequence[str], reason: Any = "stop") -> list[Delta]:
    end = Delta(finish_reason=reason, usage=Usage(1, 1), timings=Timings(0, 0, None))
    return [*(Delta(text=piece) for piece in pieces), end]


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
DEEP = "<tool_call>" + '{"a":' * 2000 + "</tool_call>"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "shown", "arguments"),
    [
        ("plain < text <tool", "plain < text <tool", []),
        (CALL, "", ['{"a": 1}']),
        ("I add." + CALL, "I add.", ['{"a": 1}']),
        (f"{CALL}\n{CALL}", "", ['{"a": 1}', '{"a": 1}']),
        (f"{CALL}\nOne.\n\nTwo.", "One.\n\nTwo.", ['{"a": 1}']),
        (CALL.removesuffix("</tool_call>"), "", ['{"a": 1}']),
        ("<tool_call>no call</tool_call> x", "<tool_call>no call</tool_call> x", []),
        ("<tool_call>{'name'", "<tool_call>{'name'", []),
        pytest.param(DEEP, DEEP, [], id="deep"),
    ],
)
def test_tagged_calls_are_found_however_the_text_is_cut(
    text: str, shown: str, arguments: list[str], size: int
) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    answer = collect(map(Tagged(), told(pieces)))
    assert answer.text == shown
    assert [call.arguments for call in answer.tool_calls] == arguments
    assert answer.finish_reason == ("tool_calls" if arguments else "stop")
    assert len({call.id for call in answer.tool_calls}) == len(arguments)


def test_plain_text_is_not_held_back() -> None:
    pieces = [piece.text for piece in map(Tagged(), told(["one ", "two <", "b>"]))]
    assert pieces == ["one ", "two ", "<b>", ""]


def test_a_schema_of_the_makers_is_followed() -> None:
    message = {
        "content": "I add.",
        "thinking": "hm",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    }

    def read(tools: list[dict[str, Any]]) -> Completion:
        return collect(filter(None, map(Parsed(lambda _: message, tools), told(["raw"]))))

    answer = read([{"function": {"name": "add"}}])
    assert (answer.text, answer.reasoning) == ("I add.", "hm")
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("add", '{"a": 1}')]
    unknown = read([{"function": {"name": "x"}}])
    assert (unknown.text, unknown.tool_calls) == ("raw", ())


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_schema_of_the_makers_ends_as_the_answer_did(reason: Any) -> None:
    def read(message: dict[str, Any]) -> Completion:
        parsed = Parsed(lambda _: message, [{"function": {"name": "add"}}])
        return collect(filter(None, map(parsed, told(["raw"], reason))))

    called = read({"tool_calls": [{"name": "add", "arguments": {}}]})
    assert (called.text, len(called.tool_calls)) == ("", 1)
    assert called.finish_reason == ("tool_calls" if reason == "stop" else reason)
    assert read({"content": "Hello"}).finish_reason == reason


def engine_of(chat: ChatGPU) -> TransformersGenerator:
    with chat._hold() as generator:
        assert isinstance(generator, TransformersGenerator)
        return generator


def test_a_call_in_the_text_becomes_a_tool_call(
    chat: ChatGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = engine_of(chat)
    tokens = [*generator.tokenize("Well." + CALL), min(generator._open.ends)]

    def answer(rows: Sequence[Row]) -> None:
        for row in rows:
            for token in tokens:
                row.add(token)

    monkeypatch.setattr(generator._open.rows, "_run", answer)
    bound = chat.bind_tools([add])
    message = bound.invoke("add 1")
    assert message.content == "Well."
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("add", {"a": 1})]
    assert message.response_metadata["finish_reason"] == "tool_calls"
    whole: Any = None
    for chunk in bound.stream("add 1"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"] == {"a": 1}
    assert whole.content == "Well."


def test_the_template_sees_tools_calls_and_results(chat: ChatGPU) -> None:
    generator = engine_of(chat)
    call = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 7}, "id": "1"}])
    messages = [HumanMessage("q"), call, ToolMessage("8", tool_call_id="1")]
    answer = chat.bind_tools([add]).invoke(messages, max_tokens=1)
    assert answer.usage_metadata is not None
    text = "add;user: q|assistant: 7|tool: 8|assistant: "
    assert answer.usage_metadata["input_tokens"] == len(generator.tokenize(text))
    assert chat.get_num_tokens_from_messages(messages, [add]) == len(generator.tokenize(text))


def test_a_template_without_tools_says_so(tmp_path: Path) -> None:
    plain = ChatGPU(model=build_chat(tmp_path, template=TEMPLATE), **SETTINGS)
    with plain, pytest.raises(ValueError, match="template cannot describe tools"):
        plain.bind_tools([add]).invoke("hello")


def test_arguments_that_are_no_json_are_named(chat: ChatGPU) -> None:
    broken = {"id": "1", "function": {"name": "add", "arguments": "{oops"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [broken]},
    ]
    with pytest.raises(ValueError, match="message 1: the arguments of the call 'add' are not JSON"):
        engine_of(chat).count_chat_tokens(messages)


def test_a_forced_call_is_enforced(chat: ChatGPU) -> None:
    pytest.importorskip("llguidance")
    for choice in ("add", "any"):
        message = chat.bind_tools([add], tool_choice=choice).invoke("hello")
        assert [call["name"] for call in message.tool_calls] == ["add"]
        assert isinstance(message.tool_calls[0]["args"]["a"], int)
    with pytest.raises(ValueError, match="not one of the tools"):
        chat.bind_tools([add], tool_choice="other").invoke("hello")


def test_a_format_leaves_tools_callable(chat: ChatGPU) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"x": {"enum": [1]}}, "required": ["x"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answers = [
        chat.model_copy(update={"temperature": 2.0, "seed": seed})
        .bind_tools([add])
        .invoke("hello", response_format=wanted)
        for seed in range(12)
    ]
    called = [answer for answer in answers if answer.tool_calls]
    others = [json.loads(str(answer.content)) for answer in answers if not answer.tool_calls]
    assert called
    assert {answer.tool_calls[0]["name"] for answer in called} == {"add"}
    assert others
    assert all(other["x"] == 1 for other in others)


async def test_a_schema_is_enforced_in_any_company(chat: ChatGPU) -> None:
    pytest.importorskip("llguidance")
    structured = chat.with_structured_output(Person)
    people = structured.batch(["hello", "x", "a longer one"])
    assert all(isinstance(person, Person) for person in people)
    assert isinstance(await structured.ainvoke("hello"), Person)
    warm = chat.model_copy(update={"temperature": 1.5, "seed": 3})
    assert isinstance(warm.with_structured_output(Person).invoke("hello"), Person)
    free = chat.invoke("hello", response_format={"type": "json_object"})
    assert str(free.content).startswith("{")


PARTS: list[dict[str, Any]] = [
    {"type": "object", "properties": {name: {"type": "boolean"}}, "required": [name]}
    for name in "ab"
]


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": PARTS},
        {"$defs": {"A": PARTS[0]}, "allOf": [{"$ref": "#/$defs/A"}], **PARTS[1]},
        {**PARTS[0], "anyOf": PARTS[1:]},
    ],
)
def test_the_parts_of_an_object_complete_each_other(chat: ChatGPU, schema: dict[str, Any]) -> None:
    pytest.importorskip("llguidance")
    wanted = {"type": "json_schema", "json_schema": {"name": "parts", "schema": schema}}
    said = str(chat.invoke("hello", response_format=wanted).content)  # and then what it likes
    assert re.match(r'\{"a":(true|false),"b":(true|false)[,}]', said)


def test_what_cannot_be_enforced_is_named(chat: ChatGPU) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(ValueError, match="'xml' is not known"):
        chat.invoke("hello", response_format={"type": "xml"})
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    with pytest.raises(ValueError, match="cannot be enforced"):
        chat.invoke("hello", response_format=bad)


def test_without_llguidance_the_extra_is_named(
    chat: ChatGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(extras, "import_module", gone)
    with pytest.raises(ImportError, match=r"langchain-gpu\[grammar\]"):
        chat.with_structured_output(Person).invoke("hello")
