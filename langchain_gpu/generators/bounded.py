"""Programs that came with a model, stopped when they run too long."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

ResultT = TypeVar("ResultT")

_PATIENCE = 1.0  # seconds until what was thrown is thrown again: a destructor may have swallowed it
_TRIES = 3


class _Stopped(BaseException):
    """Ends a call; no Exception, which a template's filters may catch."""


def bounded(call: Callable[[], ResultT], seconds: float) -> ResultT:
    """Return what a call returns, and end it where it takes too long.

    It runs in a thread of its own, into which an exception is thrown at the end of its time. That
    ends any loop of Python, but not one long step of C code.

    Args:
        call: Runs Python.
        seconds: The time it has.

    Raises:
        TimeoutError: The time is over.
        BaseException: Whatever the call raised.
    """
    results: list[ResultT] = []
    errors: list[BaseException] = []
    over, lock = threading.Event(), threading.Lock()

    def run() -> None:
        with suppress(_Stopped):
            try:
                results.append(call())
            except BaseException as error:  # noqa: BLE001  the caller raises it
                errors.append(error)
            with lock:
                over.set()
            time.sleep(0)  # what was thrown just before arrives here

    thread = threading.Thread(target=run, name="langchain-gpu-template", daemon=True)
    thread.start()
    in_time = False
    try:
        in_time = over.wait(seconds)
    finally:
        tries = 0 if in_time else _TRIES
        while tries and not over.is_set():
            with lock:
                if not over.is_set() and thread.ident is not None:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped)
                    )
            thread.join(_PATIENCE)
            tries -= 1
    if not in_time:
        raise TimeoutError(f"it had not ended after {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


__all__ = ["bounded"]
