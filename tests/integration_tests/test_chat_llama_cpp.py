"""Qwen2.5-Coder-0.5B through llama.cpp: LangChain's own suite, and an agent of `langchain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from langchain_gpu import ChatGPU
from tests.chat_suite import ChatSuite, check_agent, check_agent_with_schema
from tests.integration_tests.servers import folder

QWEN = "qwen/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"

pytestmark = [pytest.mark.shared, pytest.mark.models, pytest.mark.timeout(900)]


def settings() -> dict[str, Any]:
    """One thread and one slot: more threads than free cores spin, and slots share the window."""
    place = {"device": "cpu", "n_ctx": 2048, "n_parallel": 1, "n_threads": 1}
    model = folder() / QWEN
    # A small model goes round in circles without the penalty, and JSON that is cut is an error.
    calm = {"max_tokens": 160, "model_kwargs": {"repeat_penalty": 1.2}}
    return {"model": str(model), "temperature": 0, **calm, **place}


@pytest.fixture(scope="module")
def qwen() -> Iterator[ChatGPU]:
    with ChatGPU(**settings()) as chat:
        yield chat  # and keeps the weights for every test of this file: they share them


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
