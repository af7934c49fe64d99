"""Ctrl-C at any function of a merged call: nobody else may wait forever, and memory must go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from langchain_gpu.engine import collector, fair_lock, keeper
from langchain_gpu.engine.collector import Collector
from langchain_gpu.engine.fair_lock import FairLock
from langchain_gpu.engine.keeper import Keeper
from langchain_gpu.engine.report import Report, Rows

FILES = {module.__file__ for module in (collector, fair_lock, keeper)}


class Thing:
    def close(self) -> None:
        pass


def interrupted(call: Callable[[], object], number: int) -> bool:
    """Interrupt a call where it enters, or goes on with, the function of this number.

    That is where Python looks for signals; a real one may come before any of them.
    """
    left = number

    def trace(frame: FrameType, _event: str, _argument: Any) -> None:
        nonlocal left
        if frame.f_code.co_filename in FILES:
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_wherever_it_comes() -> None:
    number = 0
    while True:
        order, kept = FairLock(), Keeper[Thing]()

        def run(items: list[int], _: object, order: FairLock = order) -> Rows:
            turn = order.take()
            try:
                return Rows(np.zeros((len(items), 1), np.float32), Report())
            finally:
                turn.release()

        merged = Collector(run, 8)

        def call(kept: Keeper[Thing] = kept, merged: Collector[int] = merged) -> None:
            with kept.use(Thing):
                merged.call([1], None)

        call()  # loaded already, as nearly always
        if not interrupted(call, number):
            break
        number += 1
        assert order.callers == 0, number
        lease = kept._lease
        assert lease is not None
        assert lease.users == 0, number
        assert len(merged.submit([1], None).result(20).vectors) == 1, number
    assert number > 5
