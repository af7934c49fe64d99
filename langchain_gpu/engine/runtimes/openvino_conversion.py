"""From a sentence-transformers model to an OpenVINO program, traced and verified."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import openvino
import torch

from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.runtimes.fusible import Fusible, fusible
from langchain_gpu.engine.runtimes.likeness import LEAST_COSINE, likeness
from langchain_gpu.engine.runtimes.model_settings import ModelSettings
from langchain_gpu.engine.runtimes.no_telemetry import without_telemetry
from langchain_gpu.engine.runtimes.openvino_core import core
from langchain_gpu.engine.runtimes.openvino_graph import for_cpu, rewrite
from langchain_gpu.engine.runtimes.openvino_programs import Recipe
from langchain_gpu.engine.runtimes.tasks import EMBED, SCORE, Score, Task
from langchain_gpu.engine.runtimes.traced import NAMES, Traced, quietly
from langchain_gpu.engine.tasks.activations import name_of

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


def convert(recipe: Recipe) -> tuple[Any, ModelSettings]:
    """Convert to the fastest form that is like the original, else to the plain one.

    Returns:
        The program, with float32 weights, and what it does not hold.

    Raises:
        NotConvertibleError: As `openvino_programs.converted`.
    """
    task = EMBED if recipe.task == "embed" else SCORE
    modules = task.load(recipe.path, recipe.options)
    modules.eval().requires_grad_(requires_grad=False)
    settings = _settings(modules, task, recipe.path.name)

    def inputs(items: Sequence[Any]) -> Tensors:
        features = settings.features(items, task.options)
        return {name: torch.from_numpy(each) for name, each in features.items()}

    original = Traced(modules).float().eval()
    example, proofs = inputs(task.example), []
    for items in task.proofs:
        features = inputs(items)
        with torch.inference_mode():
            proofs.append((features, original(**features).numpy()))

    def attempt(module: torch.nn.Module) -> Any:
        program = _trace(module, example, recipe)
        compiled = core().compile_model(
            for_cpu(program, "f32"),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32"}
            | ({"INFERENCE_NUM_THREADS": recipe.cores} if recipe.cores else {}),
        )
        for features, wanted in proofs:
            found = compiled({name: each.numpy() for name, each in features.items()})[0]
            least = likeness(wanted, found)
            if not least >= LEAST_COSINE:
                raise NotConvertibleError(
                    f"{recipe.path.name} gives different results when traced (cosine {least:.5f})"
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
        return program, settings
    return attempt(original), settings


def _settings(modules: Any, task: Task, name: str) -> ModelSettings:
    """Return what the program does not hold, of a model that has all of it in plain form."""
    tokenizer = task.tokenizer(modules)
    if tokenizer is None:
        raise NotConvertibleError(f"{name} prepares its texts in its own way")
    if any(getattr(module, "include_prompt", True) is False for module in modules):
        raise NotConvertibleError(f"{name} leaves prompts out of its pooling")
    tokens = tokenizer.tokenize(task.example[:1], task.options)
    features = tokenizer.batch(tokens, torch.arange(1).numpy())
    activation = None
    if task is SCORE:
        try:
            activation = name_of(modules.activation_fn)
        except ValueError as error:
            raise NotConvertibleError(f"{name}: {error}") from error
    return ModelSettings(
        tokenizer=tokenizer,
        inputs=tuple(each for each in NAMES if each in features),
        prompts=modules.prompts,
        default_prompt_name=modules.default_prompt_name,
        instructed=task is SCORE and Score.instructed(modules),
        activation=activation,
    )


def _trace(module: torch.nn.Module, example: Tensors, recipe: Recipe) -> Any:
    try:
        with without_telemetry(), quietly():
            program = openvino.convert_model(module, example_input=example)
            if isinstance(module, Fusible):
                rewrite(program, single=recipe.task == "embed")
    except Exception as error:
        raise NotConvertibleError(f"{recipe.path.name} cannot be traced: {error}") from error
    return program


__all__ = ["convert"]
