"""Why an answer ended, which a chain's text does not tell."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGeneration, LLMResult


class Ending(BaseCallbackHandler):
    """Hears the chat model of a chain.

    Attributes:
        reason: Why its last answer ended, as its engine says: `"stop"`, or `"length"` where the
            answer was cut; None before it ends.
    """

    reason: str | None = None

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Keep the reason."""
        for generation in response.generations[0]:
            if isinstance(generation, ChatGeneration):
                self.reason = generation.message.response_metadata.get("finish_reason")


__all__ = ["Ending"]
