"""From a sentence-transformers model to an OpenVINO program: traced, verified, cached."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino
import sentence_transformers
import torch
import transformers

from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.runtimes.conversion_cache import conversion_folder, fingerprint, make_once
from langchain_gpu.engine.runtimes.fusible import Fusible, fusible
from langchain_gpu.engine.runtimes.no_telemetry import without_telemetry
from langchain_gpu.engine.runtimes.openvino_core import core
from langchain_gpu.engine.runtimes.openvino_graph import for_cpu, rewrite
from langchain_gpu.engine.runtimes.quantization_loss import QuantizationLoss, check_embeds
from langchain_gpu.engine.runtimes.tasks import Task
from langchain_gpu.engine.runtimes.traced import (
    LEAST_COSINE,
    Traced,
    likeness,
    quietly,
)

logger = logging.getLogger(__name__)
# Counts up when the same model would be converted to another program.
_FORM = 5
_FILE = "model.xml"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a conversion needs to know.

    Attributes:
        path: Folder of the model.
        options: What the model was loaded with.
        task: What the model is asked to do.
        features: Items to what the model takes, as torch tensors.
        names: The inputs of the program, in order.
        cores: CPU cores to prove it with, None for all.
    """

    path: Path
    options: Mapping[str, Any]
    task: Task
    features: Callable[[Sequence[Any]], dict[str, torch.Tensor]]
    names: tuple[str, ...]
    cores: int | None

    def inputs(self, items: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Return the program's inputs for some items."""
        features = self.features(items)
        return {name: features[name] for name in self.names}


Scratch = tempfile.TemporaryDirectory[str]


@dataclass(frozen=True, slots=True)
class Program:
    """A converted model.

    Attributes:
        model: What OpenVINO compiles.
        loss: What integers cost, in words; empty for a program in float32.
        scratch: Holds its weights where the cache cannot be written: kept as long as the program.
    """

    model: Any
    loss: str = ""
    scratch: Scratch | None = None


def converted(recipe: Recipe, modules: torch.nn.Sequential) -> Program:
    """Return the program of a model, from the cache or made now, with float32 weights.

    Raises:
        NotConvertibleError: Tracing fails, or the program computes something else.
    """

    def make(folder: Path) -> None:
        openvino.save_model(_convert(recipe, modules), folder / _FILE, compress_to_fp16=False)

    folder, scratch = make_once(_home(recipe), make)
    return Program(core().read_model(folder / _FILE), scratch=scratch)


def quantized(
    recipe: Recipe, modules: torch.nn.Sequential, calibration: Sequence[str], hint: str
) -> Program:
    """Return the program of a model in 8-bit integers, from the cache or made now.

    Args:
        recipe: As for `converted`.
        modules: The same.
        calibration: Texts like those to come; empty for drawn ones.
        hint: What the rest is computed in, as OpenVINO calls it.

    Raises:
        NotConvertibleError: As in `converted`; or integers lose too much.
    """
    from langchain_gpu.engine.runtimes import openvino_int8

    check_embeds(recipe.task)
    texts = openvino_int8.samples(calibration)
    what = json.dumps([texts, hint, openvino_int8.VERSION]).encode()
    home = _home(recipe)

    def make(folder: Path) -> None:
        exact = converted(recipe, modules)
        logger.info("quantizing %s with %d texts", recipe.path.name, len(texts))
        model, loss = openvino_int8.quantize(
            exact.model,
            lambda part: {name: each.numpy() for name, each in recipe.inputs(part).items()},
            texts,
            hint,
        )
        openvino.save_model(model, folder / _FILE, compress_to_fp16=False)
        loss.save(folder)

    name = f"{home.name}-int8-{hashlib.sha256(what).hexdigest()[:16]}"
    folder, scratch = make_once(home.with_name(name), make)
    loss = str(QuantizationLoss.read(folder))
    logger.info("int8 of %s: %s", recipe.path.name, loss)
    return Program(core().read_model(folder / _FILE), loss, scratch)


def _home(recipe: Recipe) -> Path:
    """Return where the float32 program belongs."""
    tools = (openvino, torch, transformers, sentence_transformers)
    options = {**recipe.options, "form": _FORM, "task": recipe.task.output}
    return conversion_folder("openvino") / fingerprint(recipe.path, options, tools)


def _convert(recipe: Recipe, modules: torch.nn.Sequential) -> Any:
    """Convert to the fastest form that is like the original, else to the plain one."""
    original = Traced(modules).float().eval()
    proofs = []
    for items in recipe.task.proofs:
        inputs = recipe.inputs(items)
        with torch.inference_mode():
            proofs.append((inputs, original(**inputs).numpy()))

    def attempt(module: torch.nn.Module) -> Any:
        program = _trace(recipe, module)
        compiled = core().compile_model(
            for_cpu(program, "f32"),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32"}
            | ({"INFERENCE_NUM_THREADS": recipe.cores} if recipe.cores else {}),
        )
        for inputs, wanted in proofs:
            found = compiled({name: each.numpy() for name, each in inputs.items()})[0]
            least = likeness(wanted, found)
            if not least >= LEAST_COSINE:
                raise NotConvertibleError(
                    f"{recipe.path.name} computes something else when traced (cosine {least:.5f})"
                )
        return program

    try:
        with fusible(modules) as own_attention:
            program = attempt(Fusible(modules).float().eval())
    except NotConvertibleError as error:
        logger.info("converting %s without changes to its graph: %s", recipe.path.name, error)
    else:
        if not own_attention:
            logger.info("%s keeps its own attention", recipe.path.name)
        return program
    return attempt(original)


def _trace(recipe: Recipe, module: torch.nn.Module) -> Any:
    try:
        with without_telemetry(), quietly():
            program = openvino.convert_model(
                module, example_input=recipe.inputs(recipe.task.example)
            )
            if isinstance(module, Fusible):
                rewrite(program, single=recipe.task.output == "sentence_embedding")
    except Exception as error:
        raise NotConvertibleError(f"{recipe.path.name} cannot be traced: {error}") from error
    return program
