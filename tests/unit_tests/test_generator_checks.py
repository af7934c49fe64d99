"""What no engine can do is refused before one is asked, and named."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_gpu.generators.base import Request

HELLO = [{"role": "user", "content": "hello"}]
F = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_tokens": 2.5}, "max_tokens must be a whole number, not 2.5"),
        ({"max_tokens": "5"}, "max_tokens must be a whole number, not '5'"),
        ({"max_tokens": True}, "max_tokens must be a whole number, not True"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"temperature": float("inf")}, "temperature must be finite"),
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"top_p": "x"}, "top_p must be a number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"timeout": float("inf")}, "timeout must be finite"),
        ({"timeout": float("nan")}, "timeout must be finite"),
        ({"timeout": 1e12}, "None waits forever"),
        ({"timeout": "3"}, "timeout must be a number"),
        ({"stop": (1,)}, "stop string 0 must be a text, not 1"),
        ({"stop": ("a", None)}, "stop string 1 must be a text"),
        ({"stop": ("a\ud800",)}, "stop string 0: character 1 is half of a surrogate pair"),
        ({"extra": {"n": 2}}, r"n=2: one call gives one answer; call batch\(\)"),
        ({"tools": "f"}, "tools must be a list"),
        ({"tools": 3}, "tools must be a list of tool definitions, not 3"),
        ({"tools": [{"name": "f"}]}, "tool 0 is not a definition in the OpenAI format"),
        ({"tools": [F, {"type": "function", "function": {}}]}, "tool 1 is not a definition"),
        (
            {"tools": [{"function": {"name": "f", "parameters": {"default": {1, 2}}}}]},
            r"tool 0 \(f\) cannot be written as JSON",
        ),
        (
            {"tools": [{"function": {"name": "f", "description": "\udc80"}}]},
            r"tool 0 \(f\): character .* half of a surrogate pair",
        ),
        ({"tools": [F], "tool_choice": "g"}, r"tool_choice='g' is not one of the tools \['f'\]"),
        ({"tool_choice": "f"}, r"tool_choice='f' is not one of the tools \[\]"),
        ({"tool_choice": "required"}, r"not one of the tools \[\]"),
        ({"response_format": "json"}, "response_format must be a mapping"),
        ({"response_format": {}}, "response_format must be a mapping"),
        ({"response_format": {"type": "json_schema"}}, "needs its schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
            "needs its schema",
        ),
    ],
)
def test_what_no_engine_can_do_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Request(messages=HELLO, **settings)


def test_what_engines_can_do_is_let_through() -> None:
    Request(
        messages=HELLO,
        max_tokens=1,
        temperature=0,
        top_p=1,
        seed=-3,
        timeout=86400,
        stop=("a", "\0"),
        tools=[F],
        tool_choice="f",
        response_format={"type": "structural_tag"},
        extra={"n": 1},
    )


def test_an_empty_prompt_is_refused_for_every_back_end() -> None:
    with pytest.raises(ValueError, match="the prompt is empty: there is nothing to continue"):
        Request(prompt="")
