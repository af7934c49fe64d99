"""A Triton server's model that scores pairs of a query and a document, asked over gRPC."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from langchain_gpu.engine.remote.halves import by_halves
from langchain_gpu.engine.remote.rerank import OnLong, Scores, check_sendable
from langchain_gpu.engine.remote.triton import NUMBERS, numbers_of, texts_in
from langchain_gpu.engine.tasks.embed import TextTooLongError
from langchain_gpu.hardware.devices import Device
from langchain_gpu.servers.errors import BadAnswerError, RefusedError
from langchain_gpu.servers.server import Server
from langchain_gpu.servers.triton import TritonClient
from langchain_gpu.servers.triton_model import Tensor, TritonModel

_TEXT = ("BYTES",)


@dataclass(frozen=True, slots=True)
class _Part:
    query: str
    documents: Sequence[str]
    start: int

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, part: slice) -> _Part:
        first = part.indices(len(self))[0]
        return replace(self, documents=self.documents[part], start=self.start + first)


class TritonReranker:
    """A model with two inputs of texts and one output of numbers, one per pair.

    Args:
        model: Its name there.
        server: Where it is.
        options: `query`, `document` and `output` name the tensors; without them the input with
            "query" in its name is the query, and the other one the document. Others are sent as
            parameters of every request.

    Raises:
        ServerError: The server does not answer, or has no such model.
        ValueError: The tensors cannot be told apart; the message lists them.
    """

    def __init__(self, model: str, server: Server, options: Mapping[str, Any]) -> None:
        self._model = model
        self._parameters = dict(options)
        self._named = {
            name: self._parameters.pop(name, None) for name in ("query", "document", "output")
        }
        self._client = TritonClient(server)
        self._max_items = server.batch_size
        self._closing = weakref.finalize(self, self._client.close)
        try:
            self._find(self._client.run(self._client.describe(model)))
        except BaseException:
            self._closing()
            raise
        host = self._client.host
        self.device = Device(kind="remote", name=host, reason=f"{host} serves {model}")

    def score(
        self, query: str, documents: Sequence[str], *, on_long: OnLong = "truncate"
    ) -> Scores:
        """Score documents, several requests in flight.

        Args:
            query: What is asked.
            documents: What might answer it.
            on_long: Whether pairs beyond the model's window are cut is the model's own matter:
                `"error"` cannot be promised, and refused pairs are an error either way.

        Returns:
            Scores as the model computes them, in the order of the documents. Shape (documents,).

        Raises:
            TextTooLongError: The model refuses a pair for its length; names the document.
            ServerError: The server did not do it.
            TypeError: The query or a document is no text.
            ValueError: A text cannot be sent, or `on_long="error"`.
        """
        if on_long == "error":
            raise ValueError(
                f"on_long='error' cannot be promised: {self._client.host} does not say how long a "
                f"pair may be; leave it out"
            )
        check_sendable(query, documents)
        step = self._max_items
        flights = [
            self._client.start(self._scores(_Part(query, documents[at : at + step], at)))
            for at in range(0, len(documents), step)
        ]
        try:
            scores = [flight() for flight in flights]
        finally:
            for flight in flights:
                flight.cancel()
        return np.concatenate([np.empty(0, np.float32), *scores])

    def close(self) -> None:
        """Cancel what is under way and close the connection."""
        self._closing()

    def _find(self, model: TritonModel) -> None:
        self._triton = model
        self._output = model.pick(
            "output", NUMBERS, "model_kwargs['output']", self._named["output"]
        )
        self._query = self._text(model, "query", other=None)
        self._document = self._text(model, "document", other=self._query)
        model.check_filled(self._query, self._document)
        for tensor in (self._query, self._document):
            self._max_items = min(self._max_items, model.most(tensor) or self._max_items)

    def _text(self, model: TritonModel, what: str, other: Tensor | None) -> Tensor:
        named = self._named[what]
        if named is None:
            left = [
                each.name
                for each in model.inputs.values()
                if each.datatype in _TEXT and (other is None or each.name != other.name)
            ]
            fitting = [name for name in left if "query" in name.lower()] if other is None else left
            # What the document's own option names is no query.
            fitting = [name for name in fitting if name != self._named["document"]]
            if len(fitting) == 1:
                named = fitting[0]
        return model.pick("input", _TEXT, f"model_kwargs[{what!r}]", named)

    async def _scores(self, part: _Part) -> Scores:
        return await by_halves(part, self._ask, self._refused, self._too_many)

    async def _ask(self, part: _Part) -> Scores:
        host = self._client.host
        sent = [
            texts_in(self._triton, self._query, [part.query] * len(part)),
            texts_in(self._triton, self._document, part.documents),
        ]
        answer = await self._client.infer(self._model, sent, [self._output.name], self._parameters)
        found = numbers_of(answer, self._output, host)
        if found.size != len(part):
            raise BadAnswerError(
                f"{host} returned scores of shape {found.shape} for {len(part)} documents"
            )
        scores = found.reshape(-1)
        finite = np.isfinite(scores)
        if not finite.all():
            bad = part.start + int(np.flatnonzero(~finite)[0])
            raise BadAnswerError(f"{host} returned no finite score for document {bad}")
        return scores

    def _refused(self, part: _Part, error: RefusedError) -> Exception:
        text = f"document {part.start} was refused: {error}"
        if error.too_long:
            return TextTooLongError(
                f"{text}. With the query it is longer than the model's window, and the server does "
                f"not cut it: split it"
            )
        return RefusedError(text, status=error.status or 0, detail=error.detail)

    def _too_many(self, items: int) -> None:
        if items <= self._max_items:
            self._max_items = max(1, items // 2)
