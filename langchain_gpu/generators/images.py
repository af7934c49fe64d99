"""Images in chats: which engines read them, and what is left of a chat without them.

The content of a message with images is a list in the OpenAI form, of `{"type": "text", ...}` and
`{"type": "image_url", "image_url": {"url": ...}}`. That of all others is a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_gpu.generators.base import Message

_SERVERS = "a vision model behind backend='ollama' or an OpenAI-compatible server (base_url=)"


def first_image(messages: Sequence[Message]) -> int | None:
    """Return the position of the first message that holds an image; None where none does."""
    return next((at for at, each in enumerate(messages) if _parted(each)), None)


def check_images(messages: Sequence[Message], engine: str, remedy: str | None = None) -> None:
    """Refuse images.

    Args:
        messages: The chat.
        engine: Who cannot read them.
        remedy: What helps; None for an engine whose models never do.

    Raises:
        ValueError: A message holds one.
    """
    if (at := first_image(messages)) is not None:
        raise ValueError(
            f"message {at} ({messages[at]['role']}) holds an image, which {engine} cannot read: "
            + (remedy or f"give it to {_SERVERS}")
        )


def without_images(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the chat with its text alone."""
    return [
        {**each, "content": split(each["content"])[0]} if _parted(each) else dict(each)
        for each in messages
    ]


def split(content: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Part the content of a message with images into its text and the URLs, in their order."""
    text = "".join(each["text"] for each in content if each["type"] == "text")
    return text, [each["image_url"]["url"] for each in content if each["type"] == "image_url"]


def _parted(message: Message) -> bool:
    return isinstance(message.get("content"), list)


__all__ = ["check_images", "first_image", "split", "without_images"]
