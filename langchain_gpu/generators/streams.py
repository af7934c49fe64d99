"""Deltas of one answer: collected into a completion, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from langchain_gpu.generators.base import Completion, Delta, Timings, ToolCall


def collect(deltas: Iterable[Delta]) -> Completion:
    """Put the pieces of one answer together.

    Raises:
        RuntimeError: The stream ended without its last piece: the answer is not whole.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    calls: dict[int, ToolCall] = {}
    logprobs: list[Mapping[str, Any]] = []
    last: Delta | None = None
    for delta in deltas:
        texts.append(delta.text)
        thoughts.append(delta.reasoning)
        logprobs.extend(delta.logprobs)
        for piece in delta.tool_calls:
            known = calls.get(piece.index)
            calls[piece.index] = (
                replace(known, arguments=known.arguments + piece.arguments) if known else piece
            )
        last = delta
    if last is None or not (last.finish_reason and last.timings):
        raise RuntimeError("the engine ended the answer without saying why")
    return Completion(
        text="".join(texts),
        reasoning="".join(thoughts),
        tool_calls=tuple(calls[index] for index in sorted(calls)),
        finish_reason=last.finish_reason,
        usage=last.usage,
        timings=last.timings,
        logprobs=tuple(logprobs),
        model=last.model,
    )


_EMPTY = Delta()


class Timer:
    """Passes on the pieces that hold something, and writes the timings onto the last one.

    The clock starts when the object is made.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first: float | None = None

    def __call__(self, delta: Delta) -> Delta | None:
        """Return the piece to pass on; None for an empty one."""
        if delta == _EMPTY:
            return None
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        if delta.finish_reason is None:
            return delta
        tokens = delta.usage.output_tokens if delta.usage else 0
        return replace(delta, timings=Timings.of(self._start, self._first, now, tokens))


Stage = Callable[[Delta], Delta | None]
"""Makes another piece of a piece of an answer; None keeps it back."""


def through(*stages: Stage) -> Stage:
    """Return one stage of several, each of which is given what the one before it passes on."""

    def passed(delta: Delta) -> Delta | None:
        piece: Delta | None = delta
        for stage in stages:
            if piece is None:
                break
            piece = stage(piece)
        return piece

    return passed


__all__ = ["Stage", "Timer", "collect", "through"]
