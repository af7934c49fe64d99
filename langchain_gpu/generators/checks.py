"""Checks of a request that no engine could answer; errors name the item and the remedy."""

# ruff: noqa: TRY004 - wrong settings are ValueErrors of every kind, as pydantic's own are

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def check_number(name: str, value: Any, *, whole: bool = False) -> None:
    """Check whether a setting is a finite number, and no string or bool that looks like one.

    Raises:
        ValueError: It is not.
    """
    number = isinstance(value, int) or (not whole and isinstance(value, float))
    if isinstance(value, bool) or not number:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} must be {kind}, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value}")


def check_sampling(max_tokens: Any, temperature: Any, top_p: Any, seed: Any) -> None:
    """Check whether the settings of one answer are numbers in their range, or None.

    Raises:
        ValueError: One is not.
    """
    if max_tokens is not None:
        check_number("max_tokens", max_tokens, whole=True)
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    if temperature is not None:
        check_number("temperature", temperature)
        if temperature < 0:
            raise ValueError(f"temperature must not be negative, not {temperature}")
    if top_p is not None:
        check_number("top_p", top_p)
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {top_p}")
    if seed is not None:
        check_number("seed", seed, whole=True)


def check_timeout(seconds: Any) -> None:
    """Check whether a time-out can be waited for.

    Raises:
        ValueError: It is not a positive number, or longer than a thread can wait.
    """
    check_number("timeout", seconds)
    if seconds <= 0:
        raise ValueError(f"timeout must be positive, not {seconds}")
    if seconds > threading.TIMEOUT_MAX:
        raise ValueError(f"timeout={seconds} is longer than can be waited for: None waits forever")


def check_stops(stops: Sequence[Any]) -> None:
    """Check whether every stop string can be met.

    Raises:
        ValueError: One is not a string, empty, or cannot be encoded.
    """
    for at, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise ValueError(f"stop string {at} must be a text, not {stop!r}")
        if not stop:
            raise ValueError("an empty stop string would end every answer before it starts")
        check_text(f"stop string {at}", stop)


def check_text(where: str, text: str) -> None:
    """Check whether a text can be encoded.

    Raises:
        ValueError: It holds half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: character {error.start} is half of a surrogate pair ({text[error.start]!r}) "
            f"and no text; decode the source with errors='replace'"
        ) from None


def check_tools(tools: Sequence[Any], choice: Any) -> None:
    """Check whether tools are in the OpenAI format, and the one that must be called among them.

    Raises:
        ValueError: A tool is not, or there is no tool of that name.
    """
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Iterable):
        raise ValueError(f"tools must be a list of tool definitions, not {tools!r}")
    for at, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(
                f"tool {at} is not a definition in the OpenAI format "
                f"({{'type': 'function', 'function': {{'name': ...}}}}): {tool!r}"
            )
        _check_json(f"tool {at} ({function['name']})", tool)
    if choice in ("auto", "none"):
        return
    known = [tool["function"]["name"] for tool in tools]
    if not known or (choice != "required" and choice not in known):
        raise ValueError(f"tool_choice={choice!r} is not one of the tools {known}")


def check_format(wanted: Any) -> None:
    """Check whether a response format is in the OpenAI form.

    Raises:
        ValueError: It is not, or its schema is missing or no JSON.
    """
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if not isinstance(kind, str):
        raise ValueError(
            f"response_format must be a mapping like {{'type': 'json_object'}}, not {wanted!r}"
        )
    if kind == "json_schema":
        named = wanted.get("json_schema")
        if not isinstance(named, Mapping) or not isinstance(named.get("schema"), Mapping):
            raise ValueError(
                "response_format of type 'json_schema' needs its schema: "
                "{'type': 'json_schema', 'json_schema': {'name': ..., 'schema': {...}}}"
            )
    _check_json("response_format", wanted)


def _check_json(where: str, value: Any) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} cannot be written as JSON: {error}") from None
    check_text(where, text)


__all__ = [
    "check_format",
    "check_number",
    "check_sampling",
    "check_stops",
    "check_text",
    "check_timeout",
    "check_tools",
]
