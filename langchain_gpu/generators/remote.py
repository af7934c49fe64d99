"""Answers that a server's client brings in on its own thread, as streams that can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from langchain_gpu.generators.base import Delta, Deltas, timed
from langchain_gpu.generators.pump import Stoppable
from langchain_gpu.generators.toolcalls import recover_calls
from langchain_gpu.servers.loop import Flight

Put = Callable[[Delta], None]


class Client(Protocol):
    """What starts a coroutine on a loop of its own."""

    def start(self, work: Coroutine[Any, Any, None]) -> Flight[None]:
        """Start it; calling the result waits for it."""


def streamed(
    client: Client,
    answer: Callable[[Put], Coroutine[Any, Any, None]],
    tools: Sequence[Mapping[str, Any]] = (),
) -> Deltas:
    """Start an answer and return the stream of its pieces; stopping that ends it on the server too.

    Args:
        client: On whose loop it runs.
        answer: Makes the coroutine that asks the server; it is given where to put the pieces.
        tools: Tools whose calls may stand in the text.

    Raises:
        RuntimeError: The client is closed.
        Exception: From the stream, whatever the coroutine raised.
    """
    # Without a bound: an answer is never longer than the model's window.
    items: SimpleQueue[Delta | None] = SimpleQueue()
    flight = client.start(answer(items.put))
    flight.then(lambda: items.put(None))
    return Stoppable(recover_calls(timed(_landed(flight, items)), tools), flight.cancel)


def _landed(flight: Flight[None], items: SimpleQueue[Delta | None]) -> Deltas:
    """Yield what comes in, then raise what went wrong."""
    while (item := items.get()) is not None:
        yield item
    flight()


__all__ = ["Client", "Put", "streamed"]
