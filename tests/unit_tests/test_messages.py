"""LangChain's messages to chat dicts, and answers back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.tool import tool_call
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from langchain_gpu.generators.base import (
    Completion,
    Delta,
    FinishReason,
    Timings,
    ToolCall,
    Usage,
)
from langchain_gpu.language_models.messages import (
    BrokenCalls,
    response_format,
    to_chunk,
    to_dicts,
    to_message,
)
from langchain_gpu.language_models.structured_output import structured

USAGE = Usage(7, 5, cached_tokens=2)
TIMINGS = Timings(0.5, 1.0, 8.0)


def test_roles_and_texts() -> None:
    chat = [
        SystemMessage("be brief"),
        HumanMessage("hi", name="ann"),
        AIMessage("hello"),
        ChatMessage(role="critic", content="too long"),
    ]
    assert to_dicts(chat) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": "hello"},
        {"role": "critic", "content": "too long"},
    ]


def test_a_tool_call_and_its_result() -> None:
    call = tool_call(name="add", args={"a": 1}, id="c1")
    asked, answered = to_dicts(
        [AIMessage("", tool_calls=[call]), ToolMessage("2", tool_call_id="c1")]
    )
    assert asked["tool_calls"][0]["id"] == "c1"
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert answered == {"role": "tool", "content": "2", "tool_call_id": "c1"}


def test_text_blocks_are_joined_and_silent_ones_left_out() -> None:
    blocks: list[Any] = [
        "one ",
        {"type": "text", "text": "two"},
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {}},
    ]
    assert to_dicts([AIMessage(blocks)]) == [{"role": "assistant", "content": "one two"}]


def test_content_that_is_no_text_is_named() -> None:
    sound = HumanMessage([{"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}])
    with pytest.raises(ValueError, match=r"message 1 \(user\): block 0 is content of type 'audio'"):
        to_dicts([SystemMessage("x"), sound])


@pytest.mark.parametrize("message", [FunctionMessage(name="f", content="x"), RemoveMessage(id="1")])
def test_other_kinds_of_messages_are_named(message: BaseMessage) -> None:
    with pytest.raises(ValueError, match=f"message 0: a {type(message).__name__}"):
        to_dicts([message])


def test_half_a_surrogate_pair_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"message 0 \(user\): character 2 .*\\udc80"):
        to_dicts([HumanMessage("ab\udc80")])


def test_nul_and_whole_pairs_are_text() -> None:
    assert to_dicts([HumanMessage("a\0😀")])[0]["content"] == "a\0😀"


def test_a_whole_answer_carries_usage_and_metadata() -> None:
    message = to_message(
        Completion(
            text="hi",
            reasoning="hm",
            tool_calls=(),
            finish_reason="stop",
            usage=USAGE,
            timings=TIMINGS,
        ),
        {"model_name": "m"},
    )
    assert message.content == "hi"
    assert message.additional_kwargs == {"reasoning_content": "hm"}
    assert message.usage_metadata == {
        "input_tokens": 7,
        "output_tokens": 5,
        "total_tokens": 12,
        "input_token_details": {"cache_read": 2},
    }
    assert message.response_metadata == {
        "model_name": "m",
        "finish_reason": "stop",
        "timings": {"time_to_first_token": 0.5, "seconds": 1.0, "tokens_per_second": 8.0},
    }


def test_calls_of_tools_are_parsed_and_broken_ones_kept_apart() -> None:
    message = to_message(
        Completion(
            text="",
            reasoning="",
            tool_calls=(
                ToolCall(0, "c0", "add", '{"a": 1}'),
                ToolCall(1, "c1", "now", ""),
                ToolCall(2, "c2", "add", '{"a": '),
            ),
            finish_reason="length",
            usage=USAGE,
            timings=TIMINGS,
        ),
        {},
    )
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [
        ("add", {"a": 1}),
        ("now", {}),
    ]
    assert [call["id"] for call in message.invalid_tool_calls] == ["c2"]


def test_chunks_add_up_to_the_message() -> None:
    call = ToolCall(0, "c0", "add", '{"a"')
    deltas = [
        Delta(text="h"),
        Delta(text="i", tool_calls=(call,)),
        Delta(tool_calls=(ToolCall(0, None, None, ": 1}"),)),
        Delta(finish_reason="tool_calls", usage=USAGE, timings=TIMINGS),
    ]
    chunks = [to_chunk(delta, {"model_name": "m"}) for delta in deltas]
    assert [chunk.usage_metadata is None for chunk in chunks] == [True, True, True, False]
    assert [bool(chunk.response_metadata) for chunk in chunks] == [False, False, False, True]
    total = chunks[0] + chunks[1] + chunks[2] + chunks[3]
    assert total.content == "hi"
    assert total.tool_calls[0]["args"] == {"a": 1}
    assert total.response_metadata["finish_reason"] == "tool_calls"


def streamed(
    *parts: tuple[ToolCall, ...], reason: FinishReason = "length", split: bool = True
) -> AIMessageChunk:
    """What LangChain makes of a stream of parts of calls, the last one with or before the end."""
    end = Delta(finish_reason=reason, usage=USAGE, timings=TIMINGS)
    deltas = [Delta(tool_calls=part) for part in parts]
    deltas = [*deltas, end] if split else [*deltas[:-1], replace(end, tool_calls=parts[-1])]
    broken = BrokenCalls()
    chunks = [to_chunk(piece, {"model_name": "m"}) for delta in deltas for piece in broken(delta)]
    assert [chunk.chunk_position for chunk in chunks[-2:]] == [None, "last"][-len(chunks) :]
    first, *rest = chunks
    return add_ai_message_chunks(first, *rest)


@pytest.mark.parametrize("split", [True, False])
def test_a_streamed_call_that_was_cut_anywhere_is_invalid_as_in_a_whole_answer(
    *, split: bool
) -> None:
    arguments = r'{"path": "/da\"ta\\", "all": [{"a": [1, null]}, true], "n": -1.5e3}'
    for at in range(len(arguments)):
        call = ToolCall(0, "c0", "remove", arguments[:at])
        total = streamed((call,), split=split)
        assert total.tool_calls == []
        (invalid,) = total.invalid_tool_calls
        assert (invalid["name"], invalid["id"]) == ("remove", "c0")
        assert (invalid["args"] or "").startswith(arguments[:at])
        assert total.response_metadata == message_of(call).response_metadata | {"model_name": "m"}
        assert total.usage_metadata == message_of(call).usage_metadata
        whole = message_of(call)
        assert (whole.tool_calls, len(whole.invalid_tool_calls)) == ([], 1)
    total = streamed((ToolCall(0, "c0", "remove", arguments),), split=split)
    assert total.tool_calls[0]["args"] == json.loads(arguments)
    assert total.tool_call_chunks[0]["args"] == arguments


def test_only_the_call_that_was_cut_is_invalid() -> None:
    first, empty = ToolCall(0, "c0", "add", '{"a": 1}'), ToolCall(1, "c1", "now", "")
    begun, rest = ToolCall(2, "c2", "add", '{"a": '), ToolCall(2, None, None, "[1, ")
    total = streamed((first,), (empty,), (begun,), (rest,))
    assert [call["args"] for call in total.tool_calls] == [{"a": 1}, {}]
    assert [call["id"] for call in total.invalid_tool_calls] == ["c2"]


def test_arguments_that_are_not_there_are_none_unless_they_were_cut() -> None:
    call = ToolCall(0, "c0", "now", "")
    for total in (streamed((call,), reason="tool_calls"), message_of(call, reason="tool_calls")):
        assert [each["args"] for each in total.tool_calls] == [{}]
    for total in (streamed((call,)), message_of(call)):
        assert (total.tool_calls, len(total.invalid_tool_calls)) == ([], 1)


@pytest.mark.parametrize(
    "arguments", ['{"a": "1\n2"}', '{"a": 1,}', '{"a": 1} so', "[1]", "[" * 5000]
)
def test_a_streamed_call_is_what_a_whole_one_is(arguments: str) -> None:
    call = ToolCall(0, "c0", "add", arguments)
    total, whole = streamed((call,), reason="stop"), message_of(call, reason="stop")
    assert total.tool_calls == whole.tool_calls
    assert len(total.invalid_tool_calls) == len(whole.invalid_tool_calls)
    assert bool(whole.tool_calls) == ("\n" in arguments)


def message_of(call: ToolCall, reason: FinishReason = "length") -> AIMessage:
    answer = Completion(
        text="",
        reasoning="",
        tool_calls=(call,),
        finish_reason=reason,
        usage=USAGE,
        timings=TIMINGS,
    )
    return to_message(answer, {})


class Person(BaseModel):
    """Someone."""

    name: str


def test_a_schema_becomes_a_format() -> None:
    wanted = response_format(Person, "json_schema")
    assert wanted["json_schema"]["name"] == "Person"
    assert wanted["json_schema"]["schema"]["required"] == ["name"]
    assert response_format(None, "json_mode") == {"type": "json_object"}


def test_an_answer_is_parsed_into_its_schema() -> None:
    answer = RunnableLambda(AIMessage)
    assert structured(answer, Person, include_raw=False).invoke('{"name": "Bob"}') == Person(
        name="Bob"
    )
    assert structured(answer, {}, include_raw=False).invoke('{"name": "Bob"}') == {"name": "Bob"}


def test_with_raw_an_error_is_part_of_the_result() -> None:
    parse = structured(RunnableLambda(AIMessage), Person, include_raw=True)
    good, bad = parse.invoke('{"name": "Bob"}'), parse.invoke("nothing")
    assert (good["parsed"], good["parsing_error"]) == (Person(name="Bob"), None)
    assert bad["parsed"] is None
    assert bad["parsing_error"] is not None
    assert bad["raw"].content == "nothing"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "function_call", "name": "add", "arguments": "{}", "call_id": "c1"},
        {"type": "tool_call_chunk", "name": "add", "args": "{}", "id": "c1", "index": 0},
        {"type": "invalid_tool_call", "name": "add", "args": "{", "id": "c2", "error": "cut"},
        {"type": "input_json_delta", "partial_json": "{}"},
        {"type": "redacted_thinking", "data": "6f70"},
    ],
)
def test_calls_and_thoughts_of_other_providers_models_are_not_text(block: dict[str, Any]) -> None:
    message = AIMessage(
        [{"type": "text", "text": "Well."}, block],
        tool_calls=[{"name": "add", "args": {}, "id": "c1"}],
    )
    (given,) = to_dicts([message])
    assert given["content"] == "Well."
    assert [call["id"] for call in given["tool_calls"]] == ["c1"]


def test_refusals_and_plain_documents_are_text() -> None:
    document = {"type": "text-plain", "text": "The office opens at 9.", "mime_type": "text/plain"}
    refused = AIMessage([{"type": "refusal", "refusal": "I cannot."}])
    question = HumanMessage(["When? ", document])
    assert [each["content"] for each in to_dicts([refused, question])] == [
        "I cannot.",
        "When? The office opens at 9.",
    ]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (HumanMessage([{"type": "text-plain", "url": "http://x"}]), "holds NoneType, not str"),
        (HumanMessage([{"type": "text"}]), r"message 0 \(user\): block 0 is of text"),
        (HumanMessage([{"type": "text", "text": None}]), "holds NoneType, not str"),
        (ChatMessage(role=" ", content="x"), "message 0: a ChatMessage needs a role"),
        (ChatMessage(role="\ud800", content="x"), "message 0: character 0 is half"),
        (
            AIMessage("", tool_calls=[{"name": "f", "args": {"a": {1, 2}}, "id": "1"}]),
            r"message 0 \(assistant\), tool call 0 \(f\): its arguments are not JSON",
        ),
    ],
)
def test_what_no_template_can_read_is_named(message: BaseMessage, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        to_dicts([message])


def test_a_call_without_an_id_gets_one() -> None:
    message = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": None}])
    assert to_dicts([message])[0]["tool_calls"][0]["id"] == "call_0"


def test_arguments_that_are_no_object_are_an_invalid_call() -> None:
    completion = Completion(
        text="",
        reasoning="",
        tool_calls=(ToolCall(0, "1", "f", "[1]"), ToolCall(1, "2", "g", "{}")),
        finish_reason="tool_calls",
        usage=None,
        timings=Timings(0.1, 0.2, None),
    )
    message = to_message(completion, {})
    assert [call["name"] for call in message.tool_calls] == ["g"]
    (invalid,) = message.invalid_tool_calls
    assert invalid["args"] == "[1]"
    assert "not list" in str(invalid["error"])


def test_an_invalid_call_that_was_answered_is_told_and_another_is_not() -> None:
    broken = {"type": "invalid_tool_call", "name": "weather", "error": "cut"}
    asked = AIMessage(
        "",
        tool_calls=[{"name": "time", "args": {}, "id": "c0"}],
        invalid_tool_calls=[
            {**broken, "args": '{"city": "Par', "id": "c1"},
            {**broken, "args": None, "id": "c2"},
            {**broken, "args": None, "id": None},
        ],
    )
    answers = [ToolMessage("noon", tool_call_id="c0"), ToolMessage("cut", tool_call_id="c1")]
    message = to_dicts([asked, *answers])[0]
    assert [call["id"] for call in message["tool_calls"]] == ["c0", "c1"]
    told = message["tool_calls"][1]["function"]
    assert told["name"] == "weather"
    assert json.loads(told["arguments"]) == {"invalid_json": '{"city": "Par'}


def test_an_answered_call_without_a_name_gets_one() -> None:
    call = {"type": "invalid_tool_call", "name": None, "args": None, "id": "c1", "error": None}
    asked = AIMessage("", invalid_tool_calls=[call])
    (told,) = to_dicts([asked, ToolMessage("cut", tool_call_id="c1")])[0]["tool_calls"]
    assert told["function"] == {"name": "unknown", "arguments": '{"invalid_json": ""}'}
