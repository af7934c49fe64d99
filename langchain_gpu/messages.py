"""LangChain messages to the dicts engines read, and an engine's answer back to messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk

from langchain_gpu.generators.base import Completion, Delta, Timings, ToolCall, Usage
from langchain_gpu.generators.checks import check_text
from langchain_gpu.schemas import to_json_schema

_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
)
# Blocks of an assistant's message that say nothing to the model: the calls stand beside the text,
# and thoughts of earlier turns are left out, as the templates of reasoning models do.
_SILENT_BLOCKS = frozenset({"tool_use", "tool_call", "reasoning", "thinking"})


def to_dicts(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the chat in the format that chat templates read.

    Raises:
        ValueError: A message of an unknown kind, content that is not text, or text that cannot be
            encoded; the message is named by its position.
    """
    return [_to_dict(message, f"message {index}") for index, message in enumerate(messages)]


def to_message(completion: Completion, metadata: Mapping[str, Any]) -> AIMessage:
    """Return a whole answer; arguments that are no JSON become invalid tool calls."""
    calls, invalid = [], []
    for call in completion.tool_calls:
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError as error:
            invalid.append(
                invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=str(error))
            )
        else:
            if isinstance(arguments, dict):
                calls.append(tool_call(name=call.name or "", args=arguments, id=call.id))
                continue
            reason = f"arguments must be a JSON object, not {type(arguments).__name__}"
            invalid.append(
                invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=reason)
            )
    return AIMessage(
        content=completion.text,
        additional_kwargs=_reasoning(completion.reasoning),
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=_usage(completion.usage) if completion.usage else None,
        response_metadata={
            **end_metadata(completion.finish_reason, completion.timings, metadata),
            **_named(completion),
        },
    )


def to_chunk(delta: Delta, metadata: Mapping[str, Any]) -> AIMessageChunk:
    """Return the next piece of an answer; only the last one carries usage and metadata."""
    last = delta.finish_reason is not None
    end = end_metadata(delta.finish_reason, delta.timings, metadata) if last else {}
    return AIMessageChunk(
        content=delta.text,
        additional_kwargs=_reasoning(delta.reasoning),
        tool_call_chunks=[_call_chunk(call) for call in delta.tool_calls],
        usage_metadata=_usage(delta.usage) if delta.usage else None,
        response_metadata={**end, **_named(delta)},
        chunk_position="last" if last else None,
    )


def end_metadata(
    finish_reason: str | None, timings: Timings | None, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `response_metadata` says of a finished answer."""
    times = asdict(timings) if timings else None
    return {**metadata, "finish_reason": finish_reason, "timings": times}


def _named(answer: Completion | Delta) -> dict[str, Any]:
    """What only some engines say: their own name of the model, and log probabilities."""
    found: dict[str, Any] = {"model_name": answer.model} if answer.model else {}
    if answer.logprobs:  # chunks add up: LangChain joins the lists
        found["logprobs"] = {"content": [dict(each) for each in answer.logprobs]}
    return found


def _to_dict(message: BaseMessage, where: str) -> dict[str, Any]:
    role = _role(message, where)
    where = f"{where} ({role})"
    result: dict[str, Any] = {"role": role, "content": _text(message.content, where)}
    if message.name:
        result["name"] = _encodable(message.name, where)
    if isinstance(message, AIMessage) and message.tool_calls:
        result["tool_calls"] = [
            _call(call, f"{where}, tool call {at}", at)
            for at, call in enumerate(message.tool_calls)
        ]
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    return result


def _call(call: Mapping[str, Any], where: str, at: int) -> dict[str, Any]:
    try:
        arguments = json.dumps(call["args"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} ({call['name']}): its arguments are no JSON: {error}") from None
    # Templates and servers want an id where LangChain allows None.
    name = call["id"] or f"call_{at}"
    return {
        "type": "function",
        "id": name,
        "function": {"name": call["name"], "arguments": arguments},
    }


def _role(message: BaseMessage, where: str) -> str:
    if isinstance(message, ChatMessage):
        if not message.role.strip():
            raise ValueError(f"{where}: a ChatMessage needs a role, such as 'user'")
        return _encodable(message.role, where)
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    raise ValueError(f"{where}: a {type(message).__name__} has no place in a chat with a model")


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return _encodable(content, where)
    parts = []
    for block in content:
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind == "text":
            text = block if isinstance(block, str) else block.get("text")
            if not isinstance(text, str):
                raise ValueError(f"{where}: a block of text holds no text but {text!r}")
            parts.append(text)
        elif kind not in _SILENT_BLOCKS:
            raise ValueError(f"{where}: content of type {kind!r} cannot be read, only text")
    return _encodable("".join(parts), where)


def _encodable(text: str, where: str) -> str:
    check_text(where, text)
    return text


def _call_chunk(call: ToolCall) -> Any:
    return tool_call_chunk(name=call.name, args=call.arguments, id=call.id, index=call.index)


def _reasoning(text: str) -> dict[str, Any]:
    return {"reasoning_content": text} if text else {}


def _usage(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
    )


def response_format(schema: Any, method: str) -> dict[str, Any]:
    """Return what an engine that enforces formats is told.

    Args:
        schema: A pydantic class, TypedDict, function, tool or JSON schema; None for `"json_mode"`.
        method: `"json_schema"` or `"json_mode"`.
    """
    if method == "json_mode":
        return {"type": "json_object"}
    json_schema = to_json_schema(schema)
    name = json_schema.get("title", "answer")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": json_schema}}


__all__ = ["end_metadata", "response_format", "to_chunk", "to_dicts", "to_message"]
