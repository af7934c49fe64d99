"""Several chats at once on an engine that streams one chat per call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from langchain_gpu.generators.base import Completion, Delta, Deltas, Request
from langchain_gpu.generators.pump import Stoppable
from langchain_gpu.generators.streams import collect


def generate_all(
    stream: Callable[[Request], Deltas], requests: Sequence[Request], *, width: int
) -> list[Completion]:
    """Answer every request, `width` at a time, in order.

    Raises:
        BaseException: What the first failing request raised; the others are canceled.
    """
    if len(requests) == 1:
        return [collect(stream(requests[0]))]
    over = threading.Event()
    running: list[Deltas] = []

    def answer(request: Request) -> Completion:
        deltas = stream(request)
        running.append(deltas)
        return collect(_until(over, deltas))

    with ThreadPoolExecutor(max(1, min(width, len(requests)))) as pool:
        futures = [pool.submit(answer, request) for request in requests]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        over.set()
        for future in waiting:
            future.cancel()
        if waiting:
            for deltas in running:
                if isinstance(deltas, Stoppable):  # the others end with their next piece
                    deltas.stop()
        for future in done:
            future.result()  # raises what failed first
        return [future.result() for future in futures]


def _until(over: threading.Event, deltas: Iterable[Delta]) -> Deltas:
    if over.is_set():
        return
    for delta in deltas:
        if over.is_set():
            return
        yield delta


__all__ = ["generate_all"]
