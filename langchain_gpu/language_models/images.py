"""Images in LangChain's messages, to the OpenAI form."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import HumanMessage, convert_to_openai_messages

KINDS = frozenset({"image", "image_url"})
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_DATA = re.compile(r"data:(image/[\w.+-]+);base64,", re.IGNORECASE)
_FORM = "{'type': 'image', 'base64': ..., 'mime_type': 'image/png'}, or 'url' in their place"


def image_part(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return `{"type": "image_url", "image_url": {"url": ...}}` for any block that LangChain knows.

    Nothing is fetched. No message of an error holds the image.

    Args:
        block: Of a type in `KINDS`: LangChain's own, OpenAI's or Anthropic's.
        where: What messages call it.

    Raises:
        ValueError: It holds no image, or one that cannot be decoded.
    """
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") == "url":  # Anthropic's
        block = {"type": "image", "url": source.get("url")}
    try:
        (part,) = convert_to_openai_messages([HumanMessage([dict(block)])])[0]["content"]
        shown = part["image_url"]
        url = shown if isinstance(shown, str) else shown["url"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{where}: an image is given as {_FORM}") from None
    if not isinstance(url, str) or not _SCHEME.match(url):
        raise ValueError(
            f"{where}: the URL of an image begins with 'https:' or the like, or, for base64, with "
            "'data:image/png;base64,'"
        )
    if url[:5].lower() == "data:":
        url = _data(url, where)
    more = {} if isinstance(shown, str) else dict(shown)
    return {"type": "image_url", "image_url": {**more, "url": url}}


def _data(url: str, where: str) -> str:
    """Return an image's URL without the line breaks that encoders put into base64."""
    head = _DATA.match(url)
    if head is None:
        raise ValueError(
            f"{where}: {url[:40]!r} is not a base64 image such as 'data:image/png;base64,...'"
        )
    text = "".join(url[head.end() :].split())
    try:
        empty = not base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{where}: the base64 of an image cannot be decoded: {error}") from None
    if empty:
        raise ValueError(f"{where}: the image is empty")
    return f"data:{head[1]};base64,{text}"


__all__ = ["KINDS", "image_part"]
