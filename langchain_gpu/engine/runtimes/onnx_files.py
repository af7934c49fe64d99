"""ONNX files of a sentence-transformers model: exported once, verified, cached."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.runtimes import quantization_loss
from langchain_gpu.engine.runtimes.likeness import LEAST_COSINE, likeness
from langchain_gpu.engine.runtimes.traced import Traced, quietly
from langchain_gpu.utils.errors import first_line

Inputs = dict[str, NDArray[np.int64]]
Run = Callable[[Inputs], Vectors]

# What a copy may differ by at most, as the cosine of the worst row. Half precision and integers
# round; below these it is more than rounding.
LEAST = {"float32": LEAST_COSINE, "float16": 0.999, "int8": quantization_loss.LEAST_COSINE}
_OPSET = 17  # the first with LayerNormalization in one piece
MODEL = "model.onnx"
_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
}
# What int8 is measured with where nobody gave texts: lengths, topics and forms that differ.
SAMPLES = (
    "",
    "GPU",
    "How do I reset my password?",
    "The cat sat on the mat, and the dog looked at it for a long time.",
    "In 1969 the first two people walked on the Moon; twelve have been there so far.",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung.",
    "The court held that the contract was void, because neither party had read what it signed.",
    (
        "Water boils at 100 degrees Celsius at sea level. Higher up, where the air is thinner, it "
        "boils earlier: on a mountain of 3,000 meters at about 90 degrees, which is why eggs take "
        "longer there. A pressure cooker does the opposite: a meal is ready in a third of the time."
    ),
)


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A model's file.

    Attributes:
        path: Where it lies.
        dtype: What its weights are in.
        inputs: Names of its inputs.
        own: The model brought it; else it was exported with everything in it.
    """

    path: Path
    dtype: str
    inputs: tuple[str, ...]
    own: bool


def find_own(path: Path, file_name: str | None) -> OnnxFile | None:
    """Return the ONNX file that a model brings: the one that is named, else `onnx/model.onnx`.

    Raises:
        ValueError: There is no file of that name.
    """
    candidates = [path / file_name, path / "onnx" / file_name] if file_name else []
    for file in candidates or [path / "onnx" / MODEL]:
        if file.is_file():
            graph = onnx.load(file, load_external_data=False).graph
            return OnnxFile(
                file, _stored(graph), tuple(each.name for each in graph.input), own=True
            )
    if file_name is None:
        return None
    here = ", ".join(sorted(each.relative_to(path).as_posix() for each in path.rglob("*.onnx")))
    raise ValueError(f"{path.name} has no ONNX file {file_name!r}; there are: {here or 'none'}")


def _stored(graph: Any) -> str:
    """Return what most of the weights are in; int8 files keep some of theirs in float32."""
    sizes: Counter[str] = Counter()
    for tensor in graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type in _TYPES:
            sizes[_TYPES[tensor.data_type]] += math.prod(tensor.dims)
    if sizes["int8"]:
        return "int8"
    return max(sizes, key=lambda name: sizes[name], default="float32")


def reference(modules: torch.nn.Sequential, examples: Sequence[Inputs]) -> list[Vectors]:
    """Return what the modules make of each example; they are in float32 afterwards."""
    module = Traced(modules).float().eval()
    with torch.inference_mode():
        return [
            module(**{name: torch.from_numpy(array) for name, array in example.items()}).numpy()
            for example in examples
        ]


