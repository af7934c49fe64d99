"""A model's own chat template, for servers whose models take only text."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoTokenizer

from langchain_gpu.generators.base import Message
from langchain_gpu.generators.hf_template import Template


class ChatTemplate:
    """The tokenizer of a model, with its template.

    Args:
        name: Folder or name of the model; code that comes with it is not run.

    Raises:
        ValueError: There is no tokenizer, or it has no chat template.
    """

    def __init__(self, name: str) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"load_kwargs['tokenizer']={name!r} cannot be loaded: {error}"
            ) from None
        if not self._tokenizer.chat_template:
            raise ValueError(f"the tokenizer {name!r} has no chat template: name another one")
        self._template = Template(name, self._tokenizer, threading.Lock())
        # The server's tokenizer puts the first token there itself, as this one does.
        begin = self._tokenizer.bos_token_id
        adds = begin is not None and self._tokenizer("a").input_ids[:1] == [begin]
        self._begin = self._tokenizer.bos_token if adds else ""

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        timeout: float | None = None,
    ) -> str:
        """Return the chat as the text that a model goes on with.

        Raises:
            TimeoutError: The template does not end within `timeout` seconds.
            ValueError: The template refuses the chat, or cannot describe tools.
        """
        text: str = self._template.apply(messages, tools, timeout=timeout, tokenize=False)
        return text.removeprefix(self._begin)

    def tokenize(self, text: str) -> list[int]:
        """Return token ids of a plain text, without special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def count(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """Return the tokens of the prompt that a chat becomes."""
        return len(self._tokenizer(self.render(messages, tools)).input_ids)


__all__ = ["ChatTemplate"]
