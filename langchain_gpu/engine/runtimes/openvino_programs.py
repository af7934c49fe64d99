"""From a sentence-transformers model to an OpenVINO program: traced, proven, kept."""

from __future__ import annotations

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
from langchain_gpu.engine.runtimes.fusible import Fusible, fusible
from langchain_gpu.engine.runtimes.kept import fingerprint, kept_folder, make_once
from langchain_gpu.engine.runtimes.tasks import Task
from langchain_gpu.engine.runtimes.traced import (
    LEAST_COSINE,
    Traced,
    likeness,
    quietly,
)

logger = logging.getLogger(__name__)
# Counts up when the same model would be converted to another program.
_FORM = 2
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


def converted(recipe: Recipe, modules: torch.nn.Sequential) -> tuple[Any, Scratch | None]:
    """Return the program of a model, from the cache or made now, with float32 weights.

    The folder that is returned too holds its weights where the cache cannot be written; it is to
    be kept as long as the program.

    Raises:
        NotConvertibleError: Tracing fails, or the program computes something else.
    """
    tools = (openvino, torch, transformers, sentence_transformers)
    name = fingerprint(
        recipe.path, {**recipe.options, "form": _FORM, "task": recipe.task.output}, tools
    )

    def make(folder: Path) -> None:
        program = _convert(recipe, modules)
        openvino.save_model(program, folder / _FILE, compress_to_fp16=False)

    folder, scratch = make_once(kept_folder("openvino") / name, make)
    return openvino.Core().read_model(folder / _FILE), scratch


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
        compiled = openvino.Core().compile_model(
            program,
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
        with quietly():
            return openvino.convert_model(module, example_input=recipe.inputs(recipe.task.example))
    except Exception as error:
        raise NotConvertibleError(f"{recipe.path.name} cannot be traced: {error}") from error
