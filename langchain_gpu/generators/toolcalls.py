"""Tool calls that no engine parses: forced ones, and those that small models write as bare JSON."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_gpu.generators.base import Delta, Deltas, ToolCall

Tool = Mapping[str, Any]

# How small models begin a call that they write as text: bare, or as a block of code.
_BEGINNING = re.compile(r"\{.*|`{1,2}|```(j|js|jso|json)?\s*(\{.*)?", re.DOTALL)
_BLOCK = re.compile(r"```(?:json)?\s(.*)```", re.DOTALL)


def forced_format(tools: Sequence[Tool], choice: str) -> dict[str, Any]:
    """Return a response format that lets the model write nothing but a call.

    Args:
        tools: Tool definitions in the OpenAI format.
        choice: `"required"`, or the name of one tool.

    Raises:
        ValueError: There is no tool of that name.
    """
    functions = [tool["function"] for tool in tools]
    if choice != "required":
        named = [function for function in functions if function["name"] == choice]
        if not named:
            known = [function["name"] for function in functions]
            raise ValueError(f"tool_choice={choice!r} is none of the tools {known}")
        functions = named
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
        }
        for function in functions
    ]
    return {
        "type": "json_schema",
        "json_schema": {"name": "tool_call", "schema": {"anyOf": calls}},
    }


def recover_calls(deltas: Iterable[Delta], tools: Sequence[Tool]) -> Deltas:
    """Turn an answer that is nothing but JSON calls of known tools into tool calls.

    Text that begins like a JSON object, or like a block of code that holds one, is held back until
    the end shows what it is; any other text passes at once.
    """
    names = {tool["function"]["name"] for tool in tools}
    held = ""
    passing = False
    for delta in deltas:
        if passing or not names:
            yield delta
            continue
        held += delta.text
        start = held.lstrip()
        if start and not _BEGINNING.fullmatch(start):
            passing = True
            yield replace(delta, text=held)
        elif delta.finish_reason is None:
            if delta.reasoning or delta.tool_calls:
                yield replace(delta, text="")
        elif calls := _parse(start, names):
            yield replace(delta, text="", tool_calls=calls, finish_reason="tool_calls")
        else:
            yield replace(delta, text=held)


def _parse(text: str, names: set[str]) -> tuple[ToolCall, ...]:
    """Return the calls that `text` consists of; none if anything in it is no call."""
    if block := _BLOCK.fullmatch(text.strip()):
        text = block[1]
    calls: list[ToolCall] = []
    decoder = json.JSONDecoder()
    while text := text.strip():
        try:
            call, end = decoder.raw_decode(text)
            name, arguments = call["name"], call["arguments"]
        except (ValueError, KeyError, TypeError):
            return ()
        if name not in names or not isinstance(arguments, dict):
            return ()
        call_id = f"call_{uuid.uuid4().hex[:16]}"
        calls.append(ToolCall(len(calls), call_id, name, json.dumps(arguments)))
        text = text[end:]
    return tuple(calls)


__all__ = ["Tool", "forced_format", "recover_calls"]
