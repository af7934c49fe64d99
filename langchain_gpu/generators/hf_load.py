"""Load a model with transformers: which files, and which are refused."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from langchain_gpu.generators.options import WHERE
from langchain_gpu.generators.quantized import check_quantization
from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.torch_models.progress_bars import no_bars
from langchain_gpu.torch_models.weights import incomplete, judged_here
from langchain_gpu.utils.extras import require
from langchain_gpu.utils.forking import loading_model

# Not for `from_pretrained`: the files are found before, and these are said to `generate`.
_ELSEWHERE = frozenset({"cache_implementation", "compile", *WHERE})


class ModelFilesError(RuntimeError):
    """Files of a model cannot be loaded; the message names their folder."""


def places_itself(load: Mapping[str, Any]) -> bool:
    """Say whether the options leave the choice of the device to transformers."""
    return load.get("device_map") is not None


def load_tokenizer(path: Path, load: Mapping[str, Any]) -> Any:
    """Return the tokenizer of a folder or a `.gguf` file.

    Raises:
        ModelFilesError: Its files are damaged.
    """
    with _named(path):
        return AutoTokenizer.from_pretrained(*_source(path)[0], **_source(path)[1], **_code(load))


def load_model(path: Path, dtype: torch.dtype, load: Mapping[str, Any]) -> Any:
    """Return the model of a folder or a `.gguf` file, on the CPU unless the options say else.

    Raises:
        ImportError: The checkpoint is quantized by a library that is not installed.
        ModelFilesError: The files are damaged.
        RuntimeError: This process was forked from one that loaded a model.
        ValueError: The weights are pickled, incomplete or not those of a model that writes text,
            or transformers does not know such a model.
    """
    options = {name: value for name, value in load.items() if name not in _ELSEWHERE}
    options = {"ignore_mismatched_sizes": True} | options  # `_check_complete` sees them
    positional, named = _source(path)
    if path.is_file():
        named |= {"quantization_config": _unpacked()} | options
    else:
        _check_folder(path, options)
        named |= {"use_safetensors": True} | options
    if options.get("device_map") is not None:
        require("accelerate", extra="local-gguf")
    try:
        with loading_model(), _named(path), no_bars(), judged_here():
            model, info = AutoModelForCausalLM.from_pretrained(
                *positional, dtype=dtype, output_loading_info=True, **named
            )
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"{path}: {error} is needed by its quantization") from error
    wrong = {name for name, *_ in info["mismatched_keys"]}
    _check_complete(path, model, wrong.union(info["missing_keys"]))
    return model.eval()


def _check_complete(path: Path, model: Any, names: Collection[str]) -> None:
    """Refuse a model some of whose weights are not in its files: transformers draws them.

    Raises:
        ValueError: It is one, an embedder for example, which has no head that writes.
    """
    if not names or getattr(model.config, "quantization_config", None) is not None:
        return
    made = type(model).__name__
    stored = (getattr(model.config, "architectures", None) or [made])[0]
    if stored == made:
        raise ValueError(incomplete(path, made, names))
    raise ValueError(
        f"{path} does not write text: its files hold {stored}, without {len(names)} of the "
        f"weights of {made} ({min(names)}, ...), and random ones would write nonsense"
    )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the model in what its readers raise about its files; they name neither."""
    try:
        yield
    except (SafetensorError, JSONDecodeError, ArithmeticError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
    except RuntimeError as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise  # the device's fault, not that of the files
        reason = str(error)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    else:
        return
    raise ModelFilesError(
        f"{path}: transformers could not load this model: its files are incomplete or damaged, or "
        f"do not belong together ({reason})"
    )


def _source(path: Path) -> tuple[tuple[Path], dict[str, Any]]:
    if not path.is_file():
        return (path,), {}
    for module in ("gguf", "accelerate"):
        require(module, extra="local-gguf")
    return (path.parent,), {"gguf_file": path.name}


def _unpacked() -> Any:
    """Weights as numbers: packed ones are computed in float32, tensor by tensor."""
    from transformers import GgufConfig

    return GgufConfig(dequantize=True)


def _code(load: Mapping[str, Any]) -> dict[str, Any]:
    return {"trust_remote_code": True} if load.get("trust_remote_code") else {}


def _check_folder(path: Path, options: Mapping[str, Any]) -> None:
    weights = sorted(path.glob("*.safetensors"))
    pickled = sorted([*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")])
    if not weights and pickled:
        raise ValueError(
            f"{path} has only pickled weights ({pickled[0].name}), and a pickle can run any code: "
            f"use a revision with .safetensors files"
        )
    check_quantization(path, path.name, options.get("quantization_config"))


__all__ = ["ModelFilesError", "load_model", "load_tokenizer", "places_itself"]
