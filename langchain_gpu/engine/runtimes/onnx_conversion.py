"""A sentence-transformers model as ONNX files of each dtype: made once, proven, cached."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import sentence_transformers
import torch
import transformers

from langchain_gpu.engine.runtimes.conversion_cache import conversion_folder, fingerprint, make_once
from langchain_gpu.engine.runtimes.onnx_files import (
    MODEL,
    Inputs,
    export,
    halve,
    prove,
    quantize,
    run_on_cpu,
)
from langchain_gpu.engine.runtimes.quantization_loss import QuantizationLoss, check_embeds
from langchain_gpu.engine.runtimes.tasks import Task
from langchain_gpu.hardware.devices import Device

_VERSIONS = [
    tool.__version__ for tool in (onnx, onnxruntime, torch, transformers, sentence_transformers)
]
# Counts up when the same model would be made into another file.
_FORM = 1
# CPU features that multiply bytes and add them up without overflow.
_EXACT_BYTES = {"avx512_vnni", "amx_int8", "neon", "sve"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What makes the ONNX files of a model.

    Attributes:
        path: Folder of the model.
        options: What the model was loaded with.
        task: What the model is asked to do.
        modules: Returns the model's modules with their weights, on the CPU.
        features: Items to what the model takes.
        samples: Texts to measure the loss of int8 with.
        device: Where the files are to run.
        scratch: Gets the folders of files for which the cache cannot be written; they are to be
            cleaned up when the files are no longer needed.
    """

    path: Path
    options: Mapping[str, Any]
    task: Task
    modules: Callable[[], torch.nn.Sequential]
    features: Callable[[Sequence[Any]], Inputs]
    samples: Sequence[str]
    device: Device
    scratch: list[tempfile.TemporaryDirectory[str]]

    def place(self, what: str) -> Path:
        """Return where something made of this model belongs in the cache."""
        name = fingerprint(self.path, {**self.options, "form": _FORM}, _VERSIONS)
        return conversion_folder("onnx") / f"{name}-{what}"

    def make(self, dtype: str) -> Path:
        """Return a folder with a file of `dtype`, from the cache or made now.

        Raises:
            NotConvertibleError: The model cannot be traced, the file computes something else, or
                int8 loses too much, or is asked of a reranker.
        """
        make: Callable[[Path], None]
        if dtype == "int8":
            check_embeds(self.task.name)
            # CPUs differ in how many bits of a weight they take without overflow.
            exact = bool(_EXACT_BYTES.intersection(self.device.isa))
            place = self.place(f"int8-weights{8 if exact else 7}")
            make = partial(self._quantize, exact=exact)
        else:
            place = self.place(dtype)
            make = self._export if dtype == "float32" else self._halve
        folder, scratch = make_once(place, make)
        if scratch is not None:
            self.scratch.append(scratch)
        return folder

    def _export(self, folder: Path) -> None:
        examples = [self.features(items) for items in (self.task.example, *self.task.proofs)]
        wanted = export(self.modules(), examples, folder)
        prove(run_on_cpu(folder / MODEL, self.device.cores), examples, wanted, "float32")

    def _halve(self, folder: Path) -> None:
        source = self.make("float32") / MODEL
        halve(source, folder)
        full, half = (run_on_cpu(file, self.device.cores) for file in (source, folder / MODEL))
        examples = [self.features(items) for items in self.task.proofs]
        prove(half, examples, [full(each) for each in examples], "float16")

    def _quantize(self, folder: Path, *, exact: bool) -> None:
        source = self.make("float32") / MODEL
        quantize(source, folder, exact=exact)
        found = [run_on_cpu(file, self.device.cores) for file in (folder / MODEL, source)]
        ours, theirs = (
            np.concatenate([run(self.features([text])) for text in self.samples]) for run in found
        )
        loss = QuantizationLoss.of(theirs, ours)
        loss.check()
        loss.save(folder)


__all__ = ["Conversion"]
