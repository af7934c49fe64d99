"""The base of chat and completion models: the engine is loaded at first use, answers streamed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    aclosing,
    contextmanager,
)
from functools import partial
from typing import Any, Self

from pydantic import Field

from langchain_gpu.engine.keeper import Keeper
from langchain_gpu.generators.base import Delta, Deltas, Generator, Request
from langchain_gpu.generators.cancel_group import current_group
from langchain_gpu.generators.checks import check_text
from langchain_gpu.generators.images import check_images, first_image
from langchain_gpu.generators.pump import pulled_async
from langchain_gpu.generators.registry import SERVERS, Choice, Options, choose, create
from langchain_gpu.hardware.devices import Device
from langchain_gpu.language_models.callbacks import langchain_errors
from langchain_gpu.language_models.settings import GeneratorSettings, seconds_of
from langchain_gpu.utils.async_contexts import nested_context
from langchain_gpu.utils.extras import is_installed


class Announced:
    """Announced batches, of which an engine is told once it is loaded, if it can wait for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._untold: list[tuple[ExitStack, int, int]] = []

    @contextmanager
    def coming(self, count: int, width: int) -> Iterator[None]:
        """Announce `count` calls, of which `width` come at a time, while the context is open."""
        batch = (ExitStack(), count, width)
        with self._lock:
            self._untold.append(batch)
        try:
            yield
        finally:
            with self._lock:
                if batch in self._untold:
                    self._untold.remove(batch)
            batch[0].close()

    def tell(self, generator: Generator) -> None:
        """Tell the engine of those it does not know of; called by all who hold it."""
        if not self._untold:
            return
        expect: Callable[[int, int], AbstractContextManager[None]] | None
        expect = getattr(generator, "expect", None)
        with self._lock:
            for stack, count, width in self._untold:
                if expect is not None:
                    stack.enter_context(expect(count, width))
            self._untold.clear()


