"""Which engines there are, which one a model's files ask for, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from langchain_gpu._extras import require
from langchain_gpu.events import Listener
from langchain_gpu.generators.base import Generator
from langchain_gpu.models.packages import Format
from langchain_gpu.models.resolve import ModelNotFoundError, Resolved, resolve
from langchain_gpu.planner.terms import ComponentPlan
from langchain_gpu.servers import address
from langchain_gpu.servers.server import Server

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
        keep_alive: How long a server keeps the model loaded after a call, in seconds or in its own
            words (`"5m"`); -1 for ever.
        load: More arguments for loading the model, under the engine's own names.
        server: Where the model runs, if not in this process.
        plan: Where the model goes, by `planner.plan`; None has the engine plan for itself.
        listener: Is told of fallbacks.
    """

    device: str = "auto"
    dtype: str = "auto"
    fallback: Fallback = "cpu"
    n_ctx: int | None = None
    n_parallel: int | None = None
    n_gpu_layers: int | None = None
    n_threads: int | None = None
    keep_alive: float | str | None = None
    load: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold secrets
    server: Server = field(default_factory=Server)
    plan: ComponentPlan | None = None
    listener: Listener | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A back end and what it will run, with the reason in a sentence.

    Attributes:
        backend: Its name.
        model: What was asked for; a server's own name of the model.
        reason: Why this back end.
        files: The model's files; None where a server has them.
    """

    backend: str
    model: str
    reason: str
    files: Resolved | None = None

    @property
    def path(self) -> Path:
        """Where the files are.

        Raises:
            ValueError: A server has them.
        """
        if self.files is None:
            raise ValueError(f"{self.model} is run by a server: there are no files here")
        return self.files.path


Factory = Callable[[Choice, Options], Generator]
SERVERS = ("ollama", "openai", "triton")
_FACTORIES: dict[str, Factory] = {}


def back_end(name: str) -> Callable[[Factory], Factory]:
    """Register the decorated factory under `name`. It imports its engine when it is called."""

    def register(factory: Factory) -> Factory:
        _FACTORIES[name] = factory
        return factory

    return register


@back_end("llama_cpp")
def _llama_cpp(choice: Choice, options: Options) -> Generator:
    require("xllamacpp", extra="llama-cpp")
    from langchain_gpu.generators.llama_cpp import LlamaCppGenerator

    return LlamaCppGenerator(choice.path, options)


@back_end("transformers")
def _transformers(choice: Choice, options: Options) -> Generator:
    require("torch", extra="local")
    require("transformers", extra="local")
    from langchain_gpu.generators.transformers import TransformersGenerator

    return TransformersGenerator(choice.path, options)


@back_end("openai")
def _openai(choice: Choice, options: Options) -> Generator:
    require("openai", extra="openai")
    from langchain_gpu.generators.openai import OpenAIGenerator

    return OpenAIGenerator(choice.model, options)


@back_end("ollama")
def _ollama(choice: Choice, options: Options) -> Generator:
    require("ollama", extra="ollama")
    from langchain_gpu.generators.ollama import OllamaGenerator

    generator: Generator = OllamaGenerator(choice.model, options)
    return generator


@back_end("triton")
def _triton(choice: Choice, options: Options) -> Generator:
    require("tritonclient", extra="triton")
    require("grpc", extra="triton")
    from langchain_gpu.generators.triton import TritonGenerator

    return TritonGenerator(choice.model, options)


def check_name(backend: str) -> None:
    """Raise ValueError for a back end that does not exist, listing those that do."""
    if backend != "auto" and backend not in _FACTORIES:
        known = ", ".join(repr(name) for name in ["auto", *sorted(_FACTORIES)])
        raise ValueError(f"unknown backend {backend!r}; known are {known}")


def choose(
    model: str,
    backend: str = "auto",
    server: Server | None = None,
    *,
    revision: str | None = None,
    remote_code: bool = False,
) -> Choice:
    """Find the model's files, or the server that has it, and the engine; loads nothing.

    With `"auto"` the server at `server.url` is asked what it is; a GGUF file, or a name that holds
    "gguf", goes to llama_cpp and a folder of safetensors to transformers. Any other name is looked
    up as GGUF on this machine, then as safetensors on this machine and on the hub.

    Args:
        model: A file, a folder or a name.
        backend: Which engine, or `"auto"`.
        server: Where the model runs, if not in this process.
        revision: Branch, tag or commit on the hub.
        remote_code: Fetch the repository's Python files too; the revision must be a full commit.

    Raises:
        ModelNotFoundError: There are no such files; the message lists what was tried.
        ServerError: Nothing answers at `server.url`.
        ValueError: Unknown back end, or an address where the back end has no use for one.
    """
    check_name(backend)
    if backend in SERVERS or (server is not None and server.url is not None):
        return _at_server(model, backend, server or Server())
    if backend != "auto":
        kind: Format = "gguf" if backend == "llama_cpp" or _is_gguf(model) else "safetensors"
        files = resolve(model, kind=kind, revision=revision, remote_code=remote_code)
        return Choice(backend, model, f"backend={backend!r} was asked for", files)
    return _by_files(model, partial(resolve, revision=revision, remote_code=remote_code))


def _at_server(model: str, backend: str, server: Server) -> Choice:
    if backend in SERVERS:
        if server.url is None and backend != "ollama":
            raise ValueError(f"backend={backend!r} needs base_url: the address of the server")
        if backend == "triton" and server.url:
            url = address.grpc_place(server.url).url
        else:
            url = address.check_url(server.url) if server.url else address.ollama_url()
        return Choice(backend, model, f"backend={backend!r} was asked for, at {url}")
    if backend != "auto":
        raise ValueError(f"base_url={server.url!r} has no meaning for the back end {backend!r}")
    from langchain_gpu.servers.detect import detect

    form, reason = detect(server)
    return Choice(form, model, reason)


def _by_files(model: str, find: Callable[..., Resolved]) -> Choice:
    path = Path(model).expanduser()
    if _is_gguf(model):
        return _gguf(find(model, kind="gguf"))
    if path.exists():
        return _safetensors(find(model))
    try:
        return _gguf(find(model, kind="gguf", local_files_only=True))
    except ModelNotFoundError as no_gguf:
        try:
            return _safetensors(find(model))
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{no_gguf}\n{error}") from None


def _is_gguf(model: str) -> bool:
    path = Path(model).expanduser()
    return "gguf" in model.lower() or (path.is_dir() and any(path.glob("*.gguf")))


def create(choice: Choice, options: Options) -> Generator:
    """Load the model.

    Raises:
        ImportError: The engine is not installed; the message holds the pip line.
        ValueError: An option that this engine does not have.
    """
    return _FACTORIES[choice.backend](choice, options)


def refuse(options: Options, backend: str, *names: str) -> None:
    """Raise ValueError if one of the named options is set: no option is ever ignored."""
    for name in names:
        value = getattr(options, name)
        if value not in (None, "auto", {}):
            raise ValueError(f"{name}={value!r} has no meaning for the back end {backend!r}")


def check_load(options: Options, backend: str, known: Iterable[str]) -> None:
    """Raise ValueError if `load_kwargs` hold what the back end does not know."""
    if unknown := sorted(set(options.load) - set(known)):
        raise ValueError(
            f"load_kwargs of the back end {backend!r} are {', '.join(known)}, not {unknown}"
        )


def _gguf(files: Resolved) -> Choice:
    reason = f"{files.path.name} is a GGUF file: {files.reason}"
    return Choice("llama_cpp", files.name, reason, files)


def _safetensors(files: Resolved) -> Choice:
    reason = f"{files.name} has safetensors weights: {files.reason}"
    return Choice("transformers", files.name, reason, files)


__all__ = [
    "Choice",
    "Fallback",
    "Options",
    "back_end",
    "check_load",
    "check_name",
    "choose",
    "create",
    "refuse",
]