def run_on_cpu(file: Path, cores: int | None) -> Run:
    """Return a function of inputs that runs a file which holds the whole model."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = cores or 0
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(file), sess_options=settings, providers=["CPUExecutionProvider"]
    )

    def run(inputs: Inputs) -> Vectors:
        vectors: Vectors = session.run(None, inputs)[0]
        return vectors

    return run


def export(modules: torch.nn.Sequential, examples: Sequence[Inputs], folder: Path) -> list[Vectors]:
    """Write the modules as one float32 ONNX file into `folder`.

    Args:
        modules: On the CPU; they are in float32 afterwards.
        examples: Inputs to trace with, and to prove with.
        folder: Where to write.

    Returns:
        What the modules make of each of the examples.

    Raises:
        NotConvertibleError: The model cannot be traced.
    """
    wanted = reference(modules, examples)
    module = Traced(modules)
    names = list(examples[0])
    axes = {name: {0: "rows", 1: "tokens"} for name in names} | {"sentence_embedding": {0: "rows"}}
    try:
        with quietly(), torch.inference_mode():
            # The exporter through TorchScript: torch's newer one needs another package, and made
            # no better a graph.
            torch.onnx.export(
                module,
                tuple(torch.from_numpy(array) for array in examples[0].values()),
                str(folder / MODEL),
                dynamo=False,
                opset_version=_OPSET,
                input_names=names,
                output_names=["sentence_embedding"],
                dynamic_axes=axes,
            )
    except Exception as error:
        raise NotConvertibleError(f"the model cannot be traced: {first_line(error)}") from error
    return wanted


def prove(run: Run, examples: Sequence[Inputs], wanted: Sequence[Vectors], dtype: str) -> None:
    """Compare what a session computes with what the original does.

    Raises:
        NotConvertibleError: They differ by more than rounding.
    """
    try:
        found = [run(example) for example in examples]
    except Exception as error:
        raise NotConvertibleError(f"the ONNX file does not run: {error}") from error
    least, longest = 1.0, 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        if ours.shape != theirs.shape:
            raise NotConvertibleError(
                f"the ONNX file returns the shape {ours.shape}, not {theirs.shape}"
            )
        least = min(least, likeness(ours, theirs))
        if theirs.shape[1] > 1:  # a single score may be next to zero
            ratio = np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
            longest = max(longest, float(np.abs(ratio - 1).max()))
    if not least >= LEAST[dtype] or longest > 2 * (1 - LEAST[dtype]) ** 0.5:
        raise NotConvertibleError(
            f"the ONNX file does not compute what the model does (cosine {least:.5f}, lengths "
            f"off by {longest:.1%})"
        )


def halve(source: Path, folder: Path) -> None:
    """Write `source`, a float32 file of ours, into `folder` with its transformer in float16."""
    model = onnx.load(source)
    # What follows the transformer stays in float32: it is little work, and sums over tokens.
    rest = [node.name for node in model.graph.node if node.name.startswith("/rest")]
    with quietly():
        half = convert_float_to_float16(model, keep_io_types=True, node_block_list=rest)
    made: set[tuple[str, ...]] = set()
    for node in list(half.graph.node):
        if tuple(node.output) in made:  # one cast for each reader of a value, all of one name
            half.graph.node.remove(node)
        made.add(tuple(node.output))
    large = len(list(source.parent.iterdir())) > 1  # beyond 2 GB the weights lie beside the graph
    onnx.save(half, folder / MODEL, save_as_external_data=large)


def quantize(source: Path, folder: Path, *, exact: bool) -> None:
    """Write `source` with int8 weights into `folder`; activations are quantized as they come.

    Args:
        source: A float32 file.
        folder: Where to write.
        exact: The CPU adds products of bytes without overflow (VNNI or its like); elsewhere
            weights take 7 bits, because two products overflow the 16 bits of older instructions.
    """
    with _without_advice():
        quantize_dynamic(
            source,
            folder / MODEL,
            # One scale per column of a matrix: one for all of it loses ten times as much. The
            # embeddings stay as they are: looking rows up costs no time.
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            reduce_range=not exact,
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Drop what ONNX Runtime logs on the root logger, advice on preprocessing; nothing else."""

    def is_of_others(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in Path(record.pathname).parts

    logging.root.addFilter(is_of_others)
    try:
        yield
    finally:
        logging.root.removeFilter(is_of_others)
