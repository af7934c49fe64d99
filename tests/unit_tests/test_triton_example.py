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

pytest.importorskip("xllamacpp")
MODEL = Path(__file__).parents[2] / "examples" / "triton" / "models" / "chat" / "1" / "model.py"
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


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict[str, Any]]], Sender]:
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

    def run(choices: list[dict[str, Any]]) -> Sender:
        def complete(_: Any, take: Callable[[Any], bool]) -> None:
            for choice in choices:
                take({"choices": [choice]})

        model, sender = module.TritonPythonModel(), Sender()
        model.llama = SimpleNamespace(handle_chat_completions=complete)
        messages = np.array([b'[{"role": "user", "content": "?"}]'], object)
        request = {"messages": SimpleNamespace(as_numpy=lambda: messages)}
        assert model.stream(request, sender) is None
        return sender

    return run


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
