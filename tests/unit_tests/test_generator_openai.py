"""Chats with servers that speak OpenAI's form: what is asked, and what comes back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_gpu.generators.base import Delta
from langchain_gpu.generators.streams import collect
from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
)
from tests.unit_tests.chat_script import (
    CHAT,
    DONE,
    Opens,
    ask,
    chat_server,
    chunk,
    event,
    opening,
    refusal,
    says,
    script,
    usage,
)
from tests.unit_tests.scripted_server import Asked, Reply, Scripted, models

KEY = "sk-quite-secret-0123456789"
ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}

server, opens = chat_server, opening


class TestAnswer:
    def test_whole(self, server: Scripted, opens: Opens) -> None:
        answer = opens().generate([ask()])[0]
        assert (answer.text, answer.finish_reason, answer.model) == ("Hello", "stop", "served-m")
        assert answer.usage is not None
        counts = (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_tokens)
        assert counts == (7, 3, 2)
        assert 0 < answer.timings.time_to_first_token <= answer.timings.seconds

    def test_in_pieces(self, opens: Opens) -> None:
        deltas = list(opens().stream(ask()))
        assert [delta.text for delta in deltas] == ["Hel", "lo", ""]
        assert [delta.finish_reason for delta in deltas] == [None, None, "stop"]
        assert [delta.usage is None for delta in deltas] == [True, True, False]

    def test_pieces_come_as_they_are_sent(self, server: Scripted, opens: Opens) -> None:
        gate = threading.Event()

        def parts() -> Iterator[bytes]:
            yield chunk("first")
            gate.wait(10)
            yield chunk("last", finish="stop") + usage()

        script(server, lambda _: Reply(parts=parts()))
        stream = opens().stream(ask())
        assert next(stream).text == "first"  # while the server waits for the gate
        gate.set()
        assert [delta.text for delta in stream] == ["last", ""]

    def test_several_at_once_in_order(self, server: Scripted, opens: Opens) -> None:
        gate = threading.Barrier(4, timeout=10)

        def echo(asked: Asked) -> Reply:
            gate.wait()
            return says(asked.body["messages"][0]["content"])

        script(server, echo)
        answers = opens(n_parallel=4).generate([ask(str(number)) for number in range(8)])
        assert [answer.text for answer in answers] == [str(number) for number in range(8)]
        assert server.busiest <= 4

    def test_more_streams_than_were_allowed_wait(self, server: Scripted, opens: Opens) -> None:
        script(server, lambda asked: Reply(parts=says("x").parts, delay=0.05))
        generator = opens(n_parallel=2)
        threads = [
            threading.Thread(target=lambda: collect(generator.stream(ask()))) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(server.of(CHAT)) == 6
        assert server.busiest == 2

    def test_one_that_fails_fails_the_call(self, server: Scripted, opens: Opens) -> None:
        script(
            server,
            lambda asked: refusal("bad") if "3" in str(asked.body["messages"]) else says("x"),
        )
        with pytest.raises(RefusedError, match="bad"):
            opens().generate([ask(str(number)) for number in range(6)])

    def test_one_that_fails_ends_the_others_although_they_bring_nothing(
        self, server: Scripted, opens: Opens, caplog: pytest.LogCaptureFixture
    ) -> None:
        hanging = threading.Event()

        def answer(asked: Asked) -> Reply:
            if "bad" not in str(asked.body["messages"]):
                hanging.set()
                return Reply(parts=[b": still here\n\n", 0.02] * 2000)
            hanging.wait(10)
            return refusal("bad")

        script(server, answer)
        began = time.monotonic()
        with pytest.raises(RefusedError, match="bad"):
            opens().generate([ask("good"), ask("bad"), ask("good")])
        assert time.monotonic() - began < 10  # the time-out is 20 seconds
        assert server.left.wait(10)
        assert not caplog.records, "what we end ourselves is not asked for again"

    @pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
    def test_thoughts(self, server: Scripted, opens: Opens, name: str) -> None:
        parts = [chunk(**{name: "hm"}), chunk(**{name: "m"}), chunk("yes", finish="stop"), usage()]
        script(server, Reply(parts=parts))
        answer = opens().generate([ask()])[0]
        assert (answer.reasoning, answer.text) == ("hmm", "yes")

    def test_log_probabilities(self, server: Scripted, opens: Opens) -> None:
        scores = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -0.2}]
        choices = [
            {"delta": {"content": score["token"]}, "logprobs": {"content": [score]}}
            for score in scores
        ]
        parts = [event({"choices": [choice]}) for choice in choices]
        script(server, Reply(parts=[*parts, chunk(finish="stop"), usage()]))
        answer = opens().generate([ask(extra={"logprobs": True})])[0]
        assert list(answer.logprobs) == scores
        assert server.of(CHAT)[0]["logprobs"] is True

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ("stop", "stop"),
            ("length", "length"),
            ("content_filter", "content_filter"),
            ("tool_calls", "tool_calls"),
            ("function_call", "tool_calls"),
            ("eos_token", "stop"),
        ],
    )
    def test_reasons(self, server: Scripted, opens: Opens, theirs: str, ours: str) -> None:
        script(server, says("x", finish=theirs))
        assert opens().generate([ask()])[0].finish_reason == ours

    @pytest.mark.parametrize("theirs", ["abort", "error", "whatever"])
    def test_an_answer_given_up_is_no_answer(
        self, server: Scripted, opens: Opens, theirs: str
    ) -> None:
        script(server, says("x", finish=theirs))
        with pytest.raises(BadAnswerError, match=f"finish_reason '{theirs}'"):
            opens().generate([ask()])

    def test_tokens_that_nobody_counted_are_unknown(
        self, server: Scripted, opens: Opens, caplog: pytest.LogCaptureFixture
    ) -> None:
        script(server, Reply(parts=[chunk("a"), chunk("b", finish="stop"), DONE]))
        answer = opens().generate([ask()])[0]
        assert (answer.text, answer.usage) == ("ab", None)
        assert answer.timings.tokens_per_second is None
        assert "does not say how many tokens" in caplog.text

    def test_half_of_a_count_is_no_count(self, server: Scripted, opens: Opens) -> None:
        script(server, Reply(parts=[chunk("a", finish="stop"), usage(prompt_tokens=3), DONE]))
        assert opens().generate([ask()])[0].usage is None

    def test_a_server_that_refuses_to_count_is_not_asked_again(
        self, server: Scripted, opens: Opens
    ) -> None:
        def old(asked: Asked) -> Reply:
            if "stream_options" in asked.body:
                return refusal("stream_options: extra fields not permitted", 422)
            return Reply(parts=[chunk("a", finish="stop")])

        script(server, old)
        generator = opens()
        assert [each.text for each in (generator.generate([ask()]) * 2)] == ["a", "a"]
        generator.generate([ask()])
        assert ["stream_options" in body for body in server.of(CHAT)] == [True, False, False]


class TestTools:
    def test_in_pieces(self, server: Scripted, opens: Opens) -> None:
        def piece(index: int, arguments: str, **more: Any) -> bytes:
            function = {"arguments": arguments, **more.pop("function", {})}
            return chunk(tool_calls=[{"index": index, "function": function, **more}])

        named = {"name": "add"}
        parts = [
            piece(0, "", id="c0", type="function", function=named),
            piece(0, '{"a"'),
            piece(0, ": 1}", function=named, id="c0"),  # some servers repeat both
            piece(1, "{}", id="c1", function=named),
            chunk(finish="tool_calls"),
            usage(),
        ]
        script(server, Reply(parts=parts))
        request = ask(tools=[ADD])
        answer = opens().generate([request])[0]
        assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [
            ("c0", "add", '{"a": 1}'),
            ("c1", "add", "{}"),
        ]
        names = [call.name for delta in opens().stream(request) for call in delta.tool_calls]
        assert names == ["add", None, None, "add"]

    def test_without_index_or_id_and_with_an_object(self, server: Scripted, opens: Opens) -> None:
        calls = {"function": {"name": "add", "arguments": {"a": 1}}}
        more = [{"id": "two", "function": {"name": "add", "arguments": "{}"}}]
        parts = [chunk(tool_calls=calls), chunk(tool_calls=more), chunk(finish="stop"), usage()]
        script(server, Reply(parts=parts))
        first, second = opens().generate([ask(tools=[ADD])])[0].tool_calls
        assert json.loads(first.arguments) == {"a": 1}
        assert first.id
        assert (second.index, second.id) == (1, "two")

    @pytest.mark.parametrize("where", [{"index": 0}, {}])
    @pytest.mark.parametrize("named", [True, False])
    def test_several_whole_calls_that_the_server_does_not_number(
        self, server: Scripted, opens: Opens, where: dict[str, Any], *, named: bool
    ) -> None:
        """Ollama before 0.5 and some proxies call each of them the first, or give no index."""

        def call(a: int) -> dict[str, Any]:
            function = {"name": "add", "arguments": f'{{"a": {a}}}'}
            return {"function": function, **where, **({"id": f"c{a}"} if named else {})}

        calls = [call(1), call(2)]
        for parts in ([chunk(tool_calls=calls)], [chunk(tool_calls=[each]) for each in calls]):
            script(server, Reply(parts=[*parts, chunk(finish="tool_calls"), usage()]))
            first, second = opens().generate([ask(tools=[ADD])])[0].tool_calls
            assert [json.loads(each.arguments) for each in (first, second)] == [{"a": 1}, {"a": 2}]
            assert first.id != second.id

    def test_pieces_whose_id_says_nothing(self, server: Scripted, opens: Opens) -> None:
        first = {"id": "c0", "function": {"name": "add", "arguments": ""}}
        empty = {"id": "", "function": {"arguments": '{"a"'}}
        # vLLM, of a tool that was named: another id with each piece, and the name again.
        again = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": ": {}"}}
        last = {"index": 0, "id": "c2", "function": {"name": "add", "arguments": "}"}}
        parts = [chunk(tool_calls=[call]) for call in (first, empty, again, last)]
        script(server, Reply(parts=[*parts, chunk(finish="tool_calls"), usage()]))
        (call,) = opens().generate([ask(tools=[ADD])])[0].tool_calls
        assert (call.id, call.name, call.arguments) == ("c0", "add", '{"a": {}}')

    def test_a_call_that_was_forced_is_an_end_like_any_other_call(
        self, server: Scripted, opens: Opens
    ) -> None:
        """Servers say that an answer stopped where the tool was named, as OpenAI's own does."""
        for arguments, theirs, ours in [
            ('{"a": 1}', "stop", "tool_calls"),
            ("", "stop", "tool_calls"),
            ('{"a": 1', "stop", "stop"),  # by a stop string
            ('{"a": 1}', "length", "length"),
        ]:
            calls = {"function": {"name": "add", "arguments": arguments}}
            parts = [chunk(tool_calls=calls), chunk(finish=theirs), usage()]
            script(server, Reply(parts=parts))
            answer = opens().generate([ask(tools=[ADD], tool_choice="add")])[0]
            assert answer.finish_reason == ours

    def test_calls_that_the_server_does_not_parse(self, server: Scripted, opens: Opens) -> None:
        script(server, says('{"name": "add", ', '"arguments": {"a": 1}}'))
        answer = opens().generate([ask(tools=[ADD])])[0]
        assert (answer.text, answer.finish_reason) == ("", "tool_calls")
        assert json.loads(answer.tool_calls[0].arguments) == {"a": 1}

    @pytest.mark.parametrize(
        ("choice", "sent"),
        [
            ("auto", "auto"),
            ("none", "none"),
            ("required", "required"),
            ("add", {"type": "function", "function": {"name": "add"}}),
        ],
    )
    def test_choices(self, server: Scripted, opens: Opens, choice: str, sent: Any) -> None:
        opens().generate([ask(tools=[ADD], tool_choice=choice), ask()])
        bodies = server.of(CHAT)
        assert sorted(str(body.get("tool_choice")) for body in bodies) == sorted(
            ["None", str(sent)]
        )


