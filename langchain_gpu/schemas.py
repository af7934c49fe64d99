"""JSON schemas of what LangChain accepts, recursive ones whole, and which tool is to be called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

_DEFINITION = "#/$defs/"


def to_json_schema(schema: Any) -> dict[str, Any]:
    """Return the JSON schema of a pydantic class, TypedDict, function, tool or JSON schema.

    LangChain writes references out, and where a class holds itself it lets anything stand in its
    place: those schemas keep their references.
    """
    converted: dict[str, Any] = convert_to_json_schema(schema)
    return _recursive(schema) or converted


def to_tool(tool: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """Return a tool's definition in the OpenAI format."""
    converted: dict[str, Any] = convert_to_openai_tool(tool, strict=strict)
    asked = tool if isinstance(tool, type) else getattr(tool, "tool_call_schema", None)
    if (schema := _recursive(asked)) is not None:
        left_out = ("title", "description")
        parameters = {name: value for name, value in schema.items() if name not in left_out}
        converted["function"]["parameters"] = parameters
    return converted


def to_tool_choice(choice: Any) -> str:
    """Bring everything LangChain and OpenAI write for it to one string.

    Raises:
        ValueError: It is no text, no bool, and names no tool.
    """
    if isinstance(choice, dict):
        named = choice.get("function", choice)
        name = named.get("name") if isinstance(named, dict) else None
        choice = name if name is not None else choice.get("type")
    if choice is not None and not isinstance(choice, (str, bool)):
        raise ValueError(
            f"tool_choice={choice!r} is not known: take 'auto', 'none', 'any' or a tool's name"
        )
    if choice is None or choice is False:
        return "auto"
    return "required" if choice is True or choice == "any" else choice


def _recursive(schema: Any) -> dict[str, Any] | None:
    """Return the schema of a pydantic class that holds itself, or None for any other."""
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return None
    whole = schema.model_json_schema()
    definitions = whole.get("$defs", {})
    if not any(_reaches(name, name, definitions, set()) for name in definitions):
        return None
    if (root := whole.pop("$ref", None)) is not None:  # engines want an object at the root
        whole = {**definitions[root.removeprefix(_DEFINITION)], **whole}
    return whole


def _reaches(start: str, goal: str, definitions: Mapping[str, Any], seen: set[str]) -> bool:
    if start in seen:
        return False
    seen.add(start)
    named = list(_references(definitions.get(start)))
    return goal in named or any(_reaches(name, goal, definitions, seen) for name in named)


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        reference = part.get("$ref")
        if isinstance(reference, str) and reference.startswith(_DEFINITION):
            yield reference.removeprefix(_DEFINITION)
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


__all__ = ["to_json_schema", "to_tool", "to_tool_choice"]
