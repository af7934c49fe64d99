"""Contexts for use inside asynchronous generators that may be left half-read."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def nested_context(
    function: Callable[P, AsyncIterator[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """Do what `contextlib.asynccontextmanager` does, unknown to the event loop.

    A loop that ends closes all asynchronous generators side by side. A context that is one would be
    closed while the generator that uses it is closing it, which is an error ("generator didn't stop
    after athrow()"). One that the loop does not know is closed by its user alone.
    """

    @asynccontextmanager
    @wraps(function)
    def unregistered(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return _Unregistered(function(*args, **kwargs))

    return unregistered


class _Unregistered(AsyncGenerator[T, None]):
    """An asynchronous generator that its loop does not know."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def asend(self, value: None) -> Any:
        # The first call is what registers a generator, by the hooks of this thread.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        try:
            return self._generator.asend(value)
        finally:
            sys.set_asyncgen_hooks(*hooks)

    def athrow(self, *error: Any) -> Any:
        return self._generator.athrow(*error)


__all__ = ["nested_context"]
