"""A request in the format of llama.cpp's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_gpu.generators.base import Request
from langchain_gpu.generators.constraints import constraint_of
from langchain_gpu.generators.toolcalls import no_tools
from langchain_gpu.llama.errors import LlamaError
from langchain_gpu.llama.server import LlamaServer

# Options that the server knows and does not list among its defaults.
_UNLISTED = frozenset(
    {
        *("cache_prompt", "chat_template_kwargs", "dry_sequence_breakers", "grammar"),
        *("grammar_lazy", "grammar_triggers", "id_slot", "json_schema", "logit_bias", "logprobs"),
        *("max_completion_tokens", "n", "n_indent", "parallel_tool_calls", "preserved_tokens"),
        *("reasoning_budget_tokens", "return_tokens", "stop", "t_max_predict_ms"),
        *("thinking_budget_tokens", "top_logprobs", "user"),
    }
)
_OURS = ("messages", "model", "n_cmpl", "prompt", "stream", "stream_options")
_SCHEMA_ERROR = "JSON schema error at "


def _plain(body: dict[str, Any], prompt: str, server: LlamaServer) -> dict[str, Any]:
    """The fields that differ where a plain prompt is continued."""
    body["prompt"] = prompt
    if (wanted := body.pop("response_format", None)) is not None:
        _check_plain_format(wanted, server)
        if wanted["type"] != "text":
            schema = wanted.get("json_schema", wanted).get("schema")
            body["json_schema"] = schema or {"type": "object"}
    top = body.pop("top_logprobs", None)
    if body.get("logprobs") is True:
        body["logprobs"] = top or 1
    return body


def body_of(request: Request, server: LlamaServer) -> dict[str, Any]:
    """Return the request in llama.cpp's terms; what is None is left to llama.cpp.

    Raises:
        ValueError: The template cannot describe tools, a plain prompt's format cannot be enforced,
            or llama.cpp knows no such option.
    """
    _check_options(request.extra, server)
    body: dict[str, Any] = {**request.extra, "stream_options": {"include_usage": True}}
    body |= request.settings
    if request.max_tokens is not None:
        body["max_tokens"] = min(request.max_tokens, server.n_ctx)
    if request.response_format is not None:
        body["response_format"] = request.response_format
    if request.prompt is not None:
        return _plain(body, request.prompt, server)
    body["messages"] = list(request.messages)
    if request.tools:
        if not server.knows_tools:
            raise no_tools(f"the chat template of {server.settings.path.name}")
        body["tools"] = list(request.tools)
        # llama.cpp does not enforce a forced choice for every template, and a format hinders calls;
        # a grammar of our own does both.
        wanted = constraint_of(request)
        if wanted is not None:
            body["response_format"] = wanted
        body["tool_choice"] = request.tool_choice if wanted is None else "none"
    return body


def explained(error: ValueError) -> ValueError:
    """Return llama.cpp's complaint about a schema in words that name the schema."""
    _, found, reason = str(error).partition(_SCHEMA_ERROR)
    return ValueError(f"this schema cannot be enforced: {reason}") if found else error


def _check_options(extra: Mapping[str, Any], server: LlamaServer) -> None:
    """Refuse unknown options: llama.cpp would ignore them silently."""
    for name in _OURS:
        if name in extra:
            raise ValueError(f"{name!r} is set by the call itself: leave it out of model_kwargs")
    known = server.options | _UNLISTED
    if unknown := sorted(set(extra) - known):
        raise ValueError(f"unknown options {', '.join(unknown)}; known: {', '.join(sorted(known))}")


def _check_plain_format(wanted: Mapping[str, Any], server: LlamaServer) -> None:
    """Where a plain prompt is continued, a format that cannot be enforced is dropped in silence.

    A chat with the same format raises.
    """
    try:
        server.prompt({"messages": [{"role": "user", "content": "?"}], "response_format": wanted})
    except LlamaError as error:
        raise explained(ValueError(str(error))) from error


__all__ = ["body_of", "explained"]
