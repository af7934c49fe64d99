"""Ctrl-C: the command cleans up and ends, or is ended soon after."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130
# What a good order takes: a save undone, a message. Libraries that load a model or read a prompt
# let go of nothing before they are done, and Ctrl-C would wait for them.
_GRACE_SECONDS = 2.0
# A progress bar hides the cursor, and what it or an answer wrote last is not a whole line.
_LEAVE_LINE = b"\n\x1b[?25h"
_unsaid: list[str] = []


def end_soon() -> None:
    """From now on Ctrl-C raises `KeyboardInterrupt`, and soon after ends the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


@contextmanager
def explained(message: str) -> Iterator[None]:
    """Say what an interruption inside left behind, once, however the process ends."""
    _unsaid.append(message)
    try:
        yield
    except KeyboardInterrupt:
        while _unsaid:
            sys.stderr.write(_unsaid.pop() + "\n")
        raise
    finally:
        _unsaid.clear()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _end)  # pressed again
    timer = threading.Timer(_GRACE_SECONDS, _end)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _end(*_: object) -> None:
    """End now. A store that is being saved stays what it was: saving can be killed."""
    try:
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), _LEAVE_LINE)
        while _unsaid:  # not by `sys.stderr`, which another thread may hold
            os.write(sys.stderr.fileno(), f"{_unsaid.pop()}\n".encode())
        endpoint = sys.modules.get("langchain_gpu.llama.endpoint")  # nothing is imported this late
        if endpoint is not None:
            endpoint.close_all()
    finally:
        os._exit(STATUS)
