"""The engines by name, and the choice of one by a model's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from langchain_gpu.generators.base import Generator
from langchain_gpu.generators.options import Options, check_llama_cpp, check_transformers
from langchain_gpu.generators.quantized import check_quantization
from langchain_gpu.models.packages import Format
from langchain_gpu.models.resolve import ModelNotFoundError, Resolved, resolve
from langchain_gpu.servers import address
from langchain_gpu.servers.server import Server
from langchain_gpu.utils.extras import check_installed, require


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
Check = Callable[[Options], None]
SERVERS = ("ollama", "openai", "triton")
_FACTORIES: dict[str, Factory] = {}
_NEEDS: dict[str, Mapping[str, str]] = {}
_CHECKS: dict[str, Check] = {}


def back_end(
    name: str, *, needs: Mapping[str, str], check: Check | None = None
) -> Callable[[Factory], Factory]:
    """Register the decorated factory under `name`. It imports its engine when it is called.

    Args:
        name: What users call it.
        needs: Modules that must be installed, each with the extra that brings it.
        check: Refuses options, before a model is fetched for an engine that would refuse them.
    """

    def register(factory: Factory) -> Factory:
        _FACTORIES[name] = factory
        _NEEDS[name] = needs
        if check is not None:
            _CHECKS[name] = check
        return factory

    return register


@back_end("llama_cpp", needs={"xllamacpp": "llama-cpp"}, check=check_llama_cpp)
def _llama_cpp(choice: Choice, options: Options) -> Generator:
    from langchain_gpu.generators.llama_cpp import LlamaCppGenerator

    return LlamaCppGenerator(choice.path, options)


@back_end(
    "transformers", needs={"torch": "local", "transformers": "local"}, check=check_transformers
)
def _transformers(choice: Choice, options: Options) -> Generator:
    from langchain_gpu.generators.transformers import TransformersGenerator

    return TransformersGenerator(choice.path, options)


@back_end("openai", needs={"openai": "openai"})
def _openai(choice: Choice, options: Options) -> Generator:
    from langchain_gpu.generators.openai import OpenAIGenerator

    return OpenAIGenerator(choice.model, options)


@back_end("ollama", needs={"ollama": "ollama"})
def _ollama(choice: Choice, options: Options) -> Generator:
    from langchain_gpu.generators.ollama import OllamaGenerator

    generator: Generator = OllamaGenerator(choice.model, options)
    return generator


@back_end("triton", needs={"tritonclient": "triton", "grpc": "triton"})
def _triton(choice: Choice, options: Options) -> Generator:
    from langchain_gpu.generators.triton import TritonGenerator

    return TritonGenerator(choice.model, options)


def names() -> list[str]:
    """Return what `backend` may be."""
    return ["auto", *sorted(_FACTORIES)]


def check_name(backend: str) -> None:
    """Raise ValueError for a back end that does not exist, listing those that do."""
    if backend not in names():
        known = ", ".join(names())
        raise ValueError(f"unknown backend {backend!r}; known: {known}")


def choose(
    model: str, backend: str = "auto", options: Options | None = None, *, constrained: bool = False
) -> Choice:
    """Find the model's files, or the server that has it, and the engine; loads nothing.

    With `"auto"` the server at `options.server.url` is asked what it is; a GGUF file, or a name
    that holds "gguf", goes to llama_cpp and a folder of safetensors to transformers. Any other name
    is looked up as GGUF on this machine, then as safetensors on this machine and on the hub.

    Args:
        model: A file, a folder or a name.
        backend: Which engine, or `"auto"`.
        options: What the engine will be asked. Nothing is fetched for what it refuses.
        constrained: Whether answers will be held to a format, for which an engine may need more.

    Raises:
        ModelNotFoundError: There are no such files; the message lists what was tried.
        ImportError: The engine that would run the files is not installed, and nothing was fetched
            for it; the message holds the pip line.
        ServerError: Nothing answers at `options.server.url`.
        ValueError: Unknown back end, an address where the back end has no use for one, or an option
            that it does not have.
    """
    check_name(backend)
    options = options or Options()
    if backend in SERVERS or options.server.url is not None:
        return _at_server(model, backend, options.server)
    load = options.load
    find = partial(
        resolve,
        revision=load.get("revision"),
        token=load.get("token"),
        remote_code=bool(load.get("trust_remote_code")),
        check=partial(check_quantization, name=model, asked=load.get("quantization_config")),
    )
    check = partial(_check, options=options, constrained=constrained)
    if backend == "auto":
        return _by_files(model, find, check)
    kind: Format = "gguf" if backend == "llama_cpp" or _is_gguf(model) else "safetensors"
    check(backend, kind)
    return Choice(backend, model, f"backend={backend!r} was asked for", find(model, kind=kind))


def _check(backend: str, kind: Format, options: Options, *, constrained: bool) -> None:
    """Refuse what the engine would refuse, and say what it lacks, before a model is fetched."""
    if backend in _CHECKS:
        _CHECKS[backend](options)
    needs = dict(_NEEDS[backend])
    if backend == "transformers":
        if kind == "gguf" or options.load.get("device_map"):
            needs["accelerate"] = "local-gguf"
        if kind == "gguf":
            needs["gguf"] = "local-gguf"
        if constrained:
            needs["llguidance"] = "grammar"
    check_installed(needs)


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
        raise ValueError(f"base_url has no meaning for the back end {backend!r}")
    from langchain_gpu.servers.detect import detect

    form, reason = detect(server)
    return Choice(form, model, reason)


def _by_files(
    model: str, find: Callable[..., Resolved], check: Callable[[str, Format], None]
) -> Choice:
    if _is_gguf(model):
        check("llama_cpp", "gguf")
        return _gguf(find(model, kind="gguf"))
    if Path(model).expanduser().exists():
        check("transformers", "safetensors")
        return _safetensors(find(model))
    try:
        files = find(model, kind="gguf", local_files_only=True)
    except ModelNotFoundError as error:
        no_gguf = error
    else:
        check("llama_cpp", "gguf")
        return _gguf(files)
    try:
        check("transformers", "safetensors")
        return _safetensors(find(model))
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{no_gguf}\n{error}") from None
    except ImportError as error:
        said = f"{no_gguf}\nNo safetensors were looked for: {error}"
        raise ImportError(said, name=error.name) from None


def _is_gguf(model: str) -> bool:
    path = Path(model).expanduser()
    return "gguf" in model.lower() or (path.is_dir() and any(path.glob("*.gguf")))


def create(choice: Choice, options: Options) -> Generator:
    """Load the model.

    Raises:
        ImportError: The engine is not installed; the message holds the pip line.
        ValueError: An option that this engine does not have.
    """
    for module, extra in _NEEDS[choice.backend].items():
        require(module, extra=extra)
    return _FACTORIES[choice.backend](choice, options)


def _gguf(files: Resolved) -> Choice:
    reason = f"{files.path.name} is a GGUF file: {files.reason}"
    return Choice("llama_cpp", files.name, reason, files)


def _safetensors(files: Resolved) -> Choice:
    reason = f"{files.name} has safetensors weights: {files.reason}"
    return Choice("transformers", files.name, reason, files)


__all__ = ["SERVERS", "Choice", "Options", "back_end", "check_name", "choose", "create", "names"]
