"""Chats with a Triton server, through the public classes and over real gRPC."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from langchain_gpu import GPULLM, ChatGPU
from langchain_gpu.servers.errors import BadAnswerError, RefusedError, ServerError
from tests.unit_tests.scripted_server import cancel
from tests.unit_tests.scripted_triton import Asked, Model, ScriptedTriton, serving, texts
from tests.unit_tests.tiny_chat import TEMPLATE, WITH_TOOLS, build_chat

ONE = [1]
VLLM_INPUTS: list[Any] = [
    ("text_input", "BYTES", ONE),
    ("stream", "BOOL", ONE, True),
    ("sampling_parameters", "BYTES", ONE, True),
    ("exclude_input_in_output", "BOOL", ONE, True),
    ("return_finish_reason", "BOOL", ONE, True),
    ("return_num_input_tokens", "BOOL", ONE, True),
    ("return_num_output_tokens", "BOOL", ONE, True),
]
VLLM_OUTPUTS: list[Any] = [
    ("text_output", "BYTES", [-1]),
    ("finish_reason", "BYTES", [-1]),
    ("num_input_tokens", "UINT32", ONE),
    ("num_output_tokens", "UINT32", [-1]),
]
OURS_INPUTS: list[Any] = [
    ("messages", "BYTES", ONE),
    *VLLM_INPUTS[1:],
    ("tools", "BYTES", ONE, True),
]
ENSEMBLE_INPUTS: list[Any] = [
    ("text_input", "BYTES", [-1]),
    ("max_tokens", "INT32", [-1]),
    ("bad_words", "BYTES", [-1]),
    ("stop_words", "BYTES", [-1], True),
    ("top_k", "INT32", ONE, True),
    ("top_p", "FP32", ONE, True),
    ("temperature", "FP32", ONE, True),
    ("random_seed", "UINT64", ONE, True),
    ("stream", "BOOL", ONE, True),
]
LLM_API_INPUTS: list[Any] = [
    ("text_input", "BYTES", [-1]),
    ("streaming", "BOOL", ONE, True),
    ("sampling_param_max_tokens", "INT32", ONE, True),
    ("sampling_param_temperature", "FP32", ONE, True),
    ("sampling_param_stop", "BYTES", [-1], True),
    ("sampling_param_exclude_input_from_output", "BOOL", ONE, True),
    ("return_finish_reason", "BOOL", ONE, True),
    ("stop", "BOOL", ONE, True),
]
TEXT_ONLY: list[Any] = [("text_output", "BYTES", [-1])]
Builds = Callable[..., Any]


def told(words: list[str], *, reason: str = "stop", read: int = 7) -> Callable[[Asked], Any]:
    """Stream words as vLLM does: a reason with every response, and the tokens of each."""

    def stream(_: Asked) -> Iterator[dict[str, Any]]:
        for number, word in enumerate(words, 1):
            yield {
                "text_output": texts(word),
                "finish_reason": texts(reason if number == len(words) else "None"),
                "num_input_tokens": np.array([read], np.uint32),
                "num_output_tokens": np.array([1], np.uint32),
            }

    return stream


def plain(*words: str) -> Callable[[Asked], Any]:
    return lambda _: ({"text_output": texts(word)} for word in words)


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def vllm(stream: Any = None) -> Model:
    stream = stream or told(["Hel", "lo ", "you"])
    return Model(VLLM_INPUTS, VLLM_OUTPUTS, stream=stream, max_batch=0, decoupled=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedTriton]:
    ours = Model(
        OURS_INPUTS, VLLM_OUTPUTS, stream=told(["Hel", "lo ", "you"]), max_batch=0, decoupled=True
    )
    ensemble = Model(ENSEMBLE_INPUTS, TEXT_ONLY, stream=plain("Hel", "lo"), decoupled=True)
    with serving(monkeypatch, {"chat": ours, "vllm": vllm(), "ensemble": ensemble}) as running:
        yield running


@pytest.fixture
def builds(server: ScriptedTriton) -> Iterator[Builds]:
    built: list[Any] = []

    def build(model: str = "chat", kind: Any = ChatGPU, **settings: Any) -> Any:
        built.append(kind(model=model, backend="triton", base_url="grpc://far.example", **settings))
        return built[-1]

    yield build
    for each in built:
        each.close()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_chat(tmp_path_factory.mktemp("chat")))


def test_messages_go_as_they_are(server: ScriptedTriton, builds: Builds) -> None:
    chat = builds(temperature=0.5, max_tokens=9, seed=3, stop=["END"], model_kwargs={"min_p": 0.1})
    answer = chat.invoke([("system", "Be short."), ("human", "Hi")])
    assert answer.content == "Hello you"
    assert answer.usage_metadata["input_tokens"] == 7
    assert answer.usage_metadata["output_tokens"] == 3
    assert answer.response_metadata["finish_reason"] == "stop"
    asked = server.asked[-1]
    assert json.loads(asked.inputs["messages"][0]) == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
    ]
    assert json.loads(asked.inputs["sampling_parameters"][0]) == {
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 3,
        "stop": ["END"],
        "min_p": 0.1,
    }
    assert asked.inputs["stream"].tolist() == [True]
    assert asked.inputs["return_finish_reason"].tolist() == [True]


async def test_streams(builds: Builds) -> None:
    chat = builds()
    assert [part.content for part in chat.stream("Hi") if part.content] == ["Hel", "lo ", "you"]
    parts = [part.content async for part in chat.astream("Hi") if part.content]
    assert parts == ["Hel", "lo ", "you"]


def test_many_chats_keep_their_order(server: ScriptedTriton, builds: Builds) -> None:
    def echo(asked: Asked) -> Any:
        word = json.loads(asked.inputs["messages"][0])[-1]["content"]
        return told([word, "!"])(asked)

    server.models["chat"].stream = echo
    answers = builds().batch([f"number {each}" for each in range(24)])
    assert [each.content for each in answers] == [f"number {each}!" for each in range(24)]


def test_text_needs_a_template(server: ScriptedTriton, builds: Builds, tokenizer: str) -> None:
    with pytest.raises(ValueError, match="takes text, not messages: name the model's tokenizer"):
        builds("vllm").invoke("Hi")
    assert server.asked == []
    chat = builds("vllm", load_kwargs={"tokenizer": tokenizer})
    assert chat.invoke("Hi").content == "Hello you"
    prompt = server.asked[-1].inputs["text_input"][0].decode()
    assert "Hi" in prompt
    assert prompt != "Hi"
    assert chat.get_num_tokens("Hi") > 0
    assert chat.get_num_tokens_from_messages([HumanMessage("Hi")]) > chat.get_num_tokens("Hi")


def test_plain_prompts(server: ScriptedTriton, builds: Builds) -> None:
    assert builds("vllm", GPULLM).invoke("Once upon") == "Hello you"
    assert server.asked[-1].inputs["text_input"][0] == b"Once upon"
    with pytest.raises(ValueError, match="takes messages only, no plain prompt"):
        builds("chat", GPULLM).invoke("Once upon")


def test_an_ensemble_of_tensorrt_llm(server: ScriptedTriton, builds: Builds) -> None:
    with pytest.raises(ValueError, match="ensemble wants to know max_tokens"):
        builds("ensemble", GPULLM).invoke("Once")
    settings = {"max_tokens": 9, "temperature": 0.5, "seed": 12345, "stop": ["a", "bc"]}
    assert builds("ensemble", GPULLM, **settings).invoke("Once") == "Hello"
    inputs = server.asked[-1].inputs
    assert inputs["text_input"].tolist() == [[b"Once"]]
    assert inputs["max_tokens"].tolist() == [[9]]
    assert inputs["max_tokens"].dtype == np.int32
    assert inputs["temperature"].tolist() == [[0.5]]
    assert inputs["random_seed"].tolist() == [[12345]]
    assert inputs["stop_words"].tolist() == [[b"a", b"bc"]]
    assert inputs["bad_words"].tolist() == [[b""]]
    builds("ensemble", GPULLM, max_tokens=1, temperature=0).invoke("Once")
    inputs = server.asked[-1].inputs
    assert inputs["top_k"].tolist() == [[1]]
    assert "temperature" not in inputs
    with pytest.raises(ValueError, match="ensemble has no input for 'min_p'"):
        builds("ensemble", GPULLM, max_tokens=1, model_kwargs={"min_p": 1}).invoke("Once")
    with pytest.raises(ValueError, match=r"\['many'\] does not go into the input top_k"):
        builds("ensemble", GPULLM, max_tokens=1, model_kwargs={"top_k": "many"}).invoke("Once")


def test_the_llm_api_of_tensorrt_llm_repeats_itself(server: ScriptedTriton, builds: Builds) -> None:
    def stream(_: Asked) -> Iterator[dict[str, Any]]:
        for text, reason in [("Grü", "None"), ("Grüß", "None"), ("Grüße", "length")]:
            yield {"text_output": texts(text), "finish_reason": texts(reason)}

    outputs = [*TEXT_ONLY, ("finish_reason", "BYTES", [-1])]
    server.models["api"] = Model(
        LLM_API_INPUTS, outputs, stream=stream, max_batch=0, decoupled=True
    )
    llm = builds("api", GPULLM, max_tokens=3, stop=["x"])
    assert [text for text in llm.stream("Once") if text] == ["Grü", "ß", "e"]
    inputs = server.asked[-1].inputs
    assert inputs["sampling_param_max_tokens"].tolist() == [3]
    assert inputs["sampling_param_stop"].tolist() == [b"x"]
    assert "stop" not in inputs


def test_a_model_that_does_not_stream(server: ScriptedTriton, builds: Builds) -> None:
    server.models["vllm"] = Model(VLLM_INPUTS[:2], TEXT_ONLY, stream=plain("whole"), max_batch=0)
    assert builds("vllm", GPULLM).invoke("Once") == "whole"
    assert server.asked[-1].inputs["stream"].tolist() == [False]


def test_other_names(server: ScriptedTriton, builds: Builds) -> None:
    answer = lambda _: [{"OUT": texts("done")}]  # noqa: E731
    server.models["own"] = Model(
        [("IN", "BYTES", [1])], [("OUT", "BYTES", [1]), ("LOG", "BYTES", [1])], stream=answer
    )
    with pytest.raises(ValueError, match=r"2 outputs of type BYTES.*load_kwargs\['output'\]"):
        builds("own", GPULLM).invoke("a")
    assert builds("own", GPULLM, load_kwargs={"output": "OUT"}).invoke("a") == "done"
    assert server.asked[-1].inputs["IN"].shape == (1, 1)


def test_stop_strings_are_cut_here_too(server: ScriptedTriton, builds: Builds) -> None:
    def endless(asked: Asked) -> Iterator[dict[str, Any]]:
        for word in ["one ST", "OP two"]:
            yield {"text_output": texts(word)}
        asked.wait()

    server.models["vllm"] = Model(VLLM_INPUTS[:2], TEXT_ONLY, stream=endless, decoupled=True)
    llm = builds("vllm", GPULLM, stop=["STOP"], timeout=30)
    assert llm.invoke("a") == "one "
    assert server.left.wait(10)


def test_a_character_cut_in_two(server: ScriptedTriton, builds: Builds) -> None:
    raw = "né".encode()
    halves = [np.array([half], object) for half in (raw[:2], raw[2:])]
    server.models["vllm"] = vllm(lambda _: ({"text_output": half} for half in halves))
    server.models["vllm"].inputs, server.models["vllm"].outputs = VLLM_INPUTS[:2], TEXT_ONLY
    assert builds("vllm", GPULLM).invoke("a") == "né"


def test_the_answer_is_full(server: ScriptedTriton, builds: Builds) -> None:
    server.models["chat"].stream = told(["a", "b"], reason="length")
    assert builds(max_tokens=2).invoke("Hi").response_metadata["finish_reason"] == "length"


def test_tools(server: ScriptedTriton, builds: Builds) -> None:
    call = json.dumps({"name": "add", "arguments": {"a": 1, "b": 2}})
    server.models["chat"].stream = told([call[:9], call[9:]])
    answer = builds().bind_tools([add]).invoke("1 + 2?")
    assert [(each["name"], each["args"]) for each in answer.tool_calls] == [
        ("add", {"a": 1, "b": 2})
    ]
    assert json.loads(server.asked[-1].inputs["tools"][0])[0]["function"]["name"] == "add"
    with pytest.raises(ValueError, match="cannot be enforced by Triton"):
        builds().bind_tools([add], tool_choice="required").invoke("1 + 2?")


def test_a_template_sees_tools_calls_and_results(
    server: ScriptedTriton, builds: Builds, tmp_path: Path
) -> None:
    tokenizer = build_chat(tmp_path, template=WITH_TOOLS)
    chat = builds("vllm", load_kwargs={"tokenizer": tokenizer}).bind_tools([add])
    call = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 7, "b": 1}, "id": "1"}])
    chat.invoke([HumanMessage("q"), call, ToolMessage("8", tool_call_id="1")])
    prompt = server.asked[-1].inputs["text_input"][0].decode()
    assert prompt == "add;user: q|assistant: 7|tool: 8|assistant: "


@pytest.mark.parametrize(
    ("template", "match"),
    [
        (TEMPLATE, "template cannot describe tools"),
        ("{{ tools }}{{ raise_exception('no roles here') }}", "template refuses.*no roles here"),
    ],
)
def test_a_template_that_does_not_do(
    builds: Builds, tmp_path: Path, template: str, match: str
) -> None:
    chat = builds("vllm", load_kwargs={"tokenizer": build_chat(tmp_path, template=template)})
    with pytest.raises(ValueError, match=match):
        chat.bind_tools([add]).invoke("1 + 2?")


def test_a_template_that_does_not_end(builds: Builds, tmp_path: Path) -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    path = build_chat(tmp_path, template=loop)
    chat = builds("vllm", load_kwargs={"tokenizer": path}, timeout=0.2)
    with pytest.raises(TimeoutError, match=f"{path}: .*template does not end: .* after 0.2 s"):
        chat.invoke("hello")


@pytest.mark.parametrize("model", ["chat", "vllm"])
def test_calls_in_tags(server: ScriptedTriton, builds: Builds, tmp_path: Path, model: str) -> None:
    call = json.dumps({"name": "add", "arguments": {"a": 1, "b": 2}})
    server.models[model].stream = told(["Well.", "<tool_", f"call>\n{call}\n</tool_call>"])
    tokenizer = build_chat(tmp_path, template=WITH_TOOLS)
    chat = builds(model, load_kwargs={"tokenizer": tokenizer})
    answer = chat.bind_tools([add]).invoke("1 + 2?")
    assert answer.content == "Well."
    assert [(each["name"], each["args"]) for each in answer.tool_calls] == [
        ("add", {"a": 1, "b": 2})
    ]
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert chat.invoke("1 + 2?").content == f"Well.<tool_call>\n{call}\n</tool_call>"


def test_closing_the_stream_ends_it_there(server: ScriptedTriton, builds: Builds) -> None:
    def endless(asked: Asked) -> Iterator[dict[str, Any]]:
        yield {"text_output": texts("a")}
        asked.wait()

    server.models["chat"].stream = endless
    stream = builds().stream("Hi")
    assert next(stream).content == "a"
    stream.close()
    assert server.left.wait(10)


async def test_cancelling_ends_it_there(server: ScriptedTriton, builds: Builds) -> None:
    begun = threading.Event()

    def endless(asked: Asked) -> Iterator[dict[str, Any]]:
        begun.set()
        yield {"text_output": texts("a")}
        asked.wait()

    server.models["chat"].stream = endless
    await cancel(builds().ainvoke("Hi"), begun, server.left)


def test_the_time_out_bounds_the_whole_answer(server: ScriptedTriton, builds: Builds) -> None:
    def slow(asked: Asked) -> Iterator[dict[str, Any]]:
        for _ in range(1000):
            yield {"text_output": texts("a")}
            asked.wait(0.05)

    server.models["chat"].stream = slow
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="did not finish the answer within 0.5 seconds"):
        builds(timeout=0.5).invoke("Hi")
    assert time.monotonic() - start < 20
    assert server.left.wait(10)


def test_a_storm_passes(server: ScriptedTriton, builds: Builds) -> None:
    chat = builds(max_retries=2)
    chat.invoke("Hi")
    server.faults = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")] * 2
    assert chat.invoke("Hi").content == "Hello you"
    server.faults = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")] * 9
    with pytest.raises(ServerError, match="Exceeds maximum queue size"):
        chat.invoke("Hi")
    assert len(server.faults) == 6


def test_what_was_given_out_is_not_asked_for_again(server: ScriptedTriton, builds: Builds) -> None:
    def breaks(asked: Asked) -> Iterator[dict[str, Any]]:
        yield {"text_output": texts("a")}
        asked.context.abort(grpc.StatusCode.UNAVAILABLE, "Server is stopping")

    server.models["chat"].stream = breaks
    with pytest.raises(ServerError, match="Server is stopping"):
        builds(max_retries=3).invoke("Hi")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("stream", "error", "match"),
    [
        (lambda _: ["no such LoRA"], RefusedError, "answered with an error: no such LoRA"),
        (lambda _: [], BadAnswerError, "ended the answer without saying why"),
        (plain("half"), BadAnswerError, "ended the answer without saying why"),
        (told(["a"], reason="abort"), BadAnswerError, "ended the answer early: abort"),
        (lambda _: [{"text_output": np.ones(1)}], BadAnswerError, "float64 in the tensor text_out"),
        (
            lambda _: ["Error: the prompt is longer than the maximum model length of 16"],
            ContextOverflowError,
            "the prompt is too long",
        ),
    ],
)
def test_what_goes_wrong(
    server: ScriptedTriton, builds: Builds, stream: Any, error: type[Exception], match: str
) -> None:
    server.models["chat"].stream = stream
    with pytest.raises(error, match=match):
        builds(max_retries=0).invoke("Hi")


def test_a_model_it_does_not_have(builds: Builds) -> None:
    match = r"no model 'x' that is ready; it has chat \(ready\), vllm \(ready\), ensemble \(ready\)"
    with pytest.raises(RefusedError, match=match):
        builds("x").invoke("Hi")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"dtype": "float16"}, "has no meaning for the back end 'triton'"),
        ({"n_gpu_layers": 3}, "has no meaning for the back end 'triton'"),
        ({"load_kwargs": {"x": 1}}, "load_kwargs of the back end 'triton' are tokenizer"),
        ({"load_kwargs": {"tokenizer": "/nowhere"}}, "cannot be loaded"),
        ({"model_kwargs": {"best_of": 2}}, "best_of=2 cannot be given"),
        ({"model_kwargs": {"messages": "x"}}, "messages='x' cannot be given"),
    ],
)
def test_what_cannot_be(builds: Builds, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        builds(**settings).invoke("Hi")


def test_tokens_are_counted_by_a_model_that_can(server: ScriptedTriton, builds: Builds) -> None:
    assert builds().get_num_tokens_from_messages([HumanMessage("Hi")]) == 7
    assert json.loads(server.asked[-1].inputs["sampling_parameters"][0]) == {"max_tokens": 1}
    with pytest.raises(NotImplementedError, match="Triton does not count tokens"):
        builds("vllm").get_num_tokens_from_messages([HumanMessage("Hi")])


def test_what_is_too_long_to_be_counted_is_more_than_the_window(
    server: ScriptedTriton, builds: Builds
) -> None:
    server.models["chat"].stream = lambda _: ["Error: longer than the maximum model length of 16"]
    long: list[BaseMessage] = [HumanMessage("word " * 100)]
    assert builds(n_ctx=16).get_num_tokens_from_messages(long) > 100
    assert builds(n_ctx=4096).get_num_tokens_from_messages(long) == 4097
    with pytest.raises(ContextOverflowError, match="the prompt is too long"):
        builds().get_num_tokens_from_messages(long)


def test_a_schema_needs_an_input(builds: Builds) -> None:
    with pytest.raises(ValueError, match="chat has no input 'response_format'"):
        builds().invoke("Hi", response_format={"type": "json_object"})


def test_no_address() -> None:
    with pytest.raises(ValueError, match="backend='triton' needs base_url"):
        ChatGPU(model="chat", backend="triton").invoke("Hi")


def test_what_is_known_of_the_model(builds: Builds) -> None:
    chat = builds(n_ctx=512)
    assert chat.context_length == 512
    assert chat.devices[0].name == "far.example:8001"
    assert "grpc://far.example:8001" in chat.backend_reason
    with pytest.raises(NotImplementedError, match="give n_ctx"):
        _ = builds().context_length
