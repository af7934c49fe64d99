"""Embeddings from a model of a Triton Inference Server, over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.remote.encoder import RemoteEncoder
from langchain_gpu.engine.remote.request import Request
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.servers.errors import BadAnswerError
from langchain_gpu.servers.triton import TritonClient
from langchain_gpu.servers.triton_model import Tensor, TritonModel
from langchain_gpu.servers.triton_tensors import Arrays, Input

NUMBERS = ("FP32", "FP16", "FP64", "BF16")


class TritonEncoder(RemoteEncoder):
    """A model with one input of texts and one output of numbers, found in its configuration.

    Where there are several, the options `input` and `output` name them. Other options are sent as
    parameters of every request; those under the keys `"query"` and `"document"` with texts of that
    kind only. Requests hold no more texts than the model's `max_batch_size`.

    Whether a text beyond the model's window is refused or cut is the model's own matter, and a cut
    cannot be seen from here.
    """

    reserved = frozenset({"input", "output"})
    _client: TritonClient

    def __init__(self, config: EmbedderConfig) -> None:
        options = dict(config.options)
        self._chosen = (options.pop("input", None), options.pop("output", None))
        super().__init__(replace(config, options=options), TritonClient(config.server))

    def tokenize(self, items: Sequence[str], options: EmbedOptions, *, start: int = 0) -> Tokenized:
        """Estimate lengths; see `Encoder.tokenize`."""
        if options.on_long == "error":
            raise ValueError(
                f"on_long='error' cannot be promised: {self._client.host} does not say how long a "
                f"text may be; leave it out"
            )
        return super().tokenize(items, options, start=start)

    async def _connect(self) -> None:
        model = await self._client.describe(self._model)
        self._triton = model
        self._input = model.pick("input", ("BYTES",), "model_kwargs['input']", self._chosen[0])
        self._output = model.pick("output", NUMBERS, "model_kwargs['output']", self._chosen[1])
        model.check_filled(self._input)
        most = model.most(self._input)
        self._max_items = min(self._max_items, most) if most else self._max_items

    async def _vectors(self, request: Request, *, cut: bool) -> Vectors:  # noqa: ARG002
        parameters = self._fields.of_kind(request.options.task)
        sent = [texts_in(self._triton, self._input, request.inputs)]
        answer = await self._client.infer(self._model, sent, [self._output.name], parameters)
        rows = numbers_of(answer, self._output, self._client.host)
        if rows.ndim == 1 and len(request) == 1:  # a model without a dimension for the batch
            rows = rows[None]
        return _one_per_text(rows, self._output, self._client.host)


def _one_per_text(rows: Vectors, tensor: Tensor, host: str) -> Vectors:
    """Leave out dimensions of one between texts and numbers, which some models keep.

    Raises:
        BadAnswerError: There are several vectors per text.
    """
    if rows.ndim <= 2 or not rows.size:  # noqa: PLR2004 - texts and numbers
        return rows
    if max(rows.shape[1:]) * len(rows) != rows.size:
        raise BadAnswerError(
            f"{host} returned the tensor {tensor.name} of shape {rows.shape}, which is not one "
            f"vector per text but, it seems, one per token: name another output in "
            f"model_kwargs['output'], or serve the model with its pooling"
        )
    return rows.reshape(len(rows), -1)


def texts_in(model: TritonModel, tensor: Tensor, texts: Sequence[str]) -> Input:
    """Return the texts as that input.

    Raises:
        ValueError: It does not hold so many.
    """
    values = np.empty(len(texts), object)
    values[:] = [text.encode() for text in texts]
    return Input(tensor.name, tensor.datatype, values.reshape(model.shape(tensor, len(texts))))


def numbers_of(answer: Arrays, tensor: Tensor, host: str) -> NDArray[np.float32]:
    """Return an output in float32, in the shape it came in.

    Raises:
        BadAnswerError: It is not there, or holds something else than numbers.
    """
    found = answer.get(tensor.name)
    if found is None:
        raise BadAnswerError(f"{host} returned no tensor {tensor.name}")
    # numpy has no bfloat16: it is a type of another package, of no kind that numpy knows.
    if found.dtype.kind != "f" and found.dtype.name != "bfloat16":
        raise BadAnswerError(f"{host} returned {found.dtype} in the tensor {tensor}")
    return found.astype(np.float32)
