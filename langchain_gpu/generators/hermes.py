"""Parse tool calls in the Hermes format, which most chat templates teach.

`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen, SmolLM3 and many others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_gpu.generators.base import Delta, ToolCall
from langchain_gpu.generators.stops import begun
from langchain_gpu.generators.streams import Stage, through
from langchain_gpu.generators.toolcalls import Recovery, new_call_id

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def calls_in_text(tools: Sequence[Mapping[str, Any]]) -> Stage:
    """Return what finds the calls of these tools in an answer: in tags, or in bare JSON."""
    return through(Tagged(), Recovery(tools)) if tools else Recovery(tools)


class Tagged:
    """Turns tagged calls of an answer into tool calls; other text is passed on without delay.

    Text between tags that is not a call is passed on as text, with its tags: nothing is lost.
    """

    def __init__(self) -> None:
        self._held = ""
        self._calls = 0
        self._spoken = True  # since the last call

    def __call__(self, delta: Delta) -> Delta:
        """Return the piece to pass on."""
        held = self._held + delta.text
        found: list[ToolCall] = []
        shown = ""
        last = delta.finish_reason is not None
        while (start := held.find(_OPEN)) >= 0:
            end = held.find(_CLOSE, start)
            if end < 0 and not last:
                break
            body = held[start + len(_OPEN) : end if end >= 0 else None]
            call = read_call(body, self._calls)  # the end tag may be the end token itself
            rest = held[end + len(_CLOSE) :] if end >= 0 else ""
            shown += held[:start] if call else held[: len(held) - len(rest)]
            held = rest.lstrip("\n") if call else rest
            if call is not None:
                found.append(call)
                self._calls += 1
                self._spoken = bool(held.strip())
        if last:
            keep = len(held)
        elif held.find(_OPEN) >= 0:
            keep = held.find(_OPEN)
        else:
            keep = len(held) - begun(held, [_OPEN])
        shown, self._held = shown + held[:keep], held[keep:]
        if not self._spoken:  # what parts a call from the next one is no text
            shown = shown if shown.strip() else ""
            shown = shown if found else shown.lstrip("\n")
            self._spoken = bool(shown) and not found
        calls = last and self._calls and delta.finish_reason == "stop"
        piece = replace(delta, text=shown, tool_calls=(*delta.tool_calls, *found))
        return replace(piece, finish_reason="tool_calls") if calls else piece


class Parsed:
    """Holds the answer back, and gives what `parse` makes of the whole of it.

    Args:
        parse: Whole text to a message in the chat format: `content`, `thinking`, `tool_calls`.
        tools: The tools that may be called; calls of others are text.
    """

    def __init__(self, parse: Any, tools: Sequence[Mapping[str, Any]]) -> None:
        self._parse = parse
        self._names = {tool["function"]["name"] for tool in tools}
        self._held = ""

    def __call__(self, delta: Delta) -> Delta | None:
        """Return the piece to pass on; None while all of it is held back."""
        self._held += delta.text
        if delta.finish_reason is None:
            return replace(delta, text="") if delta.logprobs else None
        message = self._parse(self._held)
        functions = [call.get("function", call) for call in message.get("tool_calls") or ()]
        read = [read_call(function, at) for at, function in enumerate(functions)]
        calls = tuple(call for call in read if call is not None and call.name in self._names)
        if len(calls) < len(functions):  # what cannot be called is shown as it was written
            return replace(delta, text=self._held)
        reason = "tool_calls" if calls and delta.finish_reason == "stop" else delta.finish_reason
        return replace(
            delta,
            text=message.get("content") or "",
            reasoning=message.get("thinking") or message.get("reasoning_content") or "",
            tool_calls=calls,
            finish_reason=reason,
        )


def read_call(body: str | Mapping[str, Any], index: int) -> ToolCall | None:
    """Return the call that JSON text, or what was read of it, describes; None if it is none."""
    try:
        call = json.loads(body) if isinstance(body, str) else body
        name = call["name"]
        arguments = call.get("arguments", call.get("parameters", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(name, str):
        return None
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(index, new_call_id(), name, text)


__all__ = ["Parsed", "Tagged", "calls_in_text", "read_call"]
