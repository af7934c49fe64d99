"""Embedders on ONNX Runtime, with the provider the device calls for.

The file is the model's own `onnx/model.onnx`, or an export of sentence-transformers' modules,
pooling and normalization included. Either is proven against the original before it is used.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors, done
from langchain_gpu.engine.runtimes.model_settings import FastTokenizer
from langchain_gpu.engine.runtimes.modules import ModulesEncoder
from langchain_gpu.engine.runtimes.onnx_conversion import Conversion
from langchain_gpu.engine.runtimes.onnx_files import (
    MODEL,
    SAMPLES,
    Inputs,
    OnnxFile,
    find_own,
    prove,
    reference,
)
from langchain_gpu.engine.runtimes.providers import (
    ProviderMissingError,
    SessionPlan,
    open_session,
)
from langchain_gpu.engine.runtimes.quantization_loss import QuantizationLoss
from langchain_gpu.engine.runtimes.tasks import EMBED, Task
from langchain_gpu.events import Fallback, Listener, warn_fallback
from langchain_gpu.hardware.devices import Device, select_device

logger = logging.getLogger(__name__)

_DTYPES = ("auto", "float32", "float16", "int8")
_NO_LIMIT = 8192  # tokens that a model without a window is prepared for
_MOST_TOKENS = 16384
_ROWS_AND_TOKENS = 3  # dimensions of token embeddings


class OnnxEncoder(ModulesEncoder):
    """A sentence-transformers model in an ONNX Runtime session; see `ModulesEncoder`.

    Args:
        path: Folder of the model.
        device: Where to run.
        dtype: `"float32"`, `"float16"` on a GPU, `"int8"` on a CPU; `"auto"` is float32 on a CPU
            and float16 on a GPU that likes it.
        options: `provider` (`"cuda"`, `"tensorrt"`, `"migraphx"`, `"openvino"`, `"cpu"`) in place
            of the device's own; `file_name` of one of the model's own ONNX files; `export=True` to
            pass over the model's own file. The rest goes to `SentenceTransformer`.
        fallback: `"cpu"` goes on with the next best provider and a warning where the one for the
            device cannot run, `"error"` raises.
        calibration: Texts to measure the loss of int8 with, when the file is made.
        max_tokens: Computed tokens of the largest batch, for TensorRT's engines.

    Raises:
        NotConvertibleError: The model has no plain tokenizer, excludes prompts from its pooling, or
            computes something else as an ONNX file.
        ProviderMissingError: ONNX Runtime cannot run on the device and the policy is `"error"`.
        ValueError: A dtype or provider the device does not have.
    """

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
        fallback: Fallback = "cpu",
        on_event: Listener | None = None,
        calibration: Sequence[str] = (),
        max_tokens: int | None = None,
        task: Task = EMBED,
    ) -> None:
        _check_dtype(dtype, device)
        options = dict(options or {})
        self._choice: str | None = options.pop("provider", None)
        self._file_name: str | None = options.pop("file_name", None)
        self._own = None if options.pop("export", False) else find_own(path, self._file_name)
        if self._file_name and self._own and dtype not in ("auto", self._own.dtype):
            raise ValueError(f"{self._file_name} holds {self._own.dtype}, not {dtype}")
        super().__init__(path, device, dtype="auto", options=options, task=task)
        self._wanted_dtype = dtype
        self._path, self._options, self._fallback = path, options, fallback
        self._on_event = on_event
        self._loss: QuantizationLoss | None = None
        self._max_tokens = max_tokens or _MOST_TOKENS
        self._samples = tuple(calibration) or SAMPLES
        self._scratch: list[tempfile.TemporaryDirectory[str]] = []
        self._session: Any = None
        self._check_model()
        self.to(device)
        self._model[0].model.to("meta")  # the tokenizer and what follows it stay, the weights go
        self.dimension = int(self._compute(self._features(self._task.example[:1])).shape[1])

    @property
    def rules(self) -> BatchRules:
        """How batches are to be planned for the provider that runs."""
        return self._plan.rules

    @property
    def dtype(self) -> str:
        """What is computed in now."""
        if self._file_name and self._own:
            return self._own.dtype
        if self._wanted_dtype == "int8":
            return "int8"
        wanted = self._device.dtype if self._wanted_dtype == "auto" else self._wanted_dtype
        return "float32" if self._device.kind == "cpu" or wanted == "float32" else "float16"

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> dict[str, Any]:
        """See `Encoder.prepare`."""
        return dict(self._words.batch(tokens, rows, self.rules))

    def forward(self, features: dict[str, Any]) -> Pending:
        """See `Encoder.forward`."""
        return done(self._compute(features))

    def to(self, device: Device) -> None:
        """Start a session on `device`, or where the policy allows in the next best place.

        Raises:
            ProviderMissingError: ONNX Runtime cannot run there, and the policy is `"error"`.
        """
        places: list[tuple[Device, str | None]] = [(device, self._choice), (device, None)]
        places = [*(places if self._choice else places[1:]), (select_device("cpu"), None)]
        for place, after in zip(places, [*places[1:], None], strict=True):
            try:
                self._start(*place)
            except ProviderMissingError as error:
                if self._fallback == "error" or after is None:
                    raise
                problem = str(error)
            else:
                return
            names = [f"{where} ({name})" if name else str(where) for where, name in (place, after)]
            warn_fallback(
                self._on_event,
                what=self._task.work,
                source=names[0],
                target=names[1],
                reason=problem,
            )

    def close(self) -> None:
        """Drop the session and its weights; the encoder cannot be used after that."""
        self._model = self._tokenizer = self._session = None
        for folder in self._scratch:
            folder.cleanup()

    def _start(self, device: Device, choice: str | None) -> None:
        self._device, self._session = device, None  # never two sessions at once
        first = self._model[0].model.device.type != "meta"
        conversion = Conversion(
            path=self._path,
            options=self._options,
            task=self._task,
            modules=self._with_weights,
            features=self._features,
            samples=self._samples,
            device=device,
            scratch=self._scratch,
        )
        self._plan = SessionPlan(
            device=device,
            choice=choice,
            dtype=self.dtype,
            cache=conversion.place(f"{self.dtype}-compiled"),
            inputs=self._names,
            window=self.window or _NO_LIMIT,
            max_tokens=self._max_tokens,
        )
        _ = self._plan.wanted  # refuses a provider before a file is made for it
        self._file = self._find(conversion)
        self._session = open_session(self._file.path, self._plan)
        self._output = _best_output(self._session)
        provider = self._session.get_providers()[0]
        self._device = replace(device, reason=f"{device.reason}; ONNX Runtime runs {provider}")
        if self._file.own and first:
            self._prove_own()

    def _compute(self, inputs: Inputs) -> Vectors:
        rows = len(inputs["input_ids"])
        if self._plan.compiles_every_shape:
            inputs = _filled(inputs)
        nothing = inputs["attention_mask"] * 0
        found = self._session.run(
            [self._output], {name: inputs.get(name, nothing) for name in self._file.inputs}
        )[0]
        if found.ndim == _ROWS_AND_TOKENS:
            found = self._pool(found, inputs)
        vectors: Vectors = found[:rows].astype(np.float32, copy=False)
        if self._unit and self._file.dtype == "float16":
            # The model's own last step, repeated where half precision rounded its result.
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    @torch.inference_mode()
    def _pool(self, embeddings: Any, inputs: Inputs) -> Vectors:
        """What follows the transformer: pooling, normalization and whatever else the model has."""
        features = {name: torch.from_numpy(array) for name, array in inputs.items()}
        features["token_embeddings"] = torch.from_numpy(embeddings).float()
        for module in list(self._model)[1:]:
            features = module(features)
        vectors: Vectors = features["sentence_embedding"].numpy()
        return vectors

    @property
    def details(self) -> str:
        """What integers cost, where they are used."""
        return f"int8: {self._loss}" if self._loss else ""

    def _find(self, conversion: Conversion) -> OnnxFile:
        """Return the file to run: the model's own, or one made for this dtype."""
        if self._own is not None and (
            self._file_name or self.dtype == self._own.dtype == "float32"
        ):
            return self._own
        folder = conversion.make(self.dtype)
        if self.dtype == "int8":
            self._loss = QuantizationLoss.read(folder)
            logger.info("int8 of %s: %s", self._path.name, self._loss)
        return OnnxFile(folder / MODEL, self.dtype, self._names, own=False)

    def _with_weights(self) -> Any:
        if self._model[0].model.device.type == "meta":  # a move to a device of another dtype
            return self._task.load(self._path, self._options)
        return self._model

    def _prove_own(self) -> None:
        examples = [self._features(texts) for texts in self._task.proofs]
        try:
            prove(self._compute, examples, reference(self._model, examples), self._file.dtype)
        except NotConvertibleError as error:
            raise NotConvertibleError(
                f"{self._file.path}: {error}. options={{'export': True}} makes one of the weights"
            ) from error

    @property
    def _words(self) -> FastTokenizer:
        if self._tokenizer is None:
            raise NotConvertibleError(f"{self._path.name} prepares its texts in its own way")
        return self._tokenizer

    def _check_model(self) -> None:
        if self._leaves_prompts_out:
            raise NotConvertibleError(f"{self._path.name} leaves prompts out of its pooling")
        self._names = tuple(self._features(self._task.example[:1]))

    def _features(self, items: Sequence[Any]) -> Inputs:
        tokens = self.tokenize(items, self._task.options)
        return self._words.batch(tokens, np.arange(len(items)))


def _check_dtype(dtype: str, device: Device) -> None:
    if dtype == "bfloat16":
        raise ValueError("ONNX Runtime has no bfloat16 for embedders; use float32 or float16")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    if dtype == "int8" and device.kind != "cpu":
        raise ValueError(
            f"int8 ONNX on {device} is far slower than float32 (0.08x in published figures: the "
            f"GPU has no kernels for it); use float16"
        )
    if dtype == "float16" and device.kind == "cpu":
        raise ValueError("ONNX Runtime computes float16 in float32 on a CPU; use float32 or int8")


def _best_output(session: Any) -> str:
    """Prefer token embeddings: whether a file's sentence embedding is complete, it does not say."""
    outputs = session.get_outputs()
    deep = [each for each in outputs if len(each.shape) == _ROWS_AND_TOKENS]
    name: str = (deep or outputs)[0].name
    return name


def _filled(inputs: Inputs) -> Inputs:
    """Repeat the last row until there are as many as a power of two."""
    rows = len(inputs["input_ids"])
    more = (1 << (rows - 1).bit_length()) - rows
    return {name: np.pad(array, ((0, more), (0, 0)), "edge") for name, array in inputs.items()}
