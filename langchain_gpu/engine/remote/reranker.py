"""Base of rerankers behind a server: pairs are sent in requests, scores returned in order."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.remote.bisection import ask_by_bisection, fewer_items, refused_alone
from langchain_gpu.engine.remote.suspicion import Suspicion
from langchain_gpu.engine.tasks.embed import check_texts, surrogate_problem
from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.servers.client import Client
from langchain_gpu.servers.errors import (
    BadAnswerError,
    FailedItemError,
    RefusedError,
    ServerError,
)

OnLong = Literal["truncate", "error"]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the pairs of a query and its documents.

    Attributes:
        query: What is asked.
        documents: What might answer it.
        start: Position of the first document in the caller's sequence.
        on_long: See `Reranker.score`.
        suspected: See `Request.suspected`.
    """

    query: str
    documents: Sequence[str]
    start: int
    on_long: OnLong
    suspected: bool = False

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, part: slice) -> Part:
        first = part.indices(len(self))[0]
        return replace(self, documents=self.documents[part], start=self.start + first)


PROBE = Part("query", ["document"], 0, "error")
"""A pair to which no server can object."""


class Reranker(ABC):
    """A cross-encoder behind a server, whatever is spoken there.

    Args:
        model: Its name there.
        client: Reaches the server. It is closed with this object, or where this cannot be built.
        max_items: Pairs per request at most.
    """

    def __init__(self, model: str, client: Client, max_items: int) -> None:
        self._model = model
        self._client: Client = client
        self._max_items = max_items
        self._closing = weakref.finalize(self, client.close)
        try:
            client.run(self._connect())
        except BaseException:
            self._closing()
            raise
        self.device = client.device_of(model)

    def score(
        self, query: str, documents: Sequence[str], *, on_long: OnLong = "truncate"
    ) -> Scores:
        """Score documents, several requests in flight.

        Args:
            query: What is asked.
            documents: What might answer it.
            on_long: For pairs beyond the model's window: `"truncate"` has the server cut them
                where it can, `"error"` refuses them.

        Returns:
            Scores as the server computes them, higher is better, in the order of the documents.
            Shape (documents,). Most servers return probabilities, some raw logits.

        Raises:
            TextTooLongError: The server refuses a pair for its length; names the document.
            ServerError: The server did not do it; names the document at which it fails, where it
                scores others.
            TypeError: The query or a document is not a string.
            ValueError: A text cannot be sent.
        """
        _check_sendable(query, documents)
        step = self._max_items
        flights = [
            self._client.start(self._scores(Part(query, documents[at : at + step], at, on_long)))
            for at in range(0, len(documents), step)
        ]
        try:
            scores = [flight() for flight in flights]
        finally:
            for flight in flights:
                flight.cancel()
        return np.concatenate([np.empty(0, np.float32), *scores])

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        self._closing()

    @abstractmethod
    async def _connect(self) -> None:
        """Detect the server's API."""

    @abstractmethod
    async def _ask(self, part: Part) -> Scores:
        """Ask for one score per document."""

    async def _scores(self, part: Part) -> Scores:
        suspicion = Suspicion(partial(self._ask, PROBE), len(part))

        async def ask(part: Part) -> Scores:
            # One that is alone is asked for patiently all the same, before it is blamed.
            return await self._ask(replace(part, suspected=suspicion.likely and len(part) > 1))

        async def suspect(error: ServerError) -> bool:
            # No engine is between that would send fewer where memory ran out. The first document
            # that fails alone ends the call, so few are asked for in vain.
            return is_out_of_memory(error) or await suspicion(error)

        return await ask_by_bisection(part, ask, self._named, self._too_many, suspect=suspect)

    def _finite(self, scores: Scores, part: Part) -> Scores:
        """Return the scores.

        Raises:
            BadAnswerError: One is not finite; names the document.
        """
        finite = np.isfinite(scores)
        if not finite.all():
            bad = part.start + int(np.flatnonzero(~finite)[0])
            raise BadAnswerError(f"{self._client.host} returned no finite score for document {bad}")
        return scores

    def _named(self, part: Part, error: ServerError) -> Exception:
        if not isinstance(error, RefusedError):
            return FailedItemError("document", part.start, error)
        return refused_alone(
            f"document {part.start}", error, part.on_long, beside="with the query "
        )

    def _too_many(self, items: int) -> None:
        self._max_items = fewer_items(items, self._max_items, self._client.host, "documents")


def _check_sendable(query: str, documents: Sequence[str]) -> None:
    """Refuse what no server can be sent.

    Raises:
        TypeError: The query or a document is not a string.
        ValueError: A text cannot be encoded; the message names it.
    """
    if not isinstance(query, str):
        raise TypeError(f"the query is {type(query).__name__}, not str")
    if isinstance(documents, str | bytes):
        raise TypeError(
            f"documents is a single {type(documents).__name__}; pass a list: [document]"
        )
    check_texts(documents)
    for name, text in [
        ("the query", query),
        *((f"document {i}", t) for i, t in enumerate(documents)),
    ]:
        if (problem := surrogate_problem(text)) is not None:
            raise ValueError(f"{name} {problem}")