class TestBody:
    def test_what_is_set_is_sent_under_its_name(self, server: Scripted, opens: Opens) -> None:
        schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
        settings: dict[str, Any] = {"max_tokens": 5, "temperature": 0, "top_p": 0.5, "seed": 3}
        extra = {"top_k": 4, "extra_body": {"min_p": 0.1}}
        request = ask(**settings, stop=("x",), response_format=schema, extra=extra)
        opens().generate([request])
        (body,) = server.of(CHAT)
        assert body == {
            **settings,
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "stop": ["x"],
            "response_format": schema,
            "top_k": 4,
            "min_p": 0.1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_what_is_not_set_is_left_to_the_server(self, server: Scripted, opens: Opens) -> None:
        opens().generate([ask()])
        assert set(server.of(CHAT)[0]) == {"model", "messages", "stream", "stream_options"}

    @pytest.mark.parametrize("extra", [{"stream": False}, {"messages": []}, {"n": 2}])
    def test_what_cannot_be_set(self, server: Scripted, opens: Opens, extra: Any) -> None:
        with pytest.raises(ValueError, match=f"'{next(iter(extra))}'|n=2"):
            opens().generate([ask(extra=extra)])
        assert server.of(CHAT) == []

    def test_headers_and_queries(self, server: Scripted, opens: Opens) -> None:
        load = {"default_headers": {"X-Tenant": "blue"}, "default_query": {"v": "1"}}
        opens(load=load, api_key=KEY, url="http://far.example/v1")
        (asked,) = server.asked
        assert asked.path == "/v1/models?v=1"
        assert (asked.headers["x-tenant"], asked.headers["authorization"]) == (
            "blue",
            f"Bearer {KEY}",
        )

    def test_nothing_is_taken_from_the_environment(
        self, server: Scripted, opens: Opens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
            monkeypatch.setenv(f"OPENAI_{name}", "ambient-secret")
        opens().generate([ask()])
        assert "ambient-secret" not in str([asked.headers for asked in server.asked])

    @pytest.mark.parametrize(
        "options", [{"device": "cuda"}, {"dtype": "float16"}, {"keep_alive": 3}, {"load": {"x": 1}}]
    )
    def test_options_of_other_engines(self, opens: Opens, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="no meaning for the back end 'openai'|load_kwargs"):
            opens(**options)


class TestServerKnows:
    @pytest.mark.parametrize(
        "url", ["http://far.example", "http://far.example/", "http://far.example:9/v1/"]
    )
    def test_with_and_without_v1(self, server: Scripted, opens: Opens, url: str) -> None:
        assert opens(url=url).generate([ask()])[0].text == "Hello"
        assert [asked.path for asked in server.asked] == ["/v1/models", CHAT]

    def test_without_v1_on_the_server(self, server: Scripted, opens: Opens) -> None:
        served = {"/models": models("m"), "/chat/completions": says("x")}
        server.script = lambda asked: served.get(asked.path, Reply(status=404))
        assert opens().generate([ask()])[0].text == "x"

    def test_a_server_that_lists_no_models(self, server: Scripted, opens: Opens) -> None:
        server.script = lambda asked: says("x") if asked.path == CHAT else Reply(status=404)
        generator = opens()
        assert generator.generate([ask()])[0].text == "x"
        with pytest.raises(NotImplementedError, match="give n_ctx"):
            _ = generator.context_length
        assert opens(n_ctx=99).context_length == 99

    def test_the_window(self, opens: Opens) -> None:
        assert opens().context_length == 256
        assert opens(n_ctx=100).context_length == 100  # wanted shorter
        assert opens(n_ctx=1000).context_length == 256  # cannot be longer

    def test_the_window_of_llama_server(self, server: Scripted, opens: Opens) -> None:
        def llama(asked: Asked) -> Reply:
            if asked.path == "/v1/models":
                return Reply({"data": [{"id": "x.gguf", "owned_by": "llamacpp"}]})
            if asked.path == "/props":
                return Reply({"default_generation_settings": {"n_ctx": 512}})
            if asked.path == "/apply-template":
                return Reply({"prompt": f"<{asked.body['messages'][0]['content']}>"})
            return Reply({"tokens": list(asked.body["content"].encode())})

        server.script = llama
        generator = opens(model="any name")
        assert generator.context_length == 512
        assert generator.tokenize("ab") == [97, 98]
        assert generator.count_chat_tokens([{"role": "user", "content": "hi"}]) == 4

    @pytest.mark.parametrize(
        "beside",
        [
            Reply(status=404),
            refusal("only /v1 here", 403),
            Reply(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        ],
    )
    def test_a_llama_server_of_which_a_proxy_shows_the_form_alone(
        self, server: Scripted, opens: Opens, beside: Reply
    ) -> None:
        def llama(asked: Asked) -> Reply:
            if asked.path == "/v1/models":
                return Reply({"data": [{"id": "x.gguf", "owned_by": "llamacpp"}]})
            return says("x") if asked.path == CHAT else beside

        server.script = llama
        generator = opens(n_ctx=99)
        assert generator.generate([ask()])[0].text == "x"
        assert generator.context_length == 99
        with pytest.raises(NotImplementedError, match="give n_ctx"):
            _ = opens().context_length

    def test_tokens_of_vllm(self, server: Scripted, opens: Opens) -> None:
        def script(asked: Asked) -> Reply:
            if asked.path == "/tokenize":
                return Reply({"tokens": [1, 2, 3], "count": 3, "max_model_len": 9})
            return models("m")

        server.script = script
        generator = opens()
        assert generator.tokenize("ab") == [1, 2, 3]
        assert generator.count_chat_tokens([{"role": "user", "content": "hi"}], [ADD]) == 3
        plain, whole = server.of("/tokenize")
        assert plain == {"model": "m", "prompt": "ab", "add_special_tokens": False}
        assert whole["tools"] == [ADD]

    def test_a_server_that_does_not_tokenize(self, opens: Opens) -> None:
        with pytest.raises(NotImplementedError, match="give custom_get_token_ids"):
            opens().tokenize("ab")

    def test_where_it_runs(self, opens: Opens) -> None:
        device = opens().device
        assert (device.kind, device.name) == ("remote", "far.example")
        assert device.reason == "far.example serves m"

    def test_an_empty_delta_is_no_piece(self, server: Scripted, opens: Opens) -> None:
        script(server, Reply(parts=[chunk(), chunk(""), chunk("a"), chunk(finish="stop"), usage()]))
        assert Delta() not in list(opens().stream(ask()))
