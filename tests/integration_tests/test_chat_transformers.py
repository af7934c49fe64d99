"""Qwen2.5-Coder-0.5B through transformers: LangChain's own suite, and an agent of `langchain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_gpu import GPULLM, ChatGPU
from tests.integration_tests.servers import folder
from tests.integration_tests.slow import skip_unless_own

pytestmark = [pytest.mark.shared, pytest.mark.models, pytest.mark.timeout(900)]


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It is sunny in {city}, 21 degrees."


def settings() -> dict[str, Any]:
    """Weights and sampling are those that the tests of vLLM have."""
    place = {"backend": "transformers", "device": "cpu", "dtype": "bfloat16", "n_ctx": 2048}
    # Half a billion parameters, taken greedily, tell jokes that go round in circles.
    sampling = {"temperature": 0, "max_tokens": 96, "model_kwargs": {"repetition_penalty": 1.2}}
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
    agent = create_agent(qwen, [get_weather], system_prompt="Use the tools.")
    found = agent.invoke({"messages": [HumanMessage("What is the weather in Paris?")]})
    _, call, result, answer = found["messages"][:4]
    assert isinstance(call, AIMessage)
    assert [(each["name"], each["args"]) for each in call.tool_calls] == [
        ("get_weather", {"city": "Paris"})
    ]
    assert isinstance(result, ToolMessage)
    assert isinstance(answer, AIMessage)
    assert "21" in str(result.content)


class TestQwen(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _weights(self, request: pytest.FixtureRequest, qwen: ChatGPU) -> None:
        """Loaded once."""
        skip_unless_own(request.node.name)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatGPU

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return settings()

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # one ChatGPU holds one model

    @pytest.mark.xfail(reason="a model of half a billion parameters misspells the keys it was told")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)
