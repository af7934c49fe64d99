"""OpenVINO programs in int8, by NNCF's post-training quantization.

The weights' products are quantized; attention is not. Its scores, quantized, cost single short
texts a quarter of their cosine, and gained no time that could be measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.runtimes.no_telemetry import without_telemetry
from langchain_gpu.engine.runtimes.openvino_core import apart, core
from langchain_gpu.engine.runtimes.quantization_loss import QuantizationLoss

with without_telemetry():
    import nncf
    from nncf.common.logging import nncf_logger, track_progress

_BATCH = 4
_HELD_OUT = 4  # every so many texts are kept to measure the loss with

Inputs = Mapping[str, NDArray[Any]]


def quantize(
    program: Any, features: Callable[[Sequence[str]], Inputs], texts: Sequence[str], hint: str
) -> tuple[Any, QuantizationLoss]:
    """Return a program that multiplies in integers, and what that costs.

    Args:
        program: Of float32 weights; left as it is.
        features: Texts to the program's inputs.
        texts: To calibrate with; a part is held out.
        hint: What the rest is computed in, as OpenVINO calls it.

    Raises:
        NotConvertibleError: It cannot be quantized, or not without losing the meaning.
    """
    held = list(texts[_HELD_OUT - 1 :: _HELD_OUT])
    kept = set(held)
    # In the same order in every process: a set's differs, and with it the batches.
    shown = sorted((text for text in dict.fromkeys(texts) if text not in kept), key=len) or held
    batches = [features(shown[at : at + _BATCH]) for at in range(0, len(shown), _BATCH)]
    try:
        with without_telemetry(), _silent():
            quantized = partial(
                nncf.quantize,
                program.clone(),
                nncf.Dataset(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(
                    names=_variable_products(program),
                    types=["ScaledDotProductAttention"],
                    validate=False,
                ),
            )
            result = apart(quantized)  # it starts an OpenVINO of its own
    except Exception as error:
        raise NotConvertibleError(f"the model cannot be quantized: {error}") from error
    parts = [features(held[at : at + _BATCH]) for at in range(0, len(held), _BATCH)]
    loss = QuantizationLoss.of(_run(program, "f32", parts), _run(result, hint, parts))
    loss.check()
    return result, loss


def _variable_products(program: Any) -> list[str]:
    """Name the matrix products of two inputs: attention, pooling."""
    return [
        node.get_friendly_name()
        for node in program.get_ops()
        if node.get_type_name() == "MatMul" and not _constant(node.input_value(1).get_node())
    ]


def _constant(node: Any) -> bool:
    while node.get_type_name() in {"Convert", "Reshape", "Transpose"}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _run(program: Any, hint: str, parts: Sequence[Inputs]) -> NDArray[np.float32]:
    settings = {"INFERENCE_PRECISION_HINT": hint}
    compiled = core().compile_model(program, "CPU", settings)
    return np.concatenate([np.array(compiled(dict(part))[0], np.float32) for part in parts])


@contextmanager
def _silent() -> Iterator[None]:
    """Let NNCF draw no progress bars and say no more than warnings."""
    level, progress = nncf_logger.level, track_progress.Progress
    nncf_logger.setLevel(logging.WARNING)
    track_progress.Progress = lambda *columns, **kwargs: progress(
        *columns, **(kwargs | {"disable": True})
    )
    try:
        yield
    finally:
        track_progress.Progress = progress
        nncf_logger.setLevel(level)
