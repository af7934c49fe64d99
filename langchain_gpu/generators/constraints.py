"""The JSON schema that an answer is constrained to: a response format, a tool call, or either."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_gpu.generators.base import Request
from langchain_gpu.generators.toolcalls import Tool


def constraint_of(request: Request) -> Mapping[str, Any] | None:
    """Return the response format that the answer must match; None if it is unconstrained.

    Where a request has both tools and a format, the answer may be either: constrained to the format
    alone, the model could not call a tool.
    """
    if request.must_call:
        return forced_format(request.tools, request.tool_choice)
    wanted = request.response_format
    if wanted is None or not request.constrained:
        return None
    schema = schema_of(wanted)
    if not request.callable_tools or schema is None:
        return wanted
    return forced_format(request.tools, "required", schema)


def schema_of(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the JSON schema of a response format in OpenAI's form; None if its type is unknown."""
    kind = response_format.get("type")
    if kind == "json_schema":
        schema: Mapping[str, Any] = response_format["json_schema"]["schema"]
        return schema
    if kind == "json_object":
        return response_format.get("schema") or {"type": "object"}
    return None


def enforced(response_format: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the JSON schema that an answer is held to.

    Raises:
        ValueError: It is a format of an unknown type.
    """
    schema = schema_of(response_format)
    if schema is None:
        raise ValueError(
            f"response_format of type {response_format.get('type')!r} is not known: take "
            f"'json_schema' or 'json_object'"
        )
    return schema


def forced_format(
    tools: Sequence[Tool], choice: str, answer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a response format that lets the model write nothing but a call, or `answer`.

    Args:
        tools: Tool definitions in the OpenAI format.
        choice: `"required"`, or the name of one tool.
        answer: The schema of an answer that is allowed in place of a call.

    Raises:
        ValueError: There is no tool of that name.
    """
    functions = [tool["function"] for tool in tools]
    if choice != "required":
        named = [function for function in functions if function["name"] == choice]
        if not named:
            known = [function["name"] for function in functions]
            raise ValueError(f"tool_choice={choice!r} is not one of the tools {known}")
        functions = named
    definitions: dict[str, Any] = {}
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": _lifted(function.get("parameters"), f"tool{at}_", definitions),
            },
            "required": ["name", "arguments"],
        }
        for at, function in enumerate(functions)
    ]
    if answer is not None:
        calls.append(_lifted(answer, "answer_", definitions))
    schema: dict[str, Any] = {"anyOf": calls}
    if definitions:
        schema["$defs"] = definitions
    return {"type": "json_schema", "json_schema": {"name": "tool_call", "schema": schema}}


def _lifted(
    parameters: Mapping[str, Any] | None, prefix: str, definitions: dict[str, Any]
) -> dict[str, Any]:
    """Return a schema for use inside another one: its definitions are moved to `definitions`."""
    if not parameters:
        return {"type": "object"}
    own = {name: parameters.get(name, {}) for name in ("$defs", "definitions")}

    def renamed(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {
                name: _target(value, prefix) if name == "$ref" else renamed(value)
                for name, value in part.items()
            }
        return [renamed(each) for each in part] if isinstance(part, list) else part

    for each in own.values():
        definitions |= {prefix + name: renamed(value) for name, value in each.items()}
    schema: dict[str, Any] = renamed({k: v for k, v in parameters.items() if k not in own})
    if '"#/$defs/' + prefix + '"' in json.dumps(schema) + json.dumps(definitions):  # to the root
        definitions[prefix] = schema
    return schema


def _target(reference: Any, prefix: str) -> Any:
    if reference == "#":
        return f"#/$defs/{prefix}"
    for place in ("#/$defs/", "#/definitions/"):
        if isinstance(reference, str) and reference.startswith(place):
            return f"#/$defs/{prefix}{reference.removeprefix(place)}"
    return reference


__all__ = ["constraint_of", "enforced", "forced_format", "schema_of"]
