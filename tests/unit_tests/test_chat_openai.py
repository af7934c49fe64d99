"""`ChatGPU` with a model behind a server that speaks OpenAI's form."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.exceptions import ContextOverflowError, OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_gpu import ChatGPU, create_rag_chain
from langchain_gpu.servers.errors import ServerError, ServerTimeoutError
from tests.unit_tests.chat_script import CHAT, DONE, chat, chat_server, chunk, event, says, usage
from tests.unit_tests.scripted_server import Asked, Endless, Reply, Scripted, cancel

KEY = "sk-quite-secret-0123456789"
COUNTS = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class Fixed(BaseRetriever):
    """Always finds the same."""

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return [Document("The sky is blue.", metadata={"source": "sky.txt"})]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


server = chat_server


@pytest.fixture
def model(server: Scripted) -> Iterator[ChatGPU]:
    with ChatGPU(model="m", base_url="http://far.example", timeout=20) as chat_gpu:
        yield chat_gpu


def whole(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for each in chunks[1:]:
        total += each
    return total


def check(message: AIMessage) -> None:
    assert message.text == "Hello"
    assert message.usage_metadata is not None
    assert COUNTS.items() <= message.usage_metadata.items()
    said = message.response_metadata
    assert (said["model_name"], said["finish_reason"]) == ("served-m", "stop")
    assert (said["backend"], said["device"]) == ("openai", "remote")
    assert said["timings"]["time_to_first_token"] > 0
    assert said["timings"]["tokens_per_second"] > 0


class TestWays:
    def test_at_once(self, model: ChatGPU) -> None:
        check(model.invoke("hi"))

    def test_in_pieces(self, model: ChatGPU) -> None:
        chunks = [each for each in model.stream("hi") if isinstance(each, AIMessageChunk)]
        assert [each.text for each in chunks if each.text] == ["Hel", "lo"]
        check(whole(chunks))

    async def test_at_once_without_blocking(self, model: ChatGPU) -> None:
        check(await model.ainvoke("hi"))

    async def test_in_pieces_without_blocking(self, model: ChatGPU) -> None:
        check(whole([each async for each in model.astream("hi")]))

    async def test_several(self, server: Scripted, model: ChatGPU) -> None:
        server.script = chat(lambda asked: says(asked.body["messages"][0]["content"]))
        words: list[Any] = [str(number) for number in range(12)]
        assert [each.text for each in model.batch(words)] == words
        assert [each.text for each in await model.abatch(words)] == words

    def test_the_back_end_and_why(self, model: ChatGPU) -> None:
        assert model.backend_reason == "openai: far.example does not answer as Ollama does (404)"
        (device,) = model.devices
        assert device.reason == "far.example serves m"
        assert model.context_length == 256

    def test_asked_for_by_name(self, server: Scripted) -> None:
        named = ChatGPU(model="m", base_url="http://far.example", backend="openai")
        check(named.invoke("hi"))
        assert "asked for" in named.backend_reason
        named.close()

    def test_without_an_address(self) -> None:
        with pytest.raises(ValueError, match="needs base_url"):
            ChatGPU(model="m", backend="openai").invoke("hi")


class TestSettings:
    def test_of_the_object_and_of_the_call(self, server: Scripted, model: ChatGPU) -> None:
        settings = {"temperature": 0.5, "max_tokens": 9, "seed": 4, "model_kwargs": {"top_k": 5}}
        tuned = model.model_copy(update=settings)
        tuned.invoke("hi", stop=["x"], max_tokens=3, min_p=0.1)
        body = server.of(CHAT)[-1]
        wanted = {"temperature": 0.5, "max_tokens": 3, "seed": 4, "top_k": 5, "min_p": 0.1}
        assert wanted.items() <= body.items()
        assert body["stop"] == ["x"]

    def test_tokens_that_nobody_counted(self, server: Scripted, model: ChatGPU) -> None:
        server.script = chat(lambda _: Reply(parts=[chunk("a", finish="stop"), DONE]))
        assert model.invoke("hi").usage_metadata is None
        chunks = [each for each in model.stream("hi") if isinstance(each, AIMessageChunk)]
        assert whole(chunks).usage_metadata is None
        assert whole(chunks).response_metadata["finish_reason"] == "stop"

    def test_log_probabilities(self, server: Scripted, model: ChatGPU) -> None:
        scores = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -0.2}]
        parts = [
            event(
                {
                    "choices": [
                        {"delta": {"content": each["token"]}, "logprobs": {"content": [each]}}
                    ]
                }
            )
            for each in scores
        ]
        server.script = chat(lambda _: Reply(parts=[*parts, chunk(finish="stop"), usage()]))
        asking = model.bind(logprobs=True)
        chunks = [each for each in asking.stream("hi") if isinstance(each, AIMessageChunk)]
        for message in (asking.invoke("hi"), whole(chunks)):
            assert message.response_metadata["logprobs"] == {"content": scores}

    def test_tokens_are_counted_as_was_said(self, model: ChatGPU) -> None:
        with pytest.raises(NotImplementedError, match="give custom_get_token_ids"):
            model.get_num_tokens("abc")
        counting = model.model_copy(
            update={"custom_get_token_ids": lambda text: list(text.encode())}
        )
        assert counting.get_num_tokens("abc") == 3
        assert counting.get_num_tokens_from_messages([HumanMessage("abc")]) > 3


class TestTools:
    def test_are_called(self, server: Scripted, model: ChatGPU) -> None:
        first = {"index": 0, "id": "c0", "function": {"name": "add", "arguments": ""}}
        rest = {"index": 0, "function": {"arguments": '{"a": 1, "b": 2}'}}
        parts = [chunk(tool_calls=[first]), chunk(tool_calls=[rest]), chunk(finish="tool_calls")]
        server.script = chat(lambda _: Reply(parts=[*parts, usage()]))
        bound = model.bind_tools([add], tool_choice="add")
        answer = bound.invoke("1 + 2?")
        chunks = [each for each in bound.stream("1 + 2?") if isinstance(each, AIMessageChunk)]
        wanted = {"name": "add", "args": {"a": 1, "b": 2}, "id": "c0", "type": "tool_call"}
        assert answer.tool_calls == whole(chunks).tool_calls == [wanted]
        body = server.of(CHAT)[0]
        assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
        assert body["tools"][0]["function"]["parameters"]["required"] == ["a", "b"]

    @pytest.mark.parametrize("arguments", ["", "{}", None])
    def test_without_arguments(
        self, server: Scripted, model: ChatGPU, arguments: str | None
    ) -> None:
        call = {"index": 0, "id": "c", "function": {"name": "add", "arguments": arguments}}
        parts = [chunk(tool_calls=[call]), chunk(finish="tool_calls"), usage()]
        server.script = chat(lambda _: Reply(parts=parts))
        bound = model.bind_tools([add], tool_choice="any")
        chunks = [each for each in bound.stream("go") if isinstance(each, AIMessageChunk)]
        for answer in (bound.invoke("go"), whole(chunks)):
            assert [each["args"] for each in answer.tool_calls] == [{}]
        assert server.of(CHAT)[0]["tool_choice"] == "required"

    def test_arguments_that_are_no_json(self, server: Scripted, model: ChatGPU) -> None:
        call = {"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a": '}}
        parts = [chunk(tool_calls=[call]), chunk(finish="length"), usage()]
        server.script = chat(lambda _: Reply(parts=parts))
        answer = model.bind_tools([add]).invoke("go")
        assert answer.tool_calls == []
        assert [each["args"] for each in answer.invalid_tool_calls] == ['{"a": ']

    @pytest.mark.parametrize("arguments", ['{"a": 1, "b": 2', '{"a": 1, "b": "x', ""])
    async def test_arguments_that_were_cut_are_no_call_in_a_stream_either(
        self, server: Scripted, model: ChatGPU, arguments: str
    ) -> None:
        call = {"index": 0, "id": "c", "function": {"name": "add", "arguments": arguments}}
        parts = [chunk(tool_calls=[call]), chunk(finish="length"), usage()]
        server.script = chat(lambda _: Reply(parts=parts))
        bound = model.bind_tools([add])
        streaming = model.model_copy(update={"streaming": True}).bind_tools([add])
        chunks = [each for each in bound.stream("go") if isinstance(each, AIMessageChunk)]
        later = [each async for each in bound.astream("go") if isinstance(each, AIMessageChunk)]
        events: Any = bound.stream_events("go", version="v3")
        answers = [streaming.invoke("go"), await streaming.ainvoke("go"), events.output]
        for answer in (*answers, whole(chunks), whole(later)):
            assert answer.tool_calls == []
            (invalid,) = answer.invalid_tool_calls
            assert (invalid["name"], invalid["id"]) == ("add", "c")
            assert (invalid["args"] or "").startswith(arguments)
            assert answer.response_metadata["finish_reason"] == "length"

    def test_their_answers_go_back(self, server: Scripted, model: ChatGPU) -> None:
        call = {"name": "add", "args": {"a": 1}, "id": "c0", "type": "tool_call"}
        asked = AIMessage("", tool_calls=[call])
        model.invoke([HumanMessage("1?"), asked, ToolMessage("3", tool_call_id="c0")])
        _, sent, answer = server.of(CHAT)[0]["messages"]
        assert sent["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
        assert (answer["role"], answer["tool_call_id"]) == ("tool", "c0")

    @pytest.mark.parametrize("method", ["json_schema", "json_mode"])
    def test_structured_output(self, server: Scripted, model: ChatGPU, method: Any) -> None:
        server.script = chat(lambda _: says('{"name": "Bob", ', '"age": 31}'))
        answer = model.with_structured_output(Person, method=method).invoke("Bob is 31")
        assert answer == Person(name="Bob", age=31)
        asked = server.of(CHAT)[0]["response_format"]
        assert asked["type"] == ("json_object" if method == "json_mode" else "json_schema")
        if method == "json_schema":
            assert asked["json_schema"]["schema"]["required"] == ["name", "age"]

    def test_structured_output_by_a_call(self, server: Scripted, model: ChatGPU) -> None:
        arguments = '{"name": "Bob", "age": 31}'
        call = {"index": 0, "id": "c", "function": {"name": "Person", "arguments": arguments}}
        parts = [chunk(tool_calls=[call]), chunk(finish="stop"), usage()]
        server.script = chat(lambda _: Reply(parts=parts))
        asking = model.with_structured_output(Person, method="function_calling")
        assert asking.invoke("Bob is 31") == Person(name="Bob", age=31)
        assert server.of(CHAT)[0]["tool_choice"] in (
            "required",
            {"type": "function", "function": {"name": "Person"}},
        )


class TestStructure:
    """What is no whole answer is no instance of the schema."""

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("schema", [Person, Person.model_json_schema()])
    @pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
    def test_json_that_was_cut(
        self, server: Scripted, model: ChatGPU, schema: Any, reason: str, *, streaming: bool
    ) -> None:
        server.script = chat(lambda _: says('{"age": 31, ', '"name": "Bob', finish=reason))
        model = model.model_copy(update={"streaming": streaming})
        refused(model.with_structured_output(schema), "whole JSON|cut before its JSON was whole")
        both = model.with_structured_output(schema, include_raw=True)
        for answer in reported(both):
            assert '"Bob' in answer["raw"].text

    def test_json_with_words_around_it(self, server: Scripted, model: ChatGPU) -> None:
        asking = model.with_structured_output(Person, method="json_mode")
        bob = '{"name": "Bob\\nB.", "age": 31}'
        for text in (
            f"Here:\n```json\n{bob}\n```\nMore?",
            f"{bob}\nMore?",
            bob.replace("\\n", "\n"),
        ):
            server.script = chat(lambda _, text=text: says(text))
            assert asking.invoke("Bob is 31") == Person(name="Bob\nB.", age=31)
            assert list(asking.stream("Bob is 31"))[-1] == Person(name="Bob\nB.", age=31)

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("schema", [Person, Person.model_json_schema()])
    @pytest.mark.parametrize(
        ("arguments", "reason", "named"),
        [
            ('{"age": 31, "name": "Bo', "length", "cut before its call was whole: give"),
            ('{"age": 31, "name": "Bo', "stop", "no whole call; it ended with 'stop'"),
            (None, "stop", "no whole call; .*I know no Bob"),
            (None, "length", "cut before its call was whole, after 13"),
        ],
    )
    def test_a_call_that_is_missing_or_was_cut(
        self,
        server: Scripted,
        model: ChatGPU,
        *,
        schema: Any,
        arguments: str | None,
        reason: str,
        named: str,
        streaming: bool,
    ) -> None:
        call = {"index": 0, "id": "c", "function": {"name": "Person", "arguments": arguments}}
        said = chunk(tool_calls=[call]) if arguments else chunk("I know no Bob")
        server.script = chat(lambda _: Reply(parts=[said, chunk(finish=reason), usage()]))
        model = model.model_copy(update={"streaming": streaming})
        refused(model.with_structured_output(schema, method="function_calling"), named)
        for answer in reported(
            model.with_structured_output(schema, method="function_calling", include_raw=True)
        ):
            assert answer["raw"].response_metadata["finish_reason"] == reason

    def test_a_call_that_is_not_of_the_schema(self, server: Scripted, model: ChatGPU) -> None:
        call = {"index": 0, "id": "c", "function": {"name": "Person", "arguments": "{}"}}
        parts = [chunk(tool_calls=[call]), chunk(finish="stop"), usage()]
        server.script = chat(lambda _: Reply(parts=parts))
        refused(
            model.with_structured_output(Person, method="function_calling"), "not match the schema"
        )

    @pytest.mark.parametrize("schema", [Person, Person.model_json_schema()])
    def test_a_call_that_is_not_streamed(
        self, server: Scripted, model: ChatGPU, schema: Any
    ) -> None:
        arguments = '{"name": "Bob", "age": 31}'
        call = {"index": 0, "id": "c", "function": {"name": "Person", "arguments": arguments}}
        parts = [chunk(tool_calls=[call]), chunk(finish="stop"), usage()]
        server.script = chat(lambda _: Reply(parts=parts))
        whole_only = model.model_copy(update={"disable_streaming": True})
        asking = whole_only.with_structured_output(schema, method="function_calling")
        assert list(asking.stream("Bob is 31")) == [asking.invoke("Bob is 31")]

    def test_a_stream_gives_what_there_is_so_far(self, server: Scripted, model: ChatGPU) -> None:
        texts = ['{"name": "B', 'ob", "age"', ": 31}"]
        calls = [{"index": 0, "function": {"arguments": text}} for text in texts]
        calls[0] |= {"id": "c", "function": {"name": "Person", "arguments": texts[0]}}
        called = [*(chunk(tool_calls=[call]) for call in calls), chunk(finish="stop"), usage()]
        ways: list[tuple[Any, Reply]] = [
            ("json_mode", says(*texts)),
            ("function_calling", Reply(parts=called)),
        ]
        for method, reply in ways:
            server.script = chat(lambda _, reply=reply: reply)
            asking = model.with_structured_output(Person.model_json_schema(), method=method)
            assert list(asking.stream("Bob is 31")) == [
                {"name": "B"},
                {"name": "Bob"},
                {"name": "Bob", "age": 31},
            ]


def refused(asking: Runnable[Any, Any], named: str) -> None:
    with pytest.raises(OutputParserException, match=named):
        asking.invoke("Bob is 31")
    with pytest.raises(OutputParserException, match=named):
        list(asking.stream("Bob is 31"))


def reported(asking: Runnable[Any, Any]) -> Iterator[dict[str, Any]]:
    """What asking gives, at once and added up; both without an instance, and with the reason."""
    streamed: Any = None
    for part in asking.stream("Bob is 31"):
        streamed = part if streamed is None else streamed + part
    for answer in (asking.invoke("Bob is 31"), streamed):
        assert answer["parsed"] is None
        assert isinstance(answer["parsing_error"], OutputParserException)
        yield answer


class TestTrouble:
    def test_a_server_that_hangs(self, server: Scripted, model: ChatGPU) -> None:
        server.script = chat(lambda _: Reply(parts=[chunk("a"), 30.0]))
        began = time.monotonic()
        for call in (model.invoke, lambda *_, **more: list(model.stream("hi", **more))):
            with pytest.raises(ServerTimeoutError, match="within 0.3 seconds"):
                call("hi", timeout=0.3)
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize("part", [chunk("a"), b": still here\n\n"], ids=["busy", "hanging"])
    async def test_a_task_that_is_canceled_ends_on_the_server(
        self, server: Scripted, model: ChatGPU, part: bytes
    ) -> None:
        parts = Endless(part, part)
        server.script = chat(lambda _: Reply(parts=parts))
        await cancel(model.ainvoke("hi"), parts.begun, server.left)

    def test_leaving_a_stream_ends_it_on_the_server(self, server: Scripted, model: ChatGPU) -> None:
        server.script = chat(lambda _: Reply(parts=[chunk("a"), 0.02] * 2000))
        for _ in model.stream("hi"):
            break
        assert server.left.wait(10)

    def test_too_long_is_what_fallbacks_look_for(self, server: Scripted, model: ChatGPU) -> None:
        words = "request (12 tokens) exceeds the available context size (9 tokens)"
        body = {"error": {"message": words}}
        server.script = chat(lambda _: Reply(status=400, body=body))
        with pytest.raises(ContextOverflowError, match="has 12 tokens and the .* holds 9"):
            model.invoke("hi")

    def test_another_model_takes_over(self, server: Scripted, model: ChatGPU) -> None:
        def script(asked: Asked) -> Reply:
            return says("B") if asked.body["model"] == "b" else Reply(status=503)

        server.script = chat(script)
        other = ChatGPU(model="b", base_url="http://far.example")
        assert model.with_fallbacks([other]).invoke("hi").content == "B"
        other.close()

    def test_the_key_is_nowhere(self, server: Scripted) -> None:
        body = {"error": {"message": f"no: {KEY}"}}
        server.script = chat(lambda _: Reply(status=401, body=body))
        chat_gpu = ChatGPU(model="m", base_url="http://far.example", api_key=KEY)
        with pytest.raises(ServerError) as caught:
            chat_gpu.invoke("hi")
        chat_gpu.close()
        said = [repr(chat_gpu), str(chat_gpu), repr(caught.value), str(chat_gpu.model_dump())]
        assert all(KEY not in text for text in said)
        assert server.asked[-1].headers["authorization"] == f"Bearer {KEY}"


def test_a_chain_where_the_server_neither_counts_nor_says_its_window(server: Scripted) -> None:
    server.script = lambda asked: says("Blue.") if asked.path == CHAT else Reply(status=404)
    with ChatGPU(model="m", base_url="http://far.example/v1") as model:
        answer = create_rag_chain(Fixed(), model).invoke({"input": "What color is the sky?"})
        limited = create_rag_chain(Fixed(), model, max_context_tokens=200)
        again = limited.invoke({"input": "What color is the sky?"})
    assert answer["answer"] == again["answer"] == "Blue."
    assert "The sky is blue." in str(server.of(CHAT)[0]["messages"])
