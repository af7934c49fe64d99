"""Schemas of every form: nothing that bounds an answer is lost, and what bounds none is refused."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, NotRequired, Required

import pytest
from langchain_core.runnables import RunnableBinding, RunnableSequence
from pydantic import BaseModel, RootModel
from typing_extensions import TypedDict

from langchain_gpu import ChatGPU
from langchain_gpu.language_models.messages import response_format
from langchain_gpu.language_models.schemas import to_json_schema, to_tool

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TEXT = {"type": "object", "properties": {"t": {"type": "string"}}, "required": ["t"]}


class Part(BaseModel):
    kids: list[Part] = []


class Numbers(RootModel[list[int]]):
    """A list."""


class Joke(TypedDict):
    """A joke."""

    setup: Annotated[str, ..., "How it begins."]
    rating: NotRequired[Annotated[int, ..., "From 1 to 10."]]


class Loose(TypedDict, total=False):
    n: Required[int]
    t: str


class Jokes(TypedDict):
    """Some jokes."""

    best: Joke
    others: NotRequired[list[Joke]]
    loose: Loose | None


class Color(Enum):
    RED = "red"


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [NUMBER, TEXT]},
        {"type": "array", "items": {"type": "integer"}},
        {"enum": ["red", "green"]},
        {"type": ["object", "null"], "additionalProperties": {"type": "integer"}},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", **NUMBER},
    ],
)
def test_a_json_schema_is_enforced_as_it_was_given(schema: dict[str, Any]) -> None:
    titled = {"title": "Answer", "description": "One.", **schema}
    assert to_json_schema(titled) == titled
    wanted = response_format(schema, "json_schema")["json_schema"]
    assert wanted == {"name": "answer", "schema": schema}  # a title is a name, and no more


def test_a_reference_at_the_root_is_followed() -> None:
    given = Part.model_json_schema()
    assert "$ref" in given
    found = to_json_schema(given)
    assert (found["type"], list(found["properties"])) == ("object", ["kids"])
    assert found["properties"]["kids"]["items"] == {"$ref": "#/$defs/Part"}
    assert "Part" in found["$defs"]
    named = {"title": "Part", **given}
    assert to_tool(named)["function"]["parameters"]["properties"] == found["properties"]
    old = {"$ref": "#/definitions/A", "definitions": {"A": {"$ref": "#/definitions/B"}, "B": TEXT}}
    assert to_json_schema(old)["properties"] == TEXT["properties"]
    round_and_round = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert to_json_schema(round_and_round) == round_and_round


def test_the_form_of_openai_holds_the_schema() -> None:
    named = {"name": "Number", "schema": NUMBER, "strict": True}
    for given in (named, {"type": "json_schema", "json_schema": named}):
        assert to_json_schema(given) == {"title": "Number", **NUMBER}


@pytest.mark.parametrize("schema", [{}, {"name": "Number"}, {"title": "Number"}, {"city": "text"}])
def test_a_schema_that_bounds_nothing_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lets anything be written"):
        response_format(schema, "json_schema")


def test_a_tool_takes_what_its_schema_says() -> None:
    either = {"title": "Say", "description": "Say it.", "anyOf": [NUMBER, TEXT]}
    function = to_tool(either)["function"]
    assert function == {
        "name": "Say",
        "description": "Say it.",
        "parameters": {"anyOf": [NUMBER, TEXT]},
    }
    assert to_tool({"name": "now", "description": "Now."})["function"] == {
        "name": "now",
        "description": "Now.",
    }


@pytest.mark.parametrize(
    "tool",
    [
        Numbers,
        {"title": "Numbers", "type": "array", "items": {"type": "integer"}},
        {"title": "Numbers", "enum": [1, 2]},
        {"title": "Numbers", "const": 1},
        {"title": "Numbers", "anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"name": "Numbers", "parameters": {"type": ["string", "null"]}},
    ],
)
def test_a_tool_that_takes_no_object_is_refused(tool: Any) -> None:
    with pytest.raises(ValueError, match=r"Numbers: a tool takes an object.*json_schema"):
        to_tool(tool)


def test_a_schema_without_a_title_can_be_called() -> None:
    asked = ChatGPU(model="m").with_structured_output(NUMBER, method="function_calling")
    assert isinstance(asked, RunnableSequence)
    bound = asked.first
    assert isinstance(bound, RunnableBinding)
    (tool,) = bound.kwargs["tools"]
    assert tool["function"]["name"] == "answer"
    assert tool["function"]["parameters"] == NUMBER


def test_a_typed_dict_may_lack_what_it_says() -> None:
    found = to_json_schema(Joke)
    assert (found["title"], found["required"]) == ("Joke", ["setup"])
    assert found["properties"] == {
        "setup": {"type": "string", "description": "How it begins."},
        "rating": {"type": "integer", "description": "From 1 to 10."},
    }
    called = to_tool(Joke)["function"]
    assert (called["name"], called["description"]) == ("Joke", "A joke.")
    assert called["parameters"]["required"] == ["setup"]
    loose = to_json_schema(Loose)
    assert (list(loose["properties"]), loose["required"]) == (["n", "t"], ["n"])
    assert (loose["description"], to_tool(Loose)["function"]["description"]) == ("", "")


@pytest.mark.parametrize("schema", [Color, int, list[int], "x", 3])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_what_is_no_schema_is_named(schema: Any, method: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)no JSON schema can be made of .*: .*pydantic class"):
        ChatGPU(model="no/such-model").with_structured_output(schema, method=method)


def test_a_typed_dict_within_another_keeps_what_it_may_lack() -> None:
    joke = {"setup": {"type": "string"}, "rating": {"type": "integer"}}
    for made in (to_json_schema(Jokes), to_tool(Jokes)["function"]["parameters"]):
        assert sorted(made["required"]) == ["best", "loose"]
        best, others = made["properties"]["best"], made["properties"]["others"]["items"]
        for each in (best, others):
            assert each["required"] == ["setup"]
            kinds = {name: {"type": field["type"]} for name, field in each["properties"].items()}
            assert kinds == joke
        assert "'required': ['n']" in str(made["properties"]["loose"])
