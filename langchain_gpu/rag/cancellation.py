"""Steps of a chain that stop their input when the stream is closed.

When a stream of a chain is closed, LangChain's own steps first read their input to its end, to
trace it: whoever breaks off an answer would wait until the model has written all of it. Others do
not close their input, which lives on where a future's traceback holds it (as in Python 3.13), and
the model with it, until garbage is collected. So the last step of a chain, when it is closed, stops
all others of this module. Tasks are spared, so only `transform` is different here.
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


class _Leaving(Runnable[Any, Any]):
    """To be inherited from before the step itself."""

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
    """Yield items, and leave what gives them alone when this is closed."""
    for item in items:  # noqa: UP028 - `yield from` would close it
        yield item


def _close(stream: Any) -> None:
    if (close := getattr(stream, "close", None)) is not None:
        close()


class LeavingText(_Leaving, StrOutputParser):
    """The text of an answer, as it comes."""

    name: str | None = "StrOutputParser"


class LeavingPick(_Leaving, RunnablePick):
    """Some keys of a dict, as they come: the last step of a chain."""

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


__all__ = ["LeavingPick", "LeavingText"]
