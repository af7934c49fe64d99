"""Base of encoders behind a server: texts are sent in requests, rows returned in order."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors
from langchain_gpu.engine.remote.bisection import ask_by_bisection, fewer_items, refused_alone
from langchain_gpu.engine.remote.request import PROBE, Fields, Items, Request, estimate
from langchain_gpu.engine.remote.suspicion import Suspicion
from langchain_gpu.engine.remote.truncation import Truncation
from langchain_gpu.engine.tasks.embed import EmbedOptions, check_surrogates, check_texts
from langchain_gpu.hardware.devices import Device
from langchain_gpu.servers.client import Client
from langchain_gpu.servers.errors import (
    BadAnswerError,
    FailedItemError,
    NotFiniteError,
    RefusedError,
    ServerError,
)


class RemoteEncoder(ABC):
    """An `engine.backends.TextEncoder` whose model runs behind a server.

    Args:
        config: The model's name there, the server, and `options`: more fields of the request's
            body. Fields under the keys `"query"` and `"document"` go with texts of that kind only.
        client: Reaches the server.

    Raises:
        ValueError: A dtype or a device was asked for; or an option that is set here.
    """

    reserved: frozenset[str] = frozenset({"model", "input"})
    """Fields of the body that are not the user's."""

    def __init__(self, config: EmbedderConfig, client: Client) -> None:
        if config.dtype != "auto":
            raise ValueError(
                f"dtype={config.dtype!r} cannot be chosen here: {client.host} computes in what it "
                f"was started with"
            )
        if config.device != "auto":
            raise ValueError(
                f"device={config.device!r} cannot be chosen here: the model runs on {client.host}"
            )
        self._fields = Fields.of(config.options, self.reserved)
        self._model = config.model
        self._client: Client = client
        self._max_items = config.server.batch_size
        self._in_flight = config.server.concurrency
        self._truncation = Truncation(client.host)
        self._device = client.device_of(config.model)
        self._dimension = 0
        # An encoder that is forgotten still ends its thread.
        self._closing = weakref.finalize(self, client.close)
        try:
            self.window = client.run(self._connect())
            self._dimension = client.run(self._ask(PROBE, cut=False)).shape[1]
        except BaseException:
            self._closing()
            raise

    @property
    def device(self) -> Device:
        """The server."""
        return self._device

    @property
    def dimension(self) -> int:
        """Width of a row, as the server returned it for a first text."""
        return self._dimension

    @property
    def dtype(self) -> str:
        """What is computed in: only the server knows."""
        return "as served"

    @property
    def rules(self) -> BatchRules:
        """Batches by items, several in flight; the server sees to its own padding."""
        return BatchRules(padded=False, max_items=self._max_items, in_flight=self._in_flight)

    @property
    def prompts(self) -> Mapping[str, str]:
        """None: a server does not tell."""
        return {}

    @property
    def default_prompt_name(self) -> str | None:
        """None: a server does not tell."""
        return None

    @property
    def details(self) -> str:
        """See `TextEncoder.details`."""
        return ""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Refuse: the texts are tokenized behind the server."""
        check_texts(texts)
        raise ValueError(f"{self._client.host} does not count tokens without computing vectors")

    def tokenize(self, items: Sequence[str], options: EmbedOptions, *, start: int = 0) -> Tokenized:
        """Estimate lengths; see `Encoder.tokenize`."""
        check_texts(items, start=start)
        check_surrogates(items, start=start)
        if options.on_long == "mean":
            raise ValueError(
                "on_long='mean' needs the model's tokenizer, which is behind the server: split "
                "long texts before, or choose on_long='truncate' or 'error'"
            )
        inputs = [options.prompt + text for text in items] if options.prompt else list(items)
        return Tokenized(estimate(inputs), Items(inputs, options, start))

    def from_ids(
        self,
        rows: Sequence[Sequence[int]],  # noqa: ARG002 - the contract's
        *,
        start: int = 0,  # noqa: ARG002
    ) -> Tokenized:
        """Refuse; see `TextEncoder.from_ids`."""
        raise ValueError(f"{self._client.host} takes texts only, not token ids")

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> Request:
        """See `Encoder.prepare`."""
        items: Items = tokens.payload
        return items.request(rows.tolist())

    def forward(self, features: Request) -> Pending:
        """Send a request."""
        flight = self._client.start(self._rows(features))

        def wait() -> Vectors:
            vectors = flight()
            self._truncation.tell()
            return vectors

        return wait

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:  # noqa: ARG002
        """See `Encoder.merge`: an item has one row here."""
        return vectors

    def to(self, device: Device) -> None:
        """Refuse: the model stays where it is."""
        raise ValueError(f"the model runs on {self._client.host} and cannot move to {device}")

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        self._closing()

    @abstractmethod
    async def _connect(self) -> int | None:
        """Detect the server's API, and return the model's window."""

    @abstractmethod
    async def _vectors(self, request: Request, *, cut: bool) -> Vectors:
        """Ask for vectors, one per input.

        Args:
            request: What to embed.
            cut: Let the server cut what is longer than the model's window.
        """

    def _body(self, request: Request) -> dict[str, Any]:
        """Return the fields that every form of request has, and the user's own."""
        fields = self._fields.of_kind(request.options.task)
        return {"model": self._model, "input": request.inputs, **fields}

    async def _rows(self, request: Request) -> Vectors:
        allowed = request.options.on_long == "truncate"

        async def ask(part: Request) -> Vectors:
            # A single item is retried as any other request before it is taken for the cause.
            part = replace(part, suspected=suspicion.likely and len(part) > 1)
            where = f"{part.what} {part.positions[0]}"
            return await self._truncation.ask(self._ask, part, where, allowed=allowed)

        refused = request.options.refused

        def skip(part: Request, error: Exception) -> Vectors:
            if refused is None:
                raise error
            refused(part.positions[0], error)
            return np.full((1, self._dimension), np.nan, np.float32)

        suspicion = Suspicion(partial(self._ask, PROBE, cut=False), len(request))
        return await ask_by_bisection(
            request, ask, self._named, self._too_many, skip=skip, suspect=suspicion
        )

    async def _ask(self, request: Request, *, cut: bool) -> Vectors:
        vectors = await self._vectors(request, cut=cut)
        wanted = (len(request), self._dimension or vectors.shape[-1])
        if vectors.ndim != 2 or vectors.shape != wanted:  # noqa: PLR2004 - rows and columns
            raise BadAnswerError(
                f"{self._client.host} returned vectors of shape {vectors.shape} instead of {wanted}"
            )
        if not vectors.shape[1]:
            raise BadAnswerError(f"{self._client.host} returned empty vectors")
        finite = np.isfinite(vectors).all(axis=1)
        if request.options.refused is None and not finite.all():
            bad = request.positions[int(np.flatnonzero(~finite)[0])]
            raise NotFiniteError(
                f"{self._client.host} returned NaN or infinity for {request.what} {bad}"
            )
        return vectors

    def _named(self, request: Request, error: ServerError) -> Exception:
        position = request.positions[0]
        if not isinstance(error, RefusedError):
            return FailedItemError(request.what, position, error)
        what = f"{request.what} {position}"
        return refused_alone(what, error, request.options.on_long)

    def _too_many(self, items: int) -> None:
        self._max_items = fewer_items(items, self._max_items, self._client.host, "texts")
