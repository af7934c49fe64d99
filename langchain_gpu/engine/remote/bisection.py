"""Find the item for which a server refuses a request, by halving the request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.tasks.embed import TextTooLongError
from langchain_gpu.servers.errors import RefusedError, ServerError

logger = logging.getLogger(__name__)


class Sliceable(Protocol):
    """Items of which a part can be taken."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Self: ...


ItemsT = TypeVar("ItemsT", bound=Sliceable)
Rows = NDArray[np.float32]


async def ask_by_bisection(
    items: ItemsT,
    ask: Callable[[ItemsT], Awaitable[Rows]],
    name: Callable[[ItemsT, ServerError], Exception],
    too_many: Callable[[int], None],
    *,
    skip: Callable[[ItemsT, Exception], Rows] | None = None,
    suspect: Callable[[ServerError], Awaitable[bool]] | None = None,
) -> Rows:
    """Ask for all items at once; where that is refused, find the item that causes it.

    A refusal that may be about the items costs about two requests per halving: 12 for 64 items.

    Args:
        items: What to ask for; sliced, never empty.
        ask: Returns one row per item.
        name: Makes the error for one item that was refused alone.
        too_many: Told of a number of items that was refused although each half was taken.
        skip: Told of such an item and its error; returns its row, of NaN. None raises the error.
        suspect: Says whether an error that is not a refusal may be about the items; None for never.

    Raises:
        ServerError: It has nothing to do with the items.
        Exception: What `name` made.
    """
    try:
        return await ask(items)
    except RefusedError as error:
        if not error.about_items:
            raise
        refusal: ServerError = error
    except ServerError as error:
        if suspect is None or not await suspect(error):
            raise
        refusal = error
    if len(items) == 1:
        fault = name(items, refusal)
        if skip is None:
            raise fault
        return skip(items, fault)
    middle = (len(items) + 1) // 2
    parts = (items[:middle], items[middle:])
    further = partial(
        ask_by_bisection, ask=ask, name=name, too_many=too_many, skip=skip, suspect=suspect
    )
    rows = np.concatenate([await further(part) for part in parts])
    if not np.isnan(rows).any():  # where an item was skipped, their number was not the reason
        too_many(len(items))
    return rows


def refused_alone(
    what: str, error: RefusedError, on_long: str, *, beside: str = ""
) -> RefusedError | TextTooLongError:
    """Return the error for one item that was refused alone.

    Args:
        what: The item and its position, such as `"text 3"`.
        error: How the server refused it.
        on_long: What the caller chose for items beyond the model's window.
        beside: What shares the window with the item, such as `"with the query "`.
    """
    text = f"{what} was refused: {error}"
    if not error.too_long:
        return RefusedError(text, status=error.status or 0, detail=error.detail)
    remedy = "split it, or choose on_long='truncate'"
    if on_long == "truncate":
        remedy = "the server does not cut it, so split it"
    subject = f"{beside}it".capitalize()
    return TextTooLongError(f"{text}. {subject} is longer than the model's window: {remedy}")


def fewer_items(refused: int, most: int, host: str, what: str) -> int:
    """Return how many items a request may hold from now on, and log a change.

    Args:
        refused: Items of a request that a server did not take, though it took each half.
        most: Items a request could hold until now.
        host: The server, for the log.
        what: The items, for the log.
    """
    if refused > most:  # planned before the limit was found
        return most
    fewer = max(1, refused // 2)
    logger.warning("%s gets %d %s per request from now on", host, fewer, what)
    return fewer
