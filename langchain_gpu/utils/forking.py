"""Refuse objects that were loaded before a fork."""

from __future__ import annotations

import os


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
            ' and devices do not come along. Start processes with the method "spawn", or load '
            "nothing before they are forked"
        )


__all__ = ["check_process"]
