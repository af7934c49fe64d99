"""The process's one OpenVINO core, loaded so that it cannot break signal handling.

Its CPU plugin gives the thread that loads it another stack for signals, and takes that away when
the plugin goes: in another order than they came, or from another thread, and the first thread is
left with a stack that is not there. The next signal, Ctrl-C in most cases, then ends the process
with a segmentation fault (OpenVINO 2026.4 does so). So the plugin is loaded by a thread that ends,
once, and stays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

import openvino

T = TypeVar("T")


@cache
def core() -> Any:
    """Return the `openvino.Core` of this process."""
    return apart(_start)


def apart(work: Callable[[], T]) -> T:
    """Run what loads the plugin by itself, in a thread of its own.

    Raises:
        BaseException: What `work` raised.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            done.set_exception(error)

    # Ctrl-C does not wait for it.
    threading.Thread(target=run, name="langchain-gpu-openvino", daemon=True).start()
    return done.result()


def _start() -> Any:
    core = openvino.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    return core


__all__ = ["apart", "core"]
