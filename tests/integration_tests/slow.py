"""Which tests run only when they are asked for."""

from __future__ import annotations

import os

import pytest

SWITCH = "LANGCHAIN_GPU_SLOW"


def skip_unless_asked(reason: str) -> None:
    """Skip a test that takes minutes."""
    if SWITCH not in os.environ:
        pytest.skip(f"{reason}: set {SWITCH}=1 to wait")


__all__ = ["SWITCH", "skip_unless_asked"]
