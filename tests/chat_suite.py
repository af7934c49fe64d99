"""LangChain's own suite of chats, and an agent: what every back end has to pass."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_tests.integration_tests import ChatModelIntegrationTests

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


class ChatSuite(ChatModelIntegrationTests):
    """LangChain's suite; a back end adds `chat_model_params`."""

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
