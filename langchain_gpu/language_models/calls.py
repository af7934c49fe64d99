"""The tool calls of a conversation, as engines are told of them."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from langchain_core.messages import AIMessage, InvalidToolCall

# Templates and servers want an object, and those of an invalid call are none.
_INVALID = "invalid_json"


def calls_of(message: AIMessage, answered: Container[str], where: str) -> list[dict[str, Any]]:
    """Return the calls of a message, and the invalid ones that have an answer.

    `create_agent` tells the model in a tool message that a call was malformed. Without the call the
    model would not know what that is about, and some templates and servers refuse such a chat. As
    they refuse a call without an answer, the other invalid ones are left out.

    Args:
        message: What the model said.
        answered: Ids of the calls that a tool message answers.
        where: Names the message in errors.

    Raises:
        ValueError: Arguments cannot be written as JSON.
    """
    invalid = [_readable(each) for each in message.invalid_tool_calls if each["id"] in answered]
    calls = enumerate([*message.tool_calls, *invalid])
    return [_call(call, f"{where}, tool call {at}", at) for at, call in calls]


def _readable(call: InvalidToolCall) -> dict[str, Any]:
    return {
        "name": call["name"] or "unknown",
        "args": {_INVALID: call["args"] or ""},
        "id": call["id"],
    }


def _call(call: Mapping[str, Any], where: str, at: int) -> dict[str, Any]:
    try:
        arguments = json.dumps(call["args"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} ({call['name']}): its arguments are not JSON: {error}") from None
    # Templates and servers want an id where LangChain allows None.
    name = call["id"] or f"call_{at}"
    return {
        "type": "function",
        "id": name,
        "function": {"name": call["name"], "arguments": arguments},
    }


__all__ = ["calls_of"]
