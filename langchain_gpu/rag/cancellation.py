"""Steps of a chain that stop their input when the stream is closed.

When a chain's stream is closed early, LangChain's own steps first read their input to its end, to
trace it: closing an answer would wait until the model has generated all of it. Other steps do not
close their input, which stays alive, and the model with it, where the traceback of a future holds
it (as in Python 3.13), until garbage is collected. So the last step of a chain stops all others of
this module when it is closed. Asynchronous streams are canceled at once, so only `transform`
differs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableConfig, RunnablePick
from typing_extensions import override

# What stops the steps that the last step of this chain reads from. LangChain hands the context down
# to them, and to the threads that it runs them in.
_STOPS: ContextVar[list[Callable[[], None]] | None] = ContextVar("_STOPS", default=None)


class _ClosesInput(Runnable[Any, Any]):
    """A mixin that closes a step's input with its stream; it comes before the step's class."""

    def transform(
        self,
        input: Iterator[Any],  # noqa: A002 - its name there
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        left = False

        def until_left() -> Iterator[Any]:
            for item in input:
                yield item
                if left:
                    return

        def stop() -> None:
            nonlocal left
            left = True
            _close(made)
            _close(input)

        _register(stop)
        made: Any = super().transform(until_left(), config, **kwargs)
        try:
            yield from _each(made)
        except GeneratorExit:
            stop()
            raise
        finally:
            _close(made)
            _close(input)


def _register(stop: Callable[[], None]) -> None:
    if (stops := _STOPS.get()) is not None:
        stops.append(stop)


def _each(items: Iterator[Any]) -> Iterator[Any]:
    """Yield items without closing their iterator when this generator is closed."""
    for item in items:  # noqa: UP028 - `yield from` would close it
        yield item


def _close(stream: Any) -> None:
    if (close := getattr(stream, "close", None)) is not None:
        close()


class ClosingText(_ClosesInput, StrOutputParser):
    """Passes on the text of an answer."""

    name: str | None = "StrOutputParser"


class ClosingPick(_ClosesInput, RunnablePick):
    """Passes on some keys of a dict: the last step of a chain."""

    @override
    def transform(
        self,
        input: Iterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        stops: list[Callable[[], None]] = []

        def stop_all() -> None:
            for stop in stops:
                stop()

        _register(stop_all)  # with the chain that this chain is a step of
        _STOPS.set(stops)
        try:
            yield from super().transform(input, config, **kwargs)
        finally:
            stop_all()  # their threads have ended: LangChain's steps wait for them when closed


__all__ = ["ClosingPick", "ClosingText"]
