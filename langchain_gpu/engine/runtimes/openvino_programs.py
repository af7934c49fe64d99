"""OpenVINO programs of models: from the cache, or made now.

What is in the cache was converted and verified by an earlier process, and is taken without
importing torch: only making one needs it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import openvino

from langchain_gpu.engine.backends import require_local
from langchain_gpu.engine.runtimes.calibration import samples
from langchain_gpu.engine.runtimes.conversion_cache import conversion_folder, fingerprint, make_once
from langchain_gpu.engine.runtimes.model_settings import ModelSettings
from langchain_gpu.engine.runtimes.openvino_core import core
from langchain_gpu.engine.runtimes.quantization_loss import QuantizationLoss, check_embeds
from langchain_gpu.engine.tasks.embed import EmbedOptions

logger = logging.getLogger(__name__)
# Counts up when the same model would be converted to another program.
_FORM = 6
_FILE = "model.xml"
_TOOLS = ("openvino", "torch", "transformers", "sentence-transformers", "tokenizers")

Scratch = tempfile.TemporaryDirectory[str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a conversion needs to know.

    Attributes:
        path: Folder of the model.
        options: What the model is loaded with.
        task: What the model is asked to do.
        cores: CPU cores to prove it with, None for all.
    """

    path: Path
    options: Mapping[str, Any]
    task: Literal["embed", "score"]
    cores: int | None


@dataclass(frozen=True, slots=True)
class Program:
    """A converted model.

    Attributes:
        model: What OpenVINO compiles.
        settings: The model without its weights.
        loss: What integers cost, in words; empty for a program in float32.
        scratch: Holds its weights where the cache cannot be written: kept as long as the program.
    """

    model: Any
    settings: ModelSettings
    loss: str = ""
    scratch: Scratch | None = None


def converted(recipe: Recipe) -> Program:
    """Return the program of a model, from the cache or made now, with float32 weights.

    Raises:
        NotConvertibleError: The model has no plain tokenizer, excludes prompts from its pooling,
            cannot be traced, or the program computes something else.
    """

    def make(folder: Path) -> None:
        require_local()
        from langchain_gpu.engine.runtimes.openvino_conversion import convert

        model, settings = convert(recipe)
        openvino.save_model(model, folder / _FILE, compress_to_fp16=False)
        settings.save(folder)

    folder, scratch = make_once(_home(recipe), make)
    return Program(core().read_model(folder / _FILE), ModelSettings.read(folder), scratch=scratch)


def quantized(recipe: Recipe, calibration: Sequence[str], hint: str) -> Program:
    """Return the program of a model in 8-bit integers, from the cache or made now.

    Args:
        recipe: As for `converted`.
        calibration: Texts like those to come; empty for drawn ones.
        hint: What the rest is computed in, as OpenVINO calls it.

    Raises:
        NotConvertibleError: As in `converted`; or integers lose too much.
    """
    check_embeds(recipe.task)
    texts = samples(calibration)
    what = json.dumps([texts, hint, version("nncf")]).encode()
    home = _home(recipe)

    def make(folder: Path) -> None:
        from langchain_gpu.engine.runtimes import openvino_int8

        exact = converted(recipe)
        logger.info("quantizing %s with %d texts", recipe.path.name, len(texts))
        features = partial(exact.settings.features, options=EmbedOptions())
        model, loss = openvino_int8.quantize(exact.model, features, texts, hint)
        openvino.save_model(model, folder / _FILE, compress_to_fp16=False)
        exact.settings.save(folder)
        loss.save(folder)

    name = f"{home.name}-int8-{hashlib.sha256(what).hexdigest()[:16]}"
    folder, scratch = make_once(home.with_name(name), make)
    loss = str(QuantizationLoss.read(folder))
    logger.info("int8 of %s: %s", recipe.path.name, loss)
    settings = ModelSettings.read(folder)
    return Program(core().read_model(folder / _FILE), settings, loss, scratch)


def _home(recipe: Recipe) -> Path:
    """Return where the float32 program belongs."""
    options = {**recipe.options, "form": _FORM, "task": recipe.task}
    versions = [version(tool) for tool in _TOOLS]
    return conversion_folder("openvino") / fingerprint(recipe.path, options, versions)


__all__ = ["Program", "Recipe", "converted", "quantized"]
