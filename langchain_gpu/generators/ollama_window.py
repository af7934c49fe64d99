"""Detect prompts that Ollama truncates silently."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from langchain_gpu.events import TruncationWarning, users_line
from langchain_gpu.generators.base import PromptTooLongError, Usage
from langchain_gpu.generators.ollama_models import Model

_DEFAULT = 4096  # what servers take that do not say, from version 0.6 on
_CHARACTERS_PER_TOKEN = 4  # English has 4 to 5
_LOST = 0.85  # fewer tokens than this part of the estimate: something is missing


def window_of(model: Model, load: Mapping[str, Any]) -> int:
    """Return the tokens of the window that a server takes which does not say so."""
    asked: int = load.get("num_ctx") or model.asked_window or _DEFAULT
    return min(asked, model.window or asked)


def warn_if_cut(
    body: Mapping[str, Any], usage: Usage, window: int, *, counting: bool = False
) -> None:
    """Tell from the tokens of an answer that a part of the chat was lost.

    Servers that know `truncate` and `shift` refuse a prompt that is too long, and end an answer at
    the end of the window. Older ones leave out the oldest messages, then the middle of the last
    one, and forget the beginning while they write; and say nothing.

    Args:
        body: The request.
        usage: What the server says it has read and written.
        window: Tokens of the window.
        counting: Only the tokens are of interest: raise where they are those of a part.

    Raises:
        PromptTooLongError: The prompt fills the whole window: it was cut there.
    """
    tokens = usage.input_tokens
    if tokens >= window:
        raise PromptTooLongError(None, window)
    if tokens + usage.output_tokens > window:
        warnings.warn(
            f"prompt and answer have {tokens + usage.output_tokens} tokens, the window holds "
            f"{window}: Ollama forgot the beginning while it wrote; give a larger n_ctx or a "
            f"smaller max_tokens",
            TruncationWarning,
            stacklevel=users_line(),
        )
    plain = "prompt" in body
    texts = (
        [body["prompt"]]
        if plain
        else [str(message.get("content") or "") for message in body["messages"]]
    )
    estimate = (sum(map(len, texts)) + len(json.dumps(body.get("tools") or ""))) // (
        _CHARACTERS_PER_TOKEN
    )
    if estimate > window and tokens < _LOST * estimate:
        if counting:
            raise PromptTooLongError(None, window)
        asked, lost = ("prompt", "a part of it") if plain else ("chat", "the oldest messages")
        warnings.warn(
            f"the {asked} has about {estimate} tokens, the window holds {window}, and Ollama has "
            f"read {tokens}: it left out {lost}; give a larger n_ctx or a shorter {asked}",
            TruncationWarning,
            stacklevel=users_line(),
        )


__all__ = ["warn_if_cut", "window_of"]
