"""Refuse objects that were loaded before a fork."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_REMEDY = 'Start processes with the method "spawn", or load nothing before they are forked'
_loaded_in: int | None = None


def check_process(loaded_in: int) -> None:
    """Refuse what was loaded before a fork: its threads stayed behind, and every call would hang.

    Args:
        loaded_in: The process that loaded it.

    Raises:
        RuntimeError: This is another process.
    """
    if loaded_in != os.getpid():
        raise RuntimeError(
            f"the model was loaded in process {loaded_in}, and this one was forked from it: threads"
            f" and devices do not come along. {_REMEDY}"
        )


@contextmanager
def loading_model() -> Iterator[None]:
    """Note that a model is loaded here, and refuse that where a parent did the same.

    What torch or OpenVINO has computed with in the parent are threads that stayed there; a new
    model would wait for them at its first step, forever.

    Raises:
        RuntimeError: This process was forked from one that loaded a model.
    """
    global _loaded_in  # noqa: PLW0603 - it is one for the process, as torch's threads are
    if _loaded_in not in (None, os.getpid()):
        raise RuntimeError(
            f"a model was loaded in process {_loaded_in}, from which this one was forked: its "
            f"threads stayed there, and another model would wait for them forever. {_REMEDY}"
        )
    yield
    _loaded_in = os.getpid()


__all__ = ["check_process", "loading_model"]
