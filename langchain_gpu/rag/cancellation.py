"""Steps of a chain that stop what they read from, once nobody reads from them.

When a stream of a chain is left, LangChain's own steps first read their input to its end, to trace
it: whoever breaks off an answer would wait until the model has written all of it. Tasks are spared,
so only `transform` is different here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableConfig, RunnablePick


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

        made: Any = super().transform(until_left(), config, **kwargs)
        try:
            yield from _each(made)
        except GeneratorExit:
            left = True
            raise
        finally:
            for stream in (made, input):
                if (close := getattr(stream, "close", None)) is not None:
                    close()


def _each(items: Iterator[Any]) -> Iterator[Any]:
    """Yield items, and leave what gives them alone when this is closed."""
    for item in items:  # noqa: UP028 - `yield from` would close it
        yield item


class LeavingText(_Leaving, StrOutputParser):
    """The text of an answer, as it comes."""

    name: str | None = "StrOutputParser"


class LeavingPick(_Leaving, RunnablePick):
    """Some keys of a dict, as they come."""


__all__ = ["LeavingPick", "LeavingText"]
