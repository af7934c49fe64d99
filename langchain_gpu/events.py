"""What the layers tell the outside: frozen facts, handed to one callable and to `logging`.

Nothing here decides anything. A layer that falls back calls `warn_fallback`, so that the person who
runs the program sees it once, and `emit`s the fact, so that a program can count it.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Fallback = Literal["cpu", "error"]
"""Where a device is missing or too small: go on on the CPU and say so, or raise."""

logger = logging.getLogger("langchain_gpu")
_PASSED_OVER = frozenset(
    (
        *("langchain_gpu", "langchain_core", "langchain", "langchain_classic", "langgraph"),
        *("asyncio", "collections", "concurrent", "contextlib", "tenacity", "threading"),
    )
)


class GPUWarning(UserWarning):
    """Base of every warning of this package."""


class FallbackWarning(GPUWarning):
    """Work went to a slower place than the one that was asked for."""


class TruncationWarning(GPUWarning):
    """A text was longer than the model's window and was cut."""


class ContextWarning(GPUWarning):
    """Retrieved chunks did not fit the chat model's context window and were left out."""


def users_line() -> int:
    """Return the `stacklevel` at which a warning of the calling function names the user's line.

    Frames of this package, of LangChain and of what runs functions for others are passed over. A
    thread of ours has no other frames; there the warning names the line that called the function.
    """
    level, frame = 0, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] in _PASSED_OVER:
        level, frame = level + 1, frame.f_back
    return 2 if frame is None else level


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDone:
    """One batch went through a device.

    Attributes:
        device: Where it ran, for example `"cuda:0"`.
        items: Texts or pairs in the batch.
        tokens: Tokens that carried content.
        padded_tokens: Tokens computed, padding included.
        seconds: Wall time of the forward pass, the copy back included.
    """

    device: str
    items: int
    tokens: int
    padded_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack:
    """Work moved to another place.

    Attributes:
        what: What moved, for example `"embedding"`.
        source: Where it was meant to run.
        target: Where it runs now.
        reason: Why, in a sentence.
    """

    what: str
    source: str
    target: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetChanged:
    """The token budget of a device: smaller, memory ran out; larger, enough batches went well."""

    device: str
    old_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMissed:
    """A model took more memory on a device than was planned for it."""

    what: str
    device: str
    planned_bytes: int
    measured_bytes: int


Event = BatchDone | FellBack | BudgetChanged | PlanMissed
Listener = Callable[[Event], None]


def emit(listener: Listener | None, event: Event) -> None:
    """Hand `event` to `listener` and to the log: batches as DEBUG, the rest as INFO."""
    logger.log(logging.DEBUG if isinstance(event, BatchDone) else logging.INFO, "%s", event)
    if listener is not None:
        listener(event)


def warn_fallback(
    listener: Listener | None, *, what: str, source: str, target: str, reason: str
) -> FellBack:
    """Report a fallback once: a `FallbackWarning` for the person, a `FellBack` for the program."""
    event = FellBack(what=what, source=source, target=target, reason=reason)
    emit(listener, event)
    warnings.warn(
        f"{what} runs on {target}, not {source}: {reason}", FallbackWarning, stacklevel=users_line()
    )
    return event


def warn_plan(
    listener: Listener | None, *, what: str, device: str, planned_bytes: int, measured_bytes: int
) -> PlanMissed:
    """Report that a plan was wrong, with both numbers."""
    event = PlanMissed(
        what=what, device=device, planned_bytes=planned_bytes, measured_bytes=measured_bytes
    )
    emit(listener, event)
    warnings.warn(
        f"{what} took {measured_bytes / 2**20:,.0f} MiB on {device}; {planned_bytes / 2**20:,.0f} "
        f"MiB were planned",
        GPUWarning,
        stacklevel=users_line(),
    )
    return event
