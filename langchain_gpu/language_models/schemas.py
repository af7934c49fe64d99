"""JSON schemas and tool definitions of everything that LangChain accepts as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel
from typing_extensions import is_typeddict

from langchain_gpu.language_models.typed_dicts import unmarked

_DEFINITIONS = ("$defs", "definitions")
# What a dictionary that describes a tool holds, and a JSON schema does not.
_TOOL = frozenset({"name", "function", "toolSpec"})
# What bounds a value, one of which a schema holds that is to be enforced.
_BOUNDS = frozenset(
    {
        *("$ref", "additionalProperties", "allOf", "anyOf", "const", "enum", "items", "oneOf"),
        *("patternProperties", "prefixItems", "properties", "required", "type"),
    }
)
_BESIDE = ("title", "description")


def to_json_schema(schema: Any) -> dict[str, Any]:
    """Return the JSON schema of a pydantic class, TypedDict, function, tool or JSON schema.

    LangChain writes references out, and where a class holds itself it lets anything stand in its
    place: those schemas keep their references. Of a JSON schema it keeps only one that has
    properties: others stay what they are.

    Raises:
        ValueError: It is none of them, or would let the model write anything.
    """
    found = _given(schema) if isinstance(schema, Mapping) else _recursive(schema)
    if found is None:
        found = _converted(schema, convert_to_json_schema)
    if not _BOUNDS & found.keys():
        raise ValueError(
            f"this schema lets anything be written: {schema!r}; a JSON schema has a 'type', "
            f"'properties', 'anyOf', 'enum' or '$ref'"
        )
    return found


def to_tool(tool: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """Return a tool's definition in the OpenAI format.

    Raises:
        ValueError: It is not a tool, or takes something other than an object.
    """
    given = _given(tool)
    if given is not None and "title" in given:
        tool = {"name": given["title"], "description": given.get("description", "")}
        tool["parameters"] = _without(given, _BESIDE)
    converted = _converted(tool, partial(convert_to_openai_tool, strict=strict))
    asked = tool if isinstance(tool, type) else getattr(tool, "tool_call_schema", None)
    if (schema := _recursive(asked)) is not None:
        converted["function"]["parameters"] = _without(schema, _BESIDE)
    _check_object(converted.get("function"))
    return converted


def _converted(schema: Any, convert: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Have LangChain convert a schema or a tool.

    Of a TypedDict it takes every key as required, and raises at those marked with `NotRequired`;
    where it says nothing of itself, LangChain takes what Python says of `dict`.

    Raises:
        ValueError: It cannot be converted.
    """
    try:
        if isinstance(schema, type) and issubclass(schema, Enum):
            raise TypeError("an Enum is a value, not an object")  # noqa: TRY301 - as its own errors are
        if not is_typeddict(schema):
            return convert(schema)
        plain, optional = unmarked(schema)
        converted = convert(plain)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"no JSON schema can be made of {schema!r}: {error}. Take a pydantic class, a "
            f"TypedDict, a function or a JSON schema; a class can hold anything else as a field"
        ) from error
    described = converted.get("function", converted)
    if not schema.__doc__:
        described["description"] = ""
    parameters = described.get("parameters", converted)
    if optional and "required" in parameters:
        parameters["required"] = [key for key in parameters["required"] if key not in optional]
    return converted


def to_tool_choice(choice: Any) -> str:
    """Bring everything LangChain and OpenAI write for it to one string.

    Raises:
        ValueError: It is neither a string nor a bool, or names no tool.
    """
    if isinstance(choice, dict):
        named = choice.get("function", choice)
        name = named.get("name") if isinstance(named, dict) else None
        choice = name if name is not None else choice.get("type")
    if choice is not None and not isinstance(choice, (str, bool)):
        raise ValueError(
            f"tool_choice={choice!r} is not known: use 'auto', 'none', 'any' or a tool's name"
        )
    if choice is None or choice is False:
        return "auto"
    return "required" if choice is True or choice == "any" else choice


def _given(schema: Any) -> dict[str, Any] | None:
    """Return what was given as a JSON schema, or in OpenAI's response format; None for the rest."""
    if not isinstance(schema, Mapping):
        return None
    named = schema.get("json_schema", schema)
    if isinstance(named, Mapping) and isinstance(named.get("schema"), Mapping):
        return _rooted({"title": named.get("name", "answer"), **named["schema"]})
    return None if _TOOL & schema.keys() else _rooted(schema)


def _recursive(schema: Any) -> dict[str, Any] | None:
    """Return the schema of a pydantic class that holds itself, or None for any other."""
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return None
    whole = schema.model_json_schema()
    definitions = whole.get("$defs", {})
    if not any(_reaches(name, name, definitions, set()) for name in definitions):
        return None
    return _rooted(whole)


def _rooted(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose root is not a reference: engines want an object there."""
    whole = dict(schema)
    seen = set()
    while (found := _defined(whole, whole.get("$ref"))) is not None and whole["$ref"] not in seen:
        seen.add(whole.pop("$ref"))
        whole = {**found, **whole}
    return whole


def _defined(schema: Mapping[str, Any], reference: Any) -> Mapping[str, Any] | None:
    for place in _DEFINITIONS:
        start = f"#/{place}/"
        if isinstance(reference, str) and reference.startswith(start):
            found = schema.get(place, {}).get(reference.removeprefix(start))
            return found if isinstance(found, Mapping) else None
    return None


def _check_object(function: Any) -> None:
    parameters = function.get("parameters") if isinstance(function, Mapping) else None
    if isinstance(parameters, Mapping) and not _may_be_object(parameters):
        raise ValueError(
            f"{function.get('name')}: a tool takes an object, and this schema is not one: put it "
            f"into a field of an object, or ask with method='json_schema'"
        )


def _may_be_object(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds):
        return False
    values = schema["enum"] if "enum" in schema else [schema.get("const", {})]
    if not any(isinstance(value, Mapping) for value in values):
        return False
    choices = schema.get("anyOf") or schema.get("oneOf") or ()
    found = [_may_be_object(each) for each in choices if isinstance(each, Mapping)]
    return any(found) or not found


def _without(schema: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in names}


def _reaches(start: str, goal: str, definitions: Mapping[str, Any], seen: set[str]) -> bool:
    if start in seen:
        return False
    seen.add(start)
    named = list(_references(definitions.get(start)))
    return goal in named or any(_reaches(name, goal, definitions, seen) for name in named)


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        reference = part.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            yield reference.removeprefix("#/$defs/")
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


__all__ = ["to_json_schema", "to_tool", "to_tool_choice"]
