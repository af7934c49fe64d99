"""Qwen2.5-Coder-0.5B through transformers: LangChain's own suite, and an agent of `langchain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from langchain_gpu import GPULLM, ChatGPU
from tests.chat_suite import ChatSuite, check_agent, check_agent_with_schema
from tests.integration_tests.servers import folder

pytestmark = [pytest.mark.shared, pytest.mark.models, pytest.mark.timeout(900)]


def settings() -> dict[str, Any]:
    """The weights are those that the tests of vLLM have."""
    place = {"backend": "transformers", "device": "cpu", "dtype": "bfloat16", "n_ctx": 2048}
    # Half a billion parameters, taken greedily, tell jokes that go round in circles; with more of a
    # penalty they do not repeat the keys of a JSON object that they were told.
    sampling = {"temperature": 0, "max_tokens": 160, "model_kwargs": {"repetition_penalty": 1.15}}
    return {"model": str(folder() / "qwen-dense"), **place, **sampling}


@pytest.fixture(scope="module")
def qwen() -> Iterator[ChatGPU]:
    with ChatGPU(**settings()) as chat:
        _ = chat.devices
        yield chat  # and keeps the weights for every test of this file: they share them


def test_a_chat_and_a_plain_prompt(qwen: ChatGPU) -> None:
    answer = qwen.invoke("What is the capital of France? One word.")
    assert "Paris" in answer.text
    assert answer.response_metadata["backend"] == "transformers"
    with GPULLM(**settings()) as llm:
        assert llm.invoke("The capital of France is", max_tokens=4).startswith(" Paris")


def test_an_agent_calls_its_tool_and_answers_with_its_result(qwen: ChatGPU) -> None:
    check_agent(qwen)


def test_an_agent_with_a_schema_calls_its_tool(qwen: ChatGPU) -> None:
    check_agent_with_schema(qwen)


class TestQwen(ChatSuite):
    @pytest.fixture(autouse=True)
    def _weights(self, qwen: ChatGPU) -> None:
        """Loaded once."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**settings(), **self.brief}
