"""LangChain messages to dictionaries for engines, and an engine's answers to messages."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
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
from langchain_core.utils.json import parse_partial_json

from langchain_gpu.generators.base import Completion, Delta, Timings, ToolCall, Usage
from langchain_gpu.generators.checks import check_text
from langchain_gpu.language_models import images
from langchain_gpu.language_models.calls import calls_of
from langchain_gpu.language_models.schemas import to_json_schema

_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
)
# Blocks of an assistant's message that say nothing to the model: the calls stand beside the text,
# and thoughts of earlier turns are left out, as the templates of reasoning models do.
# Conversations that began with another provider's model hold its kinds of both.
_SILENT_BLOCKS = frozenset(
    {
        *("tool_call", "tool_call_chunk", "invalid_tool_call"),
        *("tool_use", "input_json_delta", "function_call"),
        *("reasoning", "thinking", "redacted_thinking"),
    }
)
# Where the text of a block stands, by the block's type.
_TEXTS = {"text": "text", "text-plain": "text", "refusal": "refusal"}
# Ends that may come in the middle of a call, which is then the last one.
_CUT = frozenset({"length", "content_filter"})
# Brackets of the wrong kind, behind the end of a text that is open, or of one open at an escape.
_MARKS = ("", "]", "}", '"]', '"}', '""]', '""}')


def to_dicts(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the chat in the format that chat templates read; `Message` says where images stand.

    Raises:
        ValueError: A message of an unknown kind, content that is neither text nor an image, or text
            that cannot be encoded; the message is named by its position.
    """
    answered = {each.tool_call_id for each in messages if isinstance(each, ToolMessage)}
    return [_to_dict(each, answered, f"message {index}") for index, each in enumerate(messages)]


def to_message(completion: Completion, metadata: Mapping[str, Any]) -> AIMessage:
    """Return a whole answer; arguments that are no JSON become invalid tool calls."""
    calls, invalid = [], []
    for at, call in enumerate(completion.tool_calls, 1):
        cut = at == len(completion.tool_calls) and completion.finish_reason in _CUT
        try:
            arguments = _arguments(call.arguments, cut=cut)
        except ValueError as error:
            invalid.append(
                invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=str(error))
            )
        else:
            calls.append(tool_call(name=call.name or "", args=arguments, id=call.id))
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
    if delta.only_text:  # most are, and every field that is given costs time
        return AIMessageChunk(content=delta.text)
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


class BrokenCalls:
    """Marks the calls of a streamed answer whose arguments are no JSON object when it ends.

    LangChain completes arguments that were cut, and a tool would be run with half a path. After a
    bracket that closes nothing it lists the call under `invalid_tool_calls`, where `to_message` has
    it too.
    """

    def __init__(self) -> None:
        self._arguments: dict[int, str] = {}

    def __call__(self, delta: Delta) -> Iterator[Delta]:
        """Pass on a piece; marks come before what says that the answer has ended."""
        for call in delta.tool_calls:
            self._arguments[call.index] = self._arguments.get(call.index, "") + call.arguments
        marks = self._marks(delta.finish_reason) if delta.finish_reason else ()
        if not marks:
            yield delta
            return
        # A piece of their own: LangChain joins calls of several chunks, its events not of the last.
        yield replace(delta, finish_reason=None, usage=None, timings=None, model=None)
        yield Delta(tool_calls=marks)
        yield replace(delta, text="", reasoning="", tool_calls=(), logprobs=())

    def _marks(self, reason: str) -> tuple[ToolCall, ...]:
        marks = []
        for index, arguments in self._arguments.items():
            cut = index == max(self._arguments) and reason in _CUT
            if mark := _mark(arguments, cut=cut):
                marks.append(ToolCall(index, None, None, mark))
        return tuple(marks)


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


def _to_dict(message: BaseMessage, answered: Container[str], where: str) -> dict[str, Any]:
    role = _role(message, where)
    where = f"{where} ({role})"
    result: dict[str, Any] = {"role": role, "content": _content(message, where)}
    if message.name:
        result["name"] = _encodable(message.name, where)
    if isinstance(message, AIMessage) and (calls := calls_of(message, answered, where)):
        result["tool_calls"] = calls
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    return result


def _role(message: BaseMessage, where: str) -> str:
    if isinstance(message, ChatMessage):
        if not message.role.strip():
            raise ValueError(f"{where}: a ChatMessage needs a role, such as 'user'")
        return _encodable(message.role, where)
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    raise ValueError(f"{where}: a {type(message).__name__} has no place in a chat with a model")


def _content(message: BaseMessage, where: str) -> str | list[dict[str, Any]]:
    """Return the text of a message, or its parts where it holds images."""
    content: Any = message.content
    if isinstance(content, str):
        return _encodable(content, where)
    parts: list[dict[str, Any]] = []
    for at, block in enumerate(content):
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind in _TEXTS:
            text = block if isinstance(block, str) else block.get(_TEXTS[kind])
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f"{where}: block {at} is of text and holds {kind}, not str")
            _add_text(parts, _encodable(text, where))
        elif kind in images.KINDS and not isinstance(message, AIMessage | SystemMessage):
            parts.append(images.image_part(block, f"{where}, block {at}"))
        elif kind in images.KINDS:
            raise ValueError(f"{where}: block {at} is an image: put it into a HumanMessage")
        elif kind not in _SILENT_BLOCKS:
            raise ValueError(
                f"{where}: block {at} is content of type {kind!r}, and only text and images can be "
                "read"
            )
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _add_text(parts: list[dict[str, Any]], text: str) -> None:
    if parts and parts[-1]["type"] == "text":
        parts[-1]["text"] += text
    else:
        parts.append({"type": "text", "text": text})


def _encodable(text: str, where: str) -> str:
    check_text(where, text)
    return text


def _arguments(text: str, *, cut: bool) -> dict[str, Any]:
    """Return the arguments of a call; a line break inside a text is no reason to refuse them.

    Args:
        text: JSON; nothing for a tool that takes nothing.
        cut: The answer was cut in this call: then nothing is not yet anything.

    Raises:
        ValueError: They are no JSON object.
    """
    try:
        arguments = json.loads(text or ("" if cut else "{}"), strict=False)
    except RecursionError:
        raise ValueError("arguments are nested too deep") from None
    if not isinstance(arguments, dict):
        raise ValueError(  # noqa: TRY004 - as for what is no JSON at all
            f"arguments must be a JSON object, not {type(arguments).__name__}"
        )
    return arguments


def _mark(text: str, *, cut: bool) -> str:
    """Return what keeps LangChain from completing arguments; nothing where it would not."""
    try:
        _arguments(text, cut=cut)
    except ValueError:
        return next(mark for mark in _MARKS if not _completed(text + mark))
    return ""


def _completed(text: str) -> bool:
    """Whether LangChain makes arguments of it, as `AIMessageChunk` does."""
    try:
        return isinstance(parse_partial_json(text) if text else {}, dict)
    except (ValueError, RecursionError):
        return False


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


__all__ = ["BrokenCalls", "end_metadata", "response_format", "to_chunk", "to_dicts", "to_message"]