class Loaded:
    """The engine, once it is loaded. A deep copy or an unpickled object loads its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.keeper: Keeper[Generator] = Keeper()
        self.announced = Announced()
        self.settings: tuple[str, str, Options] | None = None
        self.choice: Choice | None = None

    def __reduce__(self) -> tuple[type[Loaded], tuple[()]]:
        return Loaded, ()


class RunsGenerator(GeneratorSettings):
    """Base of a class that generates text with a model, which is loaded at its first use."""

    loaded: Loaded = Field(default_factory=Loaded, exclude=True, repr=False)
    """The engine, which a copy with other sampling settings shares. A field, for LangChain makes
    the copies of `configurable_fields` from the fields."""

    @property
    def backend_reason(self) -> str:
        """Which engine runs the model, and why. Loads nothing."""
        choice = self._choose(self._current())
        return f"{choice.backend}: {choice.reason}"

    @property
    def devices(self) -> list[Device]:
        """Where the model runs, with the reason. Loads the model."""
        with self._hold() as generator:
            return [generator.device]

    @property
    def context_length(self) -> int:
        """Tokens of one answer and its prompt together. Loads the model."""
        with self._hold() as generator:
            return generator.context_length

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids the model's own tokenizer gives, without special tokens."""
        # A field of LangChain's own classes, from which the faces inherit too.
        custom: Callable[[str], list[int]] | None = getattr(self, "custom_get_token_ids", None)
        if custom is not None:
            return custom(text)
        check_text("the text", text)
        with self._hold() as generator:
            return generator.tokenize(text)

    def close(self) -> None:
        """Free the model's memory, once calls under way are done. The next call loads it again."""
        self.loaded.keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _hold(self, *requests: Request) -> Iterator[Generator]:
        """Use the engine while the context is open, loaded now if necessary.

        Missing packages that the requests need are reported before a model is downloaded, and so
        are images that no model here could read.
        """
        loaded = self._current()
        if _lacks_grammars(loaded, requests):
            self._choose(loaded, constrained=True)
        if _hold_images(requests):
            self._check_images(loaded, requests)
        with loaded.keeper.use(partial(self._load, loaded)) as generator:
            loaded.announced.tell(generator)
            yield generator

    @nested_context
    async def _ahold(self, *requests: Request) -> AsyncIterator[Generator]:
        """Do the same as `_hold` without blocking."""
        loaded = self._current()
        if _lacks_grammars(loaded, requests):
            await asyncio.to_thread(self._choose, loaded, constrained=True)
        if _hold_images(requests):
            await asyncio.to_thread(self._check_images, loaded, requests)
        async with loaded.keeper.use_async(partial(self._load, loaded)) as generator:
            loaded.announced.tell(generator)
            yield generator

    def _check_images(self, loaded: Loaded, requests: Sequence[Request]) -> None:
        choice = self._choose(loaded)
        if choice.backend not in SERVERS:
            for request in requests:
                check_images(request.messages, f"the back end {choice.backend!r}")

    def _load(self, loaded: Loaded) -> Generator:
        choice = self._choose(loaded)
        here = choice.backend not in SERVERS
        loaded.keeper.idle_timeout = seconds_of(self.keep_alive) if here else None
        return create(choice, self._options())

    @contextmanager
    def _announced(self, count: int, width: int) -> Iterator[None]:
        """Announce calls that are about to be made, so that the engine can batch them.

        Loads nothing, as a cache may answer all of them: the first call that loads the engine tells
        it.
        """
        loaded = self._current()
        with loaded.keeper.expected(), loaded.announced.coming(count, width):
            yield

    @contextmanager
    def _streamed(self, request: Request) -> Iterator[tuple[Generator, Deltas]]:
        """Use the engine and its stream of one answer, which is canceled at the end."""
        with self._hold(request) as generator, langchain_errors():
            if request.prompt is not None:
                check_plain(generator)
            with current_group().reading(generator.stream(request)) as deltas:
                yield generator, deltas

    @nested_context
    async def _astreamed(
        self, request: Request
    ) -> AsyncIterator[tuple[Generator, AsyncGenerator[Delta, None]]]:
        """Do the same as `_streamed` without blocking; a task that is canceled stops the stream."""
        async with self._ahold(request) as generator:
            if request.prompt is not None:
                check_plain(generator)
            with langchain_errors():
                async with aclosing(pulled_async(generator.stream(request))) as deltas:
                    yield generator, deltas

    def _current(self) -> Loaded:
        """The engine of these settings; a copy whose settings differ gets another one."""
        settings = (self.model, self.backend, self._options())
        if self.loaded.settings not in (None, settings):
            self.loaded = Loaded()
        self.loaded.settings = settings
        return self.loaded

    def _choose(self, loaded: Loaded, *, constrained: bool = False) -> Choice:
        with loaded.lock:
            if loaded.choice is None:
                loaded.choice = choose(
                    self.model, self.backend, self._options(), constrained=constrained
                )
            return loaded.choice

    def _metadata(self, generator: Generator) -> dict[str, Any]:
        backend = self.loaded.choice.backend if self.loaded.choice else self.backend
        return {"model_name": self.model, "backend": backend, "device": str(generator.device)}


def _lacks_grammars(loaded: Loaded, requests: Sequence[Request]) -> bool:
    """Say whether a request is constrained, llguidance is missing, and no engine is loaded yet.

    Checked before the load, as other requests that wait for the same load would get its error.
    """
    constrained = any(request.constrained for request in requests)
    return constrained and loaded.keeper.loaded is None and not is_installed("llguidance")


def _hold_images(requests: Sequence[Request]) -> bool:
    return any(first_image(request.messages) is not None for request in requests)


def check_plain(generator: Generator) -> None:
    """Check that the engine supports plain prompts.

    Raises:
        NotImplementedError: It knows only chats.
    """
    if not getattr(generator, "plain_prompts", False):
        raise NotImplementedError(
            f"{type(generator).__name__} takes chats only, not plain prompts: use ChatGPU, or the "
            f"back end 'llama_cpp' or 'transformers'"
        )


__all__ = ["Announced", "Loaded", "RunsGenerator", "check_plain"]
