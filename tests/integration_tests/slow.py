"""Which tests of LangChain's suite run with every back end, and which only when asked for."""

from __future__ import annotations

import os

import pytest

SWITCH = "LANGCHAIN_GPU_SLOW"

# What every back end has to show for itself: parts of the tests' names. The rest goes through code
# that all of them share, and always runs in full with llama.cpp and vLLM.
OWN = (
    "stream",
    "ainvoke",
    "usage_metadata",
    "stop_sequence",
    "tool_calling",
    "tool_choice",
    "tool_message_histories",
    "structured_output[pydantic]",
    "json_mode",
)


def skip_unless_own(name: str) -> None:
    """Skip a test that the suites of other back ends show already."""
    if SWITCH not in os.environ and not any(part in name for part in OWN):
        pytest.skip(f"shown by the suites of llama.cpp and vLLM: set {SWITCH}=1 to run it here too")


def skip_unless_asked(reason: str) -> None:
    """Skip a test that takes minutes."""
    if SWITCH not in os.environ:
        pytest.skip(f"{reason}: set {SWITCH}=1 to wait")
