"""OpenAI's older format, `/completions`: a plain prompt and its continuation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_gpu.generators.base import Delta, Request
from langchain_gpu.generators.constraints import enforced
from langchain_gpu.generators.openai_form import Pieces, settings_of

DEFAULT_TOKENS = 16
"""What servers of this form write, by OpenAI's example, when no length is given."""


def plain_body_of(model: str, request: Request) -> dict[str, Any]:
    """Return a plain prompt in the form of `/completions`; what is None is left to the server.

    `logprobs=True` and `top_logprobs`, which chats have, become the number this form wants.

    Raises:
        ValueError: An extra option would replace what the call itself says.
    """
    body = settings_of(model, request)
    top = body.pop("top_logprobs", None)
    if isinstance(body.get("logprobs"), bool):
        asked = body.pop("logprobs")
        if asked:
            body["logprobs"] = top or 1
    return body | {"prompt": request.prompt}


def with_schema(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body for llama-server, which reads over `response_format` on this route.

    Raises:
        ValueError: A format of an unknown type.
    """
    changed = dict(body)
    wanted = changed.pop("response_format", None)
    if wanted is not None and wanted["type"] != "text":
        changed["json_schema"] = enforced(wanted)
    return changed


class PlainPieces(Pieces):
    """The chunks of `/completions` in, the pieces of the text out."""

    def _delta(self, choice: Mapping[str, Any]) -> Delta | None:
        text, logprobs = choice.get("text") or "", choice.get("logprobs")
        if not (text or logprobs):
            return None
        if not isinstance(text, str):
            raise TypeError
        return Delta(text=text, logprobs=_scores(logprobs) if logprobs else ())


def _scores(logprobs: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the columns of this form as the rows that chats have."""
    if "content" in logprobs:  # llama-server has them as rows already
        return tuple(logprobs["content"] or ())
    tokens = logprobs.get("tokens") or ()
    others = logprobs.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        {
            "token": token,
            "logprob": score,
            "top_logprobs": [{"token": name, "logprob": at} for name, at in (top or {}).items()],
        }
        for token, score, top in zip(tokens, logprobs["token_logprobs"], others, strict=True)
    )


__all__ = ["DEFAULT_TOKENS", "PlainPieces", "plain_body_of", "with_schema"]
