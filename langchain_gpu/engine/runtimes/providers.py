"""ONNX Runtime's execution providers: chosen by device, and checked after the session starts.

ONNX Runtime goes on with its CPU provider when another one is missing or cannot start, and prints
that at most. Here it is an error, which the caller's policy may turn into a fallback with a
warning.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError

CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_MIGRAPHX = "MIGraphXExecutionProvider"
_OPENVINO = "OpenVINOExecutionProvider"

# Of each device, the default first: TensorRT builds its engines for minutes, and CUDA's provider
# reads every operator, so TensorRT runs only where it is asked for.
_CHOICES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cuda": {"cuda": (_CUDA,), "tensorrt": (_TENSORRT, _CUDA)},
    "rocm": {"migraphx": (_MIGRAPHX,)},
    "xpu": {"openvino": (_OPENVINO,)},
    "cpu": {"cpu": (), "openvino": (_OPENVINO,)},
}
_WHEELS = {
    _CUDA: "onnxruntime-gpu",
    _TENSORRT: "onnxruntime-gpu",
    _MIGRAPHX: "onnxruntime-migraphx",
    _OPENVINO: "onnxruntime-openvino",
}
# What brings the libraries that each of them needs.
_LIBRARIES = {
    _CUDA: 'pip install "onnxruntime-gpu[cuda,cudnn]"',
    _TENSORRT: "pip install tensorrt",
    _MIGRAPHX: "install ROCm's MIGraphX libraries",
    _OPENVINO: "install OpenVINO's libraries and the card's driver",
}
# MIGraphX compiles the model for every shape it meets, so it meets few: widths in steps, and rows
# filled up to a power of two. TensorRT has one engine for a range of shapes, planned for the
# largest: its rows are limited so that the largest is not many times what a batch may cost.
_COMPILED_STEP = 64
_TILE = 8
_TENSORRT_LEAST_WIDTH = 64
_COMMON_SHAPE = (64, 128)


class ProviderMissingError(DeviceNotFoundError):
    """ONNX Runtime cannot run on the device; the message says why and what helps.

    Attributes:
        fact: Why, in a sentence.
        remedy: What to type or to change.
    """

    def __init__(self, fact: str, remedy: str) -> None:
        """Say both."""
        super().__init__(f"{fact}: {remedy}")
        self.fact = fact
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """What a session needs to know beside the model.

    Attributes:
        device: Where to run.
        choice: Provider by its short name; None for the device's own.
        dtype: What is computed in.
        cache: Folder for what a provider compiles, of this model and dtype only.
        inputs: Names of the model's inputs, all of the shape (rows, tokens).
        window: Tokens of the longest row.
        max_tokens: Computed tokens of the largest batch.
    """

    device: Device
    choice: str | None
    dtype: str
    cache: Path
    inputs: tuple[str, ...]
    window: int
    max_tokens: int

    @property
    def wanted(self) -> tuple[str, ...]:
        """ONNX Runtime's names of the providers, best first, without the CPU's.

        Raises:
            ProviderMissingError: ONNX Runtime has no provider for such a device.
            ValueError: The chosen provider does not run on such a device.
        """
        choices = _CHOICES.get(self.device.kind)
        if choices is None:
            raise ProviderMissingError(
                f"ONNX Runtime has no provider for {self.device} that takes batches of every shape",
                "use backend='torch'",
            )
        choice = self.choice or next(iter(choices))
        if choice not in choices:
            known = ", ".join(choices)
            raise ValueError(
                f"provider {choice!r} does not run on {self.device}; there is: {known}"
            )
        return choices[choice]

    @property
    def rules(self) -> BatchRules:
        """How batches are to be planned for the provider that was chosen."""
        first = next(iter(self.wanted), CPU)
        # A window that no step divides stays the widest: the model has no positions beyond it.
        if first == _MIGRAPHX:
            return BatchRules(multiple_of=math.gcd(_COMPILED_STEP, self.window))
        tile = math.gcd(_TILE, self.window)
        if first == _TENSORRT:
            return BatchRules(multiple_of=tile, max_items=self._most_rows)
        return BatchRules(multiple_of=1 if self.device.kind == "cpu" else tile)

    @property
    def compiles_every_shape(self) -> bool:
        """Whether rows should be filled up, because each new shape costs a compilation."""
        return _MIGRAPHX in self.wanted

    @property
    def _most_rows(self) -> int:
        return max(1, self.max_tokens // min(self.window, _TENSORRT_LEAST_WIDTH))

    def options(self, name: str) -> dict[str, str]:
        """Return the options of one provider, in ONNX Runtime's words."""
        index = str(self.device.index or 0)
        half = str(self.dtype == "float16")
        if name == _CUDA:
            # An arena that doubles would take memory the ladder was told is free; TF32 would make
            # float32 something else.
            return {
                "device_id": index,
                "arena_extend_strategy": "kSameAsRequested",
                "use_tf32": "0",
            }
        if name == _TENSORRT:
            folder = str(self.cache)
            return {
                "device_id": index,
                "trt_fp16_enable": half,
                "trt_engine_cache_enable": "True",
                "trt_engine_cache_path": folder,
                "trt_timing_cache_enable": "True",
                "trt_timing_cache_path": folder,
                "trt_profile_min_shapes": self._shapes(1, 1),
                "trt_profile_opt_shapes": self._shapes(*self._common_shape()),
                "trt_profile_max_shapes": self._shapes(self._most_rows, self.window),
            }
        if name == _MIGRAPHX:
            return {"device_id": index, "migraphx_fp16_enable": "0"}  # the model is in half already
        if self.device.kind == "cpu":
            return {"device_type": "CPU", "num_of_threads": str(self.device.cores or 0)}
        kind = {"float16": "FP16"}.get(self.dtype, "FP32")
        return {"device_type": f"GPU.{index}", "precision": kind, "cache_dir": str(self.cache)}

    def _common_shape(self) -> tuple[int, int]:
        rows, width = _COMMON_SHAPE
        return min(rows, self._most_rows), min(width, self.window)

    def _shapes(self, rows: int, width: int) -> str:
        return ",".join(f"{name}:{rows}x{width}" for name in self.inputs)


def open_session(file: Path, plan: SessionPlan) -> Any:
    """Return a session of the model that really runs with the provider it was meant for.

    Raises:
        ProviderMissingError: It would not.
        ValueError: The plan names a provider that does not run on its device.
    """
    wanted = plan.wanted
    for name in wanted:
        if name not in onnxruntime.get_available_providers():
            raise ProviderMissingError(
                f"the installed ONNX Runtime {onnxruntime.__version__} has no {name}",
                f"pip uninstall -y onnxruntime && pip install {_WHEELS[name]}",
            )
    if _CUDA in wanted and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # what torch's or NVIDIA's own wheels brought
    if wanted:
        plan.cache.mkdir(parents=True, exist_ok=True)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # what it would warn of is checked below
    settings.inter_op_num_threads = 1
    if plan.device.cores:
        settings.intra_op_num_threads = plan.device.cores
    providers = [*((name, plan.options(name)) for name in wanted), CPU]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same
        session = onnxruntime.InferenceSession(
            os.fspath(file), sess_options=settings, providers=providers
        )
    session.disable_fallback()  # it would print a line and go on with another provider
    got = session.get_providers()
    for name in wanted:
        if name not in got:
            raise ProviderMissingError(
                f"ONNX Runtime could not start {name} and took {got[0]}", _LIBRARIES[name]
            )
    return session
