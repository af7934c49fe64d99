"""Embedders and rerankers on OpenVINO, the fastest runtime on a CPU.

What is traced are sentence-transformers' own modules, pooling and normalization included; no export
tool is needed. The converted model is kept in a cache and proven against the original before its
first use: a model whose control flow does not survive tracing is refused, not run wrongly. A later
process starts from the cache, and imports neither torch nor transformers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors
from langchain_gpu.engine.runtimes.converted import ConvertedEncoder
from langchain_gpu.engine.runtimes.dtypes import check_dtype
from langchain_gpu.engine.runtimes.openvino_core import core
from langchain_gpu.engine.runtimes.openvino_graph import for_cpu
from langchain_gpu.engine.runtimes.openvino_programs import Program, Recipe, converted, quantized
from langchain_gpu.engine.tasks.padding import Features
from langchain_gpu.events import users_line
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError
from langchain_gpu.utils.forking import loading_model

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
# A program of dynamic shapes prepares itself for every new one, so widths come in steps: more
# padding, and fewer shapes. On a CPU the steps are those of its matrix tiles.
_CPU_RULES = BatchRules(multiple_of=16, fine=True, in_flight=2)
_GPU_RULES = BatchRules(multiple_of=64, in_flight=2)


class OpenVINOEncoder(ConvertedEncoder):
    """A sentence-transformers model on OpenVINO: a CPU, or an Intel GPU.

    Args:
        path: Folder of the model.
        device: Where to run.
        dtype: `"float32" | "bfloat16" | "float16"`, or `"auto"` for the device's own; or `"int8"`:
            products in integers, the rest in what the device prefers.
        options: More arguments of `SentenceTransformer` or `CrossEncoder`, for example `prompts`.
        task: What it is asked to do.
        calibration: With `"int8"`, texts like those to come; empty for English prose.

    Attributes:
        loss: What integers cost, in words; empty where none are used.
        dimension: Width of a row.

    Raises:
        NotConvertibleError: The model has no plain tokenizer, excludes prompts from its pooling, or
            computes something else when it is traced.
        ValueError: The device is of another make, or does not compute in `dtype`.
        DeviceNotFoundError: OpenVINO does not see the GPU.
    """

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
        task: Literal["embed", "score"] = "embed",
        calibration: Sequence[str] = (),
    ) -> None:
        self._integers = dtype == "int8"
        self._wanted_dtype = "auto" if self._integers else dtype
        check_dtype(self._wanted_dtype, task)
        self._device = device
        place(device)  # before minutes are spent on a program for it
        recipe = Recipe(path, dict(options or {}), task, device.cores)
        with loading_model():
            self._program: Program | None = (
                quantized(recipe, calibration, self._hint) if self._integers else converted(recipe)
            )
        super().__init__(self._program.settings)
        self.loss = self._program.loss
        self.to(device)
        self.dimension = int(self._compiled.output(0).partial_shape[1].get_length())

    @property
    def device(self) -> Device:
        """Where `forward` runs now."""
        return self._device

    @property
    def details(self) -> str:
        """What integers cost, where they are used."""
        return f"int8: {self.loss}" if self.loss else ""

    @property
    def rules(self) -> BatchRules:
        """See `Encoder.rules`."""
        return _CPU_RULES if self._device.kind == "cpu" else _GPU_RULES

    @property
    def dtype(self) -> str:
        """What is computed in now."""
        return "int8" if self._integers else self._rest

    @property
    def _rest(self) -> str:
        """What is computed in where no integers are."""
        if self._wanted_dtype != "auto":
            return self._wanted_dtype
        # What the GPU plugin has kernels for.
        return "float16" if self._device.kind == "xpu" else self._device.dtype

    @property
    def _hint(self) -> str:
        return _HINTS[self._rest]

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> Features:
        """See `Encoder.prepare`."""
        return self._tokenizer.batch(tokens, rows, self.rules)

    def forward(self, features: Features) -> Pending:
        """See `Encoder.forward`."""
        free = self._free
        request = free.pop() if free else self._compiled.create_infer_request()
        inputs = {name: features[name] for name in self._settings.inputs}
        request.start_async(inputs, share_inputs=True)

        def wait() -> Vectors:
            try:
                request.wait()
                # A copy: the next batch is written to the same place.
                vectors: Vectors = np.array(request.get_output_tensor(0).data, np.float32)
            finally:
                free.append(request)
            return vectors

        return wait

    def to(self, device: Device) -> None:
        """Compile for a CPU or an Intel GPU; other devices are refused."""
        name = place(device)
        self._device = device
        hint = self._hint
        if device.kind == "cpu" and hint == "f16":
            raise ValueError(
                "openvino does not compute in float16 on a CPU; use bfloat16 or float32"
            )
        if device.kind == "xpu" and hint == "bf16":
            raise ValueError("openvino computes in float16 or float32 on Intel GPUs, not bfloat16")
        self._free: list[Any] = []
        assert self._program is not None  # noqa: S101 - not after close
        self._compiled: Any = compile_for(name, self._program.model, hint, device.cores)
        got = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if got != hint:
            warnings.warn(
                f"openvino computes in {got} here, not in {hint}",
                RuntimeWarning,
                stacklevel=users_line(),
            )

    def close(self) -> None:
        """Drop the weights; the encoder cannot be used after that."""
        scratch = None if self._program is None else self._program.scratch
        self._compiled = self._program = None
        self._free = []
        if scratch is not None:
            scratch.cleanup()


def place(device: Device) -> str:
    """Return what OpenVINO calls a device.

    Raises:
        ValueError: It is neither a CPU nor an Intel GPU.
        DeviceNotFoundError: OpenVINO does not see it.
    """
    if device.kind == "cpu":
        return "CPU"
    if device.kind != "xpu":
        raise ValueError(f"the openvino back end runs on a CPU or an Intel GPU, not on {device}")
    seen = [name for name in core().available_devices if name.partition(".")[0] == "GPU"]
    wanted = f"GPU.{device.index or 0}"
    if wanted in seen or (seen == ["GPU"] and not device.index):
        return wanted
    raise DeviceNotFoundError(
        f"openvino does not see {device} (it sees {', '.join(seen) or 'no GPU'}); it needs Intel's "
        f"compute runtime: the OpenCL driver `intel-opencl-icd`"
    )


def compile_for(name: str, program: Any, hint: str, cores: int | None) -> Any:
    """Compile a program for a device, by OpenVINO's names."""
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1}
    if name == "CPU":
        program = for_cpu(program, hint)
        # Threads bound to cores wait for what else runs there: tokenizing, other processes.
        settings["ENABLE_CPU_PINNING"] = False
        if cores:
            settings["INFERENCE_NUM_THREADS"] = cores
    return core().compile_model(program, name, settings)
