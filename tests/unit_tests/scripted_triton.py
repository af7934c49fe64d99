"""A Triton server that answers by script over gRPC, on a Unix socket: no network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from langchain_gpu.servers import http, triton

Spec = tuple[str, str, list[int]] | tuple[str, str, list[int], bool]
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request as it came in.

    Attributes:
        model: Which model.
        inputs: Arrays by name.
        parameters: Of the request.
        headers: What came with it.
        context: Of the call: `abort`, `is_active`.
        closing: Set when the server goes down.
    """

    model: str
    inputs: Arrays
    parameters: dict[str, Any]
    headers: dict[str, str]
    context: Any
    closing: threading.Event

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until the client or the server goes away, or the seconds are over."""
        gone = threading.Event()
        self.context.add_callback(gone.set)
        for _ in range(int(seconds / 0.01)):
            if gone.is_set() or self.closing.wait(0.01):
                return


Script = Callable[[Asked], Arrays]
StreamScript = Callable[[Asked], Iterable[Arrays | str]]


@dataclass
class Model:
    """What one model is, and does.

    Attributes:
        inputs: Name, datatype, dims, and whether it is optional.
        outputs: Name, datatype, dims.
        answer: Returns outputs by name for a request.
        stream: Yields outputs by name; a text is an error inside the stream.
        max_batch: Items of a request at most.
        decoupled: More than one response per request.
        ready: Whether it can be asked.
        reason: Why not.
    """

    inputs: Sequence[Spec]
    outputs: Sequence[Spec]
    answer: Script = lambda _: {}
    stream: StreamScript = lambda _: []
    max_batch: int = 8
    decoupled: bool = False
    ready: bool = True
    reason: str = ""

    def config(self, name: str) -> Any:
        config = model_config_pb2.ModelConfig(name=name, max_batch_size=self.max_batch)
        config.model_transaction_policy.decoupled = self.decoupled
        for specs, add in ((self.inputs, config.input.add), (self.outputs, config.output.add)):
            for spec in specs:
                tensor = add(name=spec[0], dims=spec[2])
                kind = "STRING" if spec[1] == "BYTES" else spec[1]
                tensor.data_type = model_config_pb2.DataType.Value(f"TYPE_{kind}")
                if len(spec) > 3:
                    tensor.optional = spec[3]
        return config


@dataclass
class ScriptedTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The server.

    Attributes:
        models: By name.
        asked: Every request for a model's answer so far.
        faults: Statuses and words for the next requests, of whatever kind.
        busiest: Most requests for answers it had at the same time.
        left: Set when a client went away in the middle of a stream.
    """

    models: dict[str, Model] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    faults: list[tuple[grpc.StatusCode, str]] = field(default_factory=list)
    busiest: int = 0
    now: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    target: str = ""
    server: Any = None

    def start(self) -> None:
        """Listen."""
        self.closing.clear()
        self.server = grpc.server(ThreadPoolExecutor(32))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        self.server.add_insecure_port(self.target)
        self.server.start()

    def stop(self) -> None:
        """Break every connection, and listen no more."""
        self.closing.set()
        self.server.stop(None).wait(5)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        model = self._model(request.name, context)
        return service_pb2.ModelConfigResponse(config=model.config(request.name))

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.RepositoryIndexResponse()
        for name, model in self.models.items():
            state = "READY" if model.ready else "UNAVAILABLE"
            answer.models.add(name=name, version="1", state=state, reason=model.reason)
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        model = self._model(request.model_name, context)
        asked = self._ask(request, context)
        with self.lock:
            self.now += 1
            self.busiest = max(self.busiest, self.now)
        try:
            return _response(model.answer(asked))
        finally:
            with self.lock:
                self.now -= 1

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        context.add_callback(lambda: None if self.done(context) else self.left.set())
        for request in requests:
            model = self._model(request.model_name, context)
            for item in model.stream(self._ask(request, context)):
                if isinstance(item, str):
                    yield service_pb2.ModelStreamInferResponse(error_message=item)
                else:
                    yield service_pb2.ModelStreamInferResponse(infer_response=_response(item))
        context.done = True

    @staticmethod
    def done(context: Any) -> bool:
        return getattr(context, "done", False)

    def _model(self, name: str, context: Any) -> Model:
        with self.lock:
            fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            context.abort(*fault)
        model = self.models.get(name)
        if model is None:  # Triton's own words
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found"
            )
        if model is not None and not model.ready:
            words = f"Request for unknown model: '{name}' has no available versions"
            context.abort(grpc.StatusCode.UNAVAILABLE, words)
        assert model is not None
        return model

    def _ask(self, request: Any, context: Any) -> Asked:
        inputs = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            if tensor.datatype == "BYTES":
                array = deserialize_bytes_tensor(raw)
            else:
                array = np.frombuffer(raw, triton_to_np_dtype(tensor.datatype))
            inputs[tensor.name] = array.reshape(list(tensor.shape))
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice"))
            for name, value in request.parameters.items()
        }
        headers = dict(context.invocation_metadata())
        asked = Asked(request.model_name, inputs, parameters, headers, context, self.closing)
        with self.lock:
            self.asked.append(asked)
        return asked


def _response(arrays: Mapping[str, Any]) -> Any:
    response = service_pb2.ModelInferResponse()
    for name, array in arrays.items():
        datatype = np_to_triton_dtype(array.dtype)
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
        response.raw_output_contents.append(raw)
    return response


def texts(*values: str) -> Any:
    """Return texts as an output holds them."""
    return np.array([value.encode() for value in values], object)


@contextmanager
def serving(
    monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Model]
) -> Iterator[ScriptedTriton]:
    """Run a server to which every address leads. Nothing waits between attempts."""
    with TemporaryDirectory() as folder:  # a short path: sockets want that
        target = f"unix:{Path(folder) / 's'}"
        monkeypatch.setattr(triton, "channel_target", lambda _: target)
        monkeypatch.setattr(http, "_BACK_OFF", lambda _: 0.0)
        scripted = ScriptedTriton(dict(models), target=target)
        scripted.start()
        try:
            yield scripted
        finally:
            scripted.stop()
