"""Embedders on OpenVINO: the fastest way through a model on a CPU.

The traced module is sentence-transformers' own, pooling and normalization included; no export tool
is needed. The converted model is kept in a cache and proven against the original before its first
use: a model whose control flow does not survive tracing is refused, not run wrongly.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import sentence_transformers
import torch
import transformers
from transformers.utils import logging as transformers_logging

from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.encoder import Pending, Vectors, done
from langchain_gpu.engine.runtimes.modules import ModulesEncoder
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.hardware.devices import Device

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_NAMES = ("input_ids", "attention_mask", "token_type_ids")
# Two shapes that differ from the traced one in both dimensions.
_PROOFS = (["one", "and a longer text to pad for"], ["alone, and of yet another length"])
_LEAST_COSINE = 0.99999


class OpenVINOEncoder(ModulesEncoder):
    """A sentence-transformers model on OpenVINO's CPU plugin; see `ModulesEncoder`.

    Raises:
        NotConvertibleError: The model has no plain tokenizer, excludes prompts from its pooling, or
            computes something else when it is traced.
        ValueError: The device is not the CPU.
    """

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(path, device, dtype=dtype, options=options)
        self._path = path
        self._names = self._inputs()
        self._program = self._convert(dict(options or {}))
        self._model[0].model.to("meta")  # the tokenizer and the prompts stay, the weights go
        self.to(device)
        self.dimension = int(self._compiled.output(0).partial_shape[1].get_length())

    def forward(self, features: dict[str, Any]) -> Pending:
        """See `Encoder.forward`."""
        inputs = {name: features[name].numpy() for name in self._names}
        vectors: Vectors = self._compiled(inputs, share_inputs=True)[0]
        return done(vectors)

    def to(self, device: Device) -> None:
        """Compile for the CPU; other devices are refused."""
        if device.kind != "cpu":
            raise ValueError(f"the openvino back end runs on the CPU, not on {device}")
        self._device = device
        self._compiled: Any = _compile(self._program, _HINTS[self.dtype], device.cores)

    def close(self) -> None:
        """Drop the weights; the encoder cannot be used after that."""
        self._model = self._tokenizer = self._compiled = self._program = None

    def _inputs(self) -> tuple[str, ...]:
        if self._tokenizer is None:
            raise NotConvertibleError(f"{self._path.name} prepares its texts in its own way")
        if self._leaves_prompts_out:
            raise NotConvertibleError(f"{self._path.name} leaves prompts out of its pooling")
        features = self._features(["probe"])
        return tuple(name for name in _NAMES if name in features)

    def _features(self, texts: list[str]) -> dict[str, Any]:
        return self.prepare(self.tokenize(texts, EmbedOptions()), np.arange(len(texts)))

    def _convert(self, options: dict[str, Any]) -> Any:
        """Return the converted model: from the cache, or traced, proven, and put there."""
        cached = _cache_folder() / _fingerprint(self._path, options)
        if (cached / "model.xml").is_file():
            return openvino.Core().read_model(cached / "model.xml")
        module = _Traced(self._model).float().eval()
        example = {name: self._features(["a b c", "d"])[name] for name in self._names}
        try:
            with warnings.catch_warnings(), _quiet_transformers():
                warnings.simplefilter("ignore")  # tracing warns of every branch; the proof judges
                program = openvino.convert_model(module, example_input=example)
        except Exception as error:
            raise NotConvertibleError(f"{self._path.name} cannot be traced: {error}") from error
        self._prove(program, module)
        _save(program, cached)
        return program

    def _prove(self, program: Any, module: torch.nn.Module) -> None:
        compiled = _compile(program, "f32", self._device.cores)
        for texts in _PROOFS:
            inputs = {name: self._features(texts)[name] for name in self._names}
            with torch.inference_mode():
                wanted = module(**inputs).numpy()
            found = compiled({name: each.numpy() for name, each in inputs.items()})[0]
            norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
            least = float(((wanted * found).sum(axis=1) / norms).min())
            if not least >= _LEAST_COSINE:
                raise NotConvertibleError(
                    f"{self._path.name} computes something else when traced (cosine {least:.5f})"
                )


class _Traced(torch.nn.Module):
    """The modules as one function of tensors, which is what can be traced."""

    def __init__(self, modules: torch.nn.Module) -> None:
        super().__init__()
        self.modules_ = modules

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        vectors: torch.Tensor = self.modules_(features)["sentence_embedding"]
        return vectors.float()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _compile(program: Any, hint: str, cores: int | None) -> Any:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1}
    if cores:
        settings["INFERENCE_NUM_THREADS"] = cores
    return openvino.Core().compile_model(program, "CPU", settings)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "langchain-gpu" / "openvino"


def _fingerprint(path: Path, options: Mapping[str, Any]) -> str:
    """Name what the conversion depends on: the files as they are, the options, the versions."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    tools = (openvino, torch, transformers, sentence_transformers)
    versions = [tool.__version__ for tool in tools]
    text = json.dumps([stats, sorted(options.items()), versions], default=str)
    return f"{path.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _save(program: Any, folder: Path) -> None:
    """Put a model into the cache whole or not at all; a cache that cannot be written is skipped."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            openvino.save_model(program, made / "model.xml", compress_to_fp16=False)
            if not folder.exists():
                shutil.move(made, folder)
    except OSError as error:
        warnings.warn(f"the converted model is not cached: {error}", RuntimeWarning, stacklevel=2)
