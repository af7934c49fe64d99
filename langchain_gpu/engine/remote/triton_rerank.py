"""Scores of pairs from a model of a Triton Inference Server, over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_gpu.engine.remote.reranker import OnLong, Part, Reranker, Scores
from langchain_gpu.engine.remote.triton import NUMBERS, numbers_of, texts_in
from langchain_gpu.servers.errors import BadAnswerError
from langchain_gpu.servers.server import Server
from langchain_gpu.servers.triton import TritonClient
from langchain_gpu.servers.triton_model import Tensor, TritonModel

_TEXT = ("BYTES",)


class TritonReranker(Reranker):
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

    _client: TritonClient

    def __init__(self, model: str, server: Server, options: Mapping[str, Any]) -> None:
        self._parameters = dict(options)
        self._named_tensors = {
            name: self._parameters.pop(name, None) for name in ("query", "document", "output")
        }
        super().__init__(model, TritonClient(server), server.batch_size)

    def score(
        self, query: str, documents: Sequence[str], *, on_long: OnLong = "truncate"
    ) -> Scores:
        """Score documents; see `Reranker.score`.

        Whether pairs beyond the model's window are cut is the model's own matter: `"error"` cannot
        be promised, and refused pairs are an error either way.

        Raises:
            ValueError: `on_long="error"`.
        """
        if on_long == "error":
            raise ValueError(
                f"on_long='error' cannot be promised: {self._client.host} does not say how long a "
                f"pair may be; leave it out"
            )
        return super().score(query, documents, on_long=on_long)

    async def _connect(self) -> None:
        model = await self._client.describe(self._model)
        self._triton = model
        named = self._named_tensors["output"]
        self._output = model.pick("output", NUMBERS, "model_kwargs['output']", named)
        self._query = self._text(model, "query", other=None)
        self._document = self._text(model, "document", other=self._query)
        model.check_filled(self._query, self._document)
        for tensor in (self._query, self._document):
            self._max_items = min(self._max_items, model.most(tensor) or self._max_items)

    def _text(self, model: TritonModel, what: str, other: Tensor | None) -> Tensor:
        named = self._named_tensors[what]
        if named is None:
            left = [
                each.name
                for each in model.inputs.values()
                if each.datatype in _TEXT and (other is None or each.name != other.name)
            ]
            fitting = [name for name in left if "query" in name.lower()] if other is None else left
            # The tensor that the option for documents names is not the query's.
            fitting = [name for name in fitting if name != self._named_tensors["document"]]
            if len(fitting) == 1:
                named = fitting[0]
        return model.pick("input", _TEXT, f"model_kwargs[{what!r}]", named)

    async def _ask(self, part: Part) -> Scores:
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
        return self._finite(found.reshape(-1), part)
