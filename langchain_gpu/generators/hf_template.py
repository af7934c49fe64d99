"""A model's own chat template, which comes with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from jinja2 import TemplateError

from langchain_gpu.generators.base import Message
from langchain_gpu.generators.bounded import bounded
from langchain_gpu.generators.toolcalls import no_tools, with_objects

_LONGEST = 60.0  # seconds, where the caller would wait forever: templates take milliseconds
_PROBE = {"name": "probe_of_tools", "description": "Shows up where tools are described."}


class Template:
    """Renders chats as the text or the tokens that the model continues.

    A template is a program of the model's makers: it is ended when its time is over.

    Args:
        name: Of the model, for errors.
        tokenizer: A tokenizer of transformers that has a template.
        lock: Is held while the tokenizer works.
    """

    def __init__(self, name: str, tokenizer: Any, lock: AbstractContextManager[Any]) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._lock = lock
        self._knows: bool | None = None

    def apply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        timeout: float | None = None,
        **how: Any,
    ) -> Any:
        """Return the chat up to where the answer begins.

        Args:
            messages: The chat.
            tools: Tool definitions in the OpenAI format.
            timeout: Most seconds that it may take; 60 where that is less.
            **how: What is returned, as `apply_chat_template` has it.

        Raises:
            TimeoutError: The template does not end.
            ValueError: The template refuses the chat, or cannot describe tools.
        """
        chat = [with_objects(message, at) for at, message in enumerate(messages)]

        def write() -> Any:
            if tools:
                self._check_tools()
            with self._lock:
                return self._tokenizer.apply_chat_template(
                    chat,
                    tools=[dict(tool) for tool in tools] or None,
                    add_generation_prompt=True,
                    **how,
                )

        try:
            return bounded(write, min(timeout or _LONGEST, _LONGEST))
        except TimeoutError as error:
            raise TimeoutError(
                f"{self._name}: the model's chat template does not end: {error}"
            ) from None
        # Also what a template says of roles that it refuses, and what the sandbox says of ranges.
        except (TemplateError, ArithmeticError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{self._name}: the model's chat template refuses this chat: {error}"
            ) from error

    def _check_tools(self) -> None:
        if self._knows is None:
            chat = [{"role": "user", "content": "?"}]
            tool = {"type": "function", "function": {**_PROBE, "parameters": {"type": "object"}}}
            with self._lock:
                text = self._tokenizer.apply_chat_template(chat, tools=[tool], tokenize=False)
            self._knows = _PROBE["name"] in text
        if not self._knows:
            raise no_tools("the model's chat template")


__all__ = ["Template"]
