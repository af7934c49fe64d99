"""LangChain's own suite of chats, and an agent: what every back end has to pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from pydantic import BaseModel

from langchain_gpu import ChatGPU


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It is sunny in {city}, 21 degrees."


def check_agent(chat: ChatGPU) -> None:
    """See that an agent calls its tool, and answers when it has the result."""
    agent = create_agent(chat, [get_weather], system_prompt="Use the tools.")
    found = agent.invoke({"messages": [HumanMessage("What is the weather in Paris?")]})
    _, call, result, answer = found["messages"][:4]
    assert isinstance(call, AIMessage)
    assert [(each["name"], each["args"]) for each in call.tool_calls] == [
        ("get_weather", {"city": "Paris"})
    ]
    assert isinstance(result, ToolMessage)
    assert "21" in str(result.content)
    assert isinstance(answer, AIMessage)


def check_agent_with_schema(chat: ChatGPU) -> None:
    """See that an agent whose answer has a schema calls its tool all the same."""

    class Weather(BaseModel):
        city: str
        degrees: int

    agent = create_agent(chat, [get_weather], response_format=ProviderStrategy(Weather))
    asked = HumanMessage("What is the weather in Paris? Use the tool.")
    call = next(agent.stream({"messages": [asked]}))["model"]["messages"][0]
    assert [each["name"] for each in call.tool_calls] == ["get_weather"]


_WHOLE = ("structured", "json", "tool", "agent")  # in the names of tests that read what was written


class ChatSuite(ChatModelIntegrationTests):
    """LangChain's suite; a back end adds `chat_model_params`, which end with `brief`.

    Attributes:
        brief: Settings of a test for which the beginning of an answer is as good as all of it.
    """

    brief: Mapping[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _brief(self, request: pytest.FixtureRequest) -> None:
        if not any(word in request.node.name for word in _WHOLE):
            self.brief = {"max_tokens": 16}

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatGPU

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # one ChatGPU holds one model


__all__ = ["ChatSuite", "check_agent", "get_weather"]
