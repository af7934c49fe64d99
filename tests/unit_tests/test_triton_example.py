"""The chat of the example for Triton: what llama.cpp finds in an answer reaches whoever asks."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from langchain_gpu.generators.base import Delta
from langchain_gpu.generators.hermes import calls_in_text
from langchain_gpu.models.resolve import resolve

pytest.importorskip("xllamacpp")
MODEL = Path(__file__).parents[2] / "examples" / "triton" / "models" / "chat" / "1" / "model.py"
CHAT = [{"role": "user", "content": "?"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "add")]


class Tensor:
    """As in Triton's own process, the only place that has the real ones."""

    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.name = name
        self.value = array[0]


class Sender:
    """Keeps the answer, as Triton would send it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reason = ""

    def is_cancelled(self) -> bool:
        return False

    def send(self, tensors: list[Tensor]) -> None:
        values = {each.name: each.value for each in tensors}
        self.texts.append(values["text_output"].decode())
        self.reason = values["finish_reason"].decode()


class Counting(Sender):
    """Takes the numbers of tokens too."""

    def send(self, tensors: list[Tensor]) -> None:
        self.texts += [each.name for each in tensors]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    triton = ModuleType("triton_python_backend_utils")
    here: Any = triton
    here.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    here.Tensor, here.InferenceResponse = Tensor, list
    here.get_input_tensor_by_name = lambda request, name: request.get(name)
    monkeypatch.setitem(sys.modules, triton.__name__, triton)
    spec = importlib.util.spec_from_file_location("triton_example_chat", MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def chat(example: Any) -> Callable[[list[dict[str, Any]]], Sender]:
    def run(choices: list[dict[str, Any]]) -> Sender:
        def complete(_: Any, take: Callable[[Any], bool]) -> None:
            for choice in choices:
                take({"choices": [choice]})

        model, sender = example.TritonPythonModel(), Sender()
        model.llama = SimpleNamespace(handle_chat_completions=complete)
        assert model.stream(asking(messages=CHAT), sender) is None
        return sender

    return run


def asking(**inputs: Any) -> dict[str, Any]:
    """A request with these inputs as JSON."""

    def given(value: Any) -> Any:
        array = np.array([json.dumps(value).encode()], object)
        return SimpleNamespace(as_numpy=lambda: array)

    return {name: given(value) for name, value in inputs.items()}


def pieces(index: int, name: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """A call as llama.cpp streams it."""
    first = {"index": index, "id": "x", "type": "function"}
    yield {"delta": {"tool_calls": [{**first, "function": {"name": name, "arguments": "{"}}]}}
    for each in arguments:
        yield {"delta": {"tool_calls": [{"index": index, "function": {"arguments": each}}]}}


def test_calls_that_llama_cpp_has_found_are_calls(chat: Any) -> None:
    said = [{"delta": {"role": "assistant", "content": None}}, {"delta": {"content": "Well."}}]
    calls = [*pieces(0, "get_weather", '"city": ', '"Rome"}'), *pieces(1, "add", "}")]
    sender = chat([*said, *calls, {"delta": {}, "finish_reason": "tool_calls"}])
    assert sender.reason == "tool_calls"
    read = calls_in_text(TOOLS)
    deltas = [Delta(text=text) for text in sender.texts] + [Delta(finish_reason="tool_calls")]
    found = [piece for piece in map(read, deltas) if piece is not None]
    assert "".join(piece.text for piece in found) == "Well."
    made = [(call.name, json.loads(call.arguments)) for piece in found for call in piece.tool_calls]
    assert made == [("get_weather", {"city": "Rome"}), ("add", {})]


def test_a_call_that_was_cut_is_not_completed(chat: Any) -> None:
    calls = pieces(0, "get_weather", '"city": "Ro')
    sender = chat([*calls, {"delta": {}, "finish_reason": "length"}])
    text = '<tool_call>{"name": "get_weather", "arguments": {"city": "Ro'
    assert ("".join(sender.texts), sender.reason) == (text, "length")


@pytest.mark.models
def test_tools_that_the_template_would_leave_out_are_an_error(example: Any, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    small = resolve("HuggingFaceTB/SmolLM2-135M-Instruct", kind="gguf").path
    (tmp_path / "1" / "model.gguf").symlink_to(small)
    settings = {"n_parallel": 1, "n_ctx": 256, "n_gpu_layers": 0, "n_threads": 1}
    config = {"parameters": {name: {"string_value": str(settings[name])} for name in settings}}
    folders = {"model_repository": str(tmp_path), "model_version": "1"}
    model, sender = example.TritonPythonModel(), Sender()
    model.initialize({"model_config": json.dumps(config), **folders})
    few = {"max_tokens": 2}
    problem = model.stream(asking(messages=CHAT, tools=TOOLS, sampling_parameters=few), sender)
    assert problem == "the model's chat template cannot describe tools"
    assert not sender.texts
    assert model.stream(asking(messages=CHAT, sampling_parameters=few), Counting()) is None
    model.finalize()
