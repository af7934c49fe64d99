"""Programs of tiny models, as a conversion begins with them, and what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from langchain_gpu.engine.runtimes.fusible import Fusible, fusible
from langchain_gpu.engine.runtimes.no_telemetry import without_telemetry
from langchain_gpu.engine.runtimes.openvino_core import core
from langchain_gpu.engine.runtimes.traced import quietly

Inputs = dict[str, NDArray[np.int64]]
# Three rows, one of them padded on the right: none of the lengths is a multiple of anything.
IDS = np.array([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5], [6, 5, 7, 0, 0]])
SEEN = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def unevenly(model: torch.nn.Module) -> None:
    """Give norms and biases values of their own: new models have ones and zeros."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        if value.ndim == 1 and name.endswith(("weight", "bias")):
            value.data += 0.3 * torch.randn(value.shape, generator=generator)


def inputs(*, types: bool) -> Inputs:
    named = {"input_ids": IDS, "attention_mask": SEEN}
    return named | ({"token_type_ids": np.zeros_like(IDS)} if types else {})


def traced(modules: Any, given: Inputs) -> Any:
    example = {name: torch.from_numpy(value) for name, value in given.items()}
    with fusible(modules), without_telemetry(), quietly(), torch.inference_mode():
        return openvino.convert_model(Fusible(modules).float().eval(), example_input=example)


def embedder(path: str) -> tuple[Any, Inputs]:
    modules = SentenceTransformer(path, device="cpu")
    unevenly(modules)
    given = inputs(types="token_type_ids" in modules[0].tokenizer.model_input_names)
    return traced(modules, given), given


def computed(program: Any, given: Any, hint: str = "f32") -> NDArray[np.float32]:
    settings = {"INFERENCE_PRECISION_HINT": hint}
    return np.array(core().compile_model(program, "CPU", settings)(given)[0])


def kinds(program: Any) -> list[str]:
    return [node.get_type_name() for node in program.get_ordered_ops()]
