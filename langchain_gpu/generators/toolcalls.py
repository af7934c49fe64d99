"""Tool definitions for engines, and tool calls that small models write as bare JSON."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_gpu.generators.base import Delta, Message, ToolCall

Tool = Mapping[str, Any]

# How small models begin a call that they write as text: bare, or as a block of code.
_BEGINNING = re.compile(r"\{.*|`{1,2}|```(j|js|jso|json)?\s*(\{.*)?", re.DOTALL)
_BLOCK = re.compile(r"```(?:json)?\s(.*)```", re.DOTALL)


def new_call_id() -> str:
    """Return an id for a call that its engine gave none: the answer to it must name one."""
    return f"call_{uuid.uuid4().hex[:16]}"


def no_tools(template: str) -> ValueError:
    """Return what to raise where tools are given and `template`, as in "its template", has none."""
    return ValueError(
        f"{template} cannot describe tools: take a model that was trained for them, or ask for "
        f"JSON with with_structured_output(schema, method='json_schema')"
    )


def with_objects(message: Message, at: int) -> dict[str, Any]:
    """Return a message whose calls have objects for arguments, as templates want them, no JSON.

    Args:
        message: Any message, in the OpenAI chat format.
        at: Its position in the chat.

    Raises:
        ValueError: Arguments of a call are no JSON; names the message and the function.
    """
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    return {**message, "tool_calls": [_with_object(call, at) for call in calls]}


def _with_object(call: Mapping[str, Any], at: int) -> dict[str, Any]:
    function = dict(call["function"])
    if isinstance(text := function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(text or "{}")
        except ValueError as error:
            raise ValueError(
                f"message {at}: the arguments of the call {function['name']!r} are not JSON "
                f"({error})"
            ) from None
    return {**call, "function": function}


class Recovery:
    """Turns an answer that is nothing but JSON calls of known tools into tool calls.

    Text that begins like a JSON object, or like a block of code that holds one, is held back until
    the end shows what it is; any other text passes at once, as do log probabilities.

    Args:
        tools: Tool definitions in the OpenAI format.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._names = {tool["function"]["name"] for tool in tools}
        self._held = ""
        self._passing = not self._names

    def __call__(self, delta: Delta) -> Delta | None:
        """Return the piece to pass on; None while all of it is held back."""
        if self._passing:
            return delta
        self._held += delta.text
        if delta.tool_calls:  # found by somebody else: what stands beside them is text
            self._passing = True
            return replace(delta, text=self._held)
        start = self._held.lstrip()
        if start and not _BEGINNING.fullmatch(start):
            self._passing = True
            return replace(delta, text=self._held)
        if delta.finish_reason is None:
            rest = replace(delta, text="")
            return rest if delta.reasoning or delta.logprobs else None
        if calls := _parse(start, self._names):
            return replace(delta, text="", tool_calls=calls, finish_reason="tool_calls")
        return replace(delta, text=self._held)


def _parse(text: str, names: set[str]) -> tuple[ToolCall, ...]:
    """Return the calls that `text` consists of; none if anything in it is not a call."""
    if block := _BLOCK.fullmatch(text.strip()):
        text = block[1]
    calls: list[ToolCall] = []
    decoder = json.JSONDecoder()
    while text := text.strip():
        try:
            call, end = decoder.raw_decode(text)
            name = call["name"]
            # The templates of Llama 3 teach the other word.
            arguments = call["arguments" if "arguments" in call else "parameters"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return ()
        if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
            return ()
        calls.append(ToolCall(len(calls), new_call_id(), name, json.dumps(arguments)))
        text = text[end:]
    return tuple(calls)


__all__ = ["Recovery", "Tool", "new_call_id", "no_tools", "with_objects"]
