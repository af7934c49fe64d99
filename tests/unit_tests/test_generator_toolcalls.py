"""Forced calls become a schema; an answer that is a call becomes one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from langchain_gpu.generators.base import Delta, Message, Request, Timings, ToolCall, Usage
from langchain_gpu.generators.constraints import constraint_of, forced_format
from langchain_gpu.generators.streams import collect
from langchain_gpu.generators.toolcalls import Recovery, Tool, with_objects

ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now"}}
END = Delta(finish_reason="stop", usage=Usage(1, 1), timings=Timings(0, 0, None))
CALL = '{"name": "add", "arguments": {"a": 1}}'


def pieces(text: str, size: int = 3) -> list[Delta]:
    return [Delta(text=text[at : at + size]) for at in range(0, len(text), size)]


def names(schema: dict[str, Any]) -> list[str]:
    calls = schema["json_schema"]["schema"]["anyOf"]
    return [call["properties"]["name"]["const"] for call in calls]


def test_required_allows_every_tool_and_a_name_only_that_one() -> None:
    assert names(forced_format([ADD, NOW], "required")) == ["add", "now"]
    assert names(forced_format([ADD, NOW], "now")) == ["now"]
    with pytest.raises(ValueError, match=r"'sub' is not one of the tools \['add', 'now'\]"):
        forced_format([ADD, NOW], "sub")


PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"boss": {"$ref": "#"}, "at": {"$ref": "#/$defs/place"}},
    "$defs": {"place": {"type": "string"}},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}


def held(**asked: Any) -> Any:
    return constraint_of(Request(messages=[{"role": "user", "content": "x"}], **asked))


def test_a_format_beside_tools_allows_the_answer_and_the_calls() -> None:
    schema = held(tools=[ADD], response_format=FORMAT)["json_schema"]["schema"]
    call, answer = schema["anyOf"]
    assert call["properties"]["name"] == {"const": "add"}
    assert answer["properties"] == {
        "boss": {"$ref": "#/$defs/answer_"},
        "at": {"$ref": "#/$defs/answer_place"},
    }
    assert schema["$defs"] == {"answer_place": {"type": "string"}, "answer_": answer}
    any_json = held(tools=[ADD], response_format={"type": "json_object"})
    assert any_json["json_schema"]["schema"]["anyOf"][1] == {"type": "object"}


def test_an_answer_is_held_to_nothing_more_than_was_asked() -> None:
    assert held(response_format=FORMAT) == FORMAT
    assert held(tools=[ADD], tool_choice="none", response_format=FORMAT) == FORMAT
    assert names(held(tools=[ADD], tool_choice="add", response_format=FORMAT)) == ["add"]
    for free in ({}, {"tools": [ADD]}, {"tools": [ADD], "response_format": {"type": "text"}}):
        assert held(**free) is None
    unknown = {"type": "xml"}
    assert held(tools=[ADD], response_format=unknown) == unknown


def test_a_tool_without_parameters_takes_an_object() -> None:
    call = forced_format([NOW], "required")["json_schema"]["schema"]["anyOf"][0]
    assert call["properties"]["arguments"] == {"type": "object"}


def recovered(deltas: Sequence[Delta], tools: Sequence[Tool]) -> Iterator[Delta]:
    return filter(None, map(Recovery(tools), deltas))


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"\n {CALL} ",
        f"{CALL}\n{CALL}",
        f"```json\n{CALL}\n```",
        f"```\n{CALL}\n{CALL}\n```\n",
        '{"name": "add", "parameters": {"a": 1}}',
    ],
)
def test_an_answer_of_calls_becomes_calls(text: str) -> None:
    answer = collect(recovered([*pieces(text), END], [ADD, NOW]))
    assert (answer.text, answer.finish_reason) == ("", "tool_calls")
    assert [call.name for call in answer.tool_calls] == ["add"] * text.count("add")
    assert json.loads(answer.tool_calls[0].arguments) == {"a": 1}
    assert len({call.id for call in answer.tool_calls}) == len(answer.tool_calls)


@pytest.mark.parametrize(
    "text",
    [
        "Hello {there}",
        '{"name": "sub", "arguments": {}}',
        '{"name": "add", "arguments": [1]}',
        '{"name": "add", "parameters": "1"}',
        '{"name": ["add"], "arguments": {}}',
        '{"name": "add"}',
        '{"name": "add", "arg',
        pytest.param('{"a":' * 2000, id="deep"),
        f"{CALL} and so on",
        f"```json\n{CALL}\n``` and so on",
        f"```json\n{CALL}",
        '```python\n{"a": 1}\n```',
        '```json\n{"a": 1}\n```',
        "",
    ],
)
def test_any_other_answer_stays_text(text: str) -> None:
    answer = collect(recovered([*pieces(text), END], [ADD]))
    assert (answer.text, answer.tool_calls, answer.finish_reason) == (text, (), "stop")


@pytest.mark.parametrize("text", [CALL, f"{CALL} and so on", '{"name": "add", "arg'])
def test_log_probabilities_of_what_is_held_back_are_kept(text: str) -> None:
    said = [replace(piece, logprobs=({"token": piece.text},)) for piece in pieces(text)]
    answer = collect(recovered([*said, replace(END, logprobs=({"token": ""},))], [ADD]))
    assert [each["token"] for each in answer.logprobs] == [*(each.text for each in said), ""]


def test_a_call_that_is_there_is_not_replaced_by_what_stands_beside_it() -> None:
    there = ToolCall(0, "call_1", "now", "{}")
    answer = collect(recovered([*pieces(CALL), replace(END, tool_calls=(there,))], [ADD, NOW]))
    assert answer.tool_calls == (there,)
    assert answer.text == CALL


def test_text_after_a_call_that_is_there_is_passed_on_once() -> None:
    there = ToolCall(0, "call_1", "now", "{}")
    deltas = [Delta(text="{a"), Delta(tool_calls=(there,)), Delta(text="b"), Delta(text="c}"), END]
    answer = collect(recovered(deltas, [ADD, NOW]))
    assert (answer.tool_calls, answer.text) == ((there,), "{abc}")


def test_templates_get_objects_for_arguments() -> None:
    calls = [
        {"id": "c", "function": {"name": "add", "arguments": text}} for text in ('{"a":1}', "")
    ]
    message: Message = {"role": "assistant", "tool_calls": calls}
    given = with_objects(message, 0)
    assert [call["function"]["arguments"] for call in given["tool_calls"]] == [{"a": 1}, {}]
    assert calls[0]["function"] == {"name": "add", "arguments": '{"a":1}'}, "the caller's own"
    assert with_objects({"role": "user", "content": "x"}, 0) == {"role": "user", "content": "x"}


def test_plain_text_is_not_held_back() -> None:
    seen = recovered([*pieces("Hello"), END], [ADD])
    assert [delta.text for delta in seen] == ["Hel", "lo", ""]


def test_without_tools_nothing_is_looked_at() -> None:
    answer = collect(recovered([*pieces(CALL), END], []))
    assert answer.text == CALL


def test_definitions_of_every_tool_stand_where_their_references_point() -> None:
    def of(name: str, kind: str) -> dict[str, Any]:
        parameters = {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/A"}, "again": {"$ref": "#"}},
            "$defs": {"A": {"type": kind, "items": {"$ref": "#/$defs/A"}}},
        }
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    schema = forced_format([of("f", "array"), of("g", "string")], "required")["json_schema"]
    schema = schema["schema"]
    f, g = (each["properties"]["arguments"]["properties"] for each in schema["anyOf"])

    def at(reference: str) -> Any:
        found = schema
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        return found

    assert at(f["a"]["$ref"])["type"] == "array"
    assert at(at(f["a"]["$ref"])["items"]["$ref"])["type"] == "array"
    assert at(g["a"]["$ref"])["type"] == "string"
    assert at(f["again"]["$ref"])["properties"] == f
    plain = {"type": "function", "function": {"name": "f"}}
    assert "$defs" not in forced_format([plain], "f")["json_schema"]["schema"]
