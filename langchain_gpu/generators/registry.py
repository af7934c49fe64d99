"""Which engines there are, which one a model's files ask for, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from langchain_gpu._extras import require
from langchain_gpu.events import Listener
from langchain_gpu.generators.base import Generator
from langchain_gpu.models.packages import Format
from langchain_gpu.models.resolve import ModelNotFoundError, Resolved, resolve

Fallback = Literal["cpu", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may ask of an engine. None is the engine's own choice.

    Attributes:
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` and so on.
        dtype: What is computed in, or `"auto"`.
        fallback: What happens when the device cannot do it.
        n_ctx: Window of one chat in tokens.
        n_parallel: Chats at the same time.
        n_gpu_layers: Layers on the GPU.
        n_threads: CPU threads.
        listener: Is told of fallbacks.
    """

    device: str = "auto"
    dtype: str = "auto"
    fallback: Fallback = "cpu"
    n_ctx: int | None = None
    n_parallel: int | None = None
    n_gpu_layers: int | None = None
    n_threads: int | None = None
    listener: Listener | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A back end, the files it will load, and the reason in a sentence."""

    backend: str
    files: Resolved
    reason: str


Factory = Callable[[Path, Options], Generator]
_FACTORIES: dict[str, Factory] = {}


def back_end(name: str) -> Callable[[Factory], Factory]:
    """Register the decorated factory under `name`. It imports its engine when it is called."""

    def register(factory: Factory) -> Factory:
        _FACTORIES[name] = factory
        return factory

    return register


@back_end("llama_cpp")
def _llama_cpp(path: Path, options: Options) -> Generator:
    require("xllamacpp", extra="llama-cpp")
    from langchain_gpu.generators.llama_cpp import LlamaCppGenerator

    return LlamaCppGenerator(path, options)


@back_end("transformers")
def _transformers(path: Path, options: Options) -> Generator:
    require("torch", extra="local")
    require("transformers", extra="local")
    from langchain_gpu.generators.transformers import TransformersGenerator

    return TransformersGenerator(path, options)


def check_name(backend: str) -> None:
    """Raise ValueError for a back end that does not exist, listing those that do."""
    if backend != "auto" and backend not in _FACTORIES:
        known = ", ".join(repr(name) for name in ["auto", *sorted(_FACTORIES)])
        raise ValueError(f"unknown backend {backend!r}; known are {known}")


def choose(model: str, backend: str = "auto") -> Choice:
    """Find the model's files and the engine for them; loads nothing.

    With `"auto"` a GGUF file, or a name that holds "gguf", goes to llama_cpp and a folder of
    safetensors to transformers. Any other name is looked up as GGUF on this machine, then as
    safetensors on this machine and on the hub.

    Raises:
        ModelNotFoundError: There are no such files; the message lists what was tried.
        ValueError: Unknown back end.
    """
    check_name(backend)
    if backend != "auto":
        kind: Format = "gguf" if backend == "llama_cpp" else "safetensors"
        return Choice(backend, resolve(model, kind=kind), f"backend={backend!r} was asked for")
    path = Path(model).expanduser()
    if "gguf" in model.lower() or (path.is_dir() and any(path.glob("*.gguf"))):
        return _gguf(resolve(model, kind="gguf"))
    if path.exists():
        return _safetensors(resolve(model))
    try:
        return _gguf(resolve(model, kind="gguf", local_files_only=True))
    except ModelNotFoundError as no_gguf:
        try:
            return _safetensors(resolve(model))
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{no_gguf}\n{error}") from None


def create(choice: Choice, options: Options) -> Generator:
    """Load the model.

    Raises:
        ImportError: The engine is not installed; the message holds the pip line.
        ValueError: An option that this engine does not have.
    """
    return _FACTORIES[choice.backend](choice.files.path, options)


def refuse(options: Options, backend: str, *names: str) -> None:
    """Raise ValueError if one of the named options is set: no option is ever ignored."""
    for name in names:
        value = getattr(options, name)
        if value not in (None, "auto"):
            raise ValueError(f"{name}={value!r} has no meaning for the back end {backend!r}")


def _gguf(files: Resolved) -> Choice:
    return Choice("llama_cpp", files, f"{files.path.name} is a GGUF file: {files.reason}")


def _safetensors(files: Resolved) -> Choice:
    return Choice("transformers", files, f"{files.name} has safetensors weights: {files.reason}")


__all__ = [
    "Choice",
    "Fallback",
    "Options",
    "back_end",
    "check_name",
    "choose",
    "create",
    "refuse",
]
