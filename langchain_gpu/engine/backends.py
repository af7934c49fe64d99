"""Which library runs an embedder: one decorated factory per back end, with its import inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.encoder import Encoder, Tokenized
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.wheels import onnx_extra
from langchain_gpu.models.resolve import resolve
from langchain_gpu.utils.extras import check_installed, install_line, is_installed, require


class TextEncoder(Encoder, Protocol):
    """An encoder of texts, and what it knows about them."""

    @property
    def dtype(self) -> str:
        """What is computed in now."""

    @property
    def window(self) -> int | None:
        """Tokens the model reads at most, special tokens included; None where it has no limit."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """The prompts the model ships, by name."""

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt the model's authors want where none is named."""

    @property
    def details(self) -> str:
        """What the back end decided or lost on the way, in words; empty where nothing is told."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""

    def from_ids(self, rows: Sequence[Sequence[int]], *, start: int = 0) -> Tokenized:
        """Take rows that are token ids already, special tokens included.

        Args:
            rows: Ids of each row.
            start: Position of the first row in the caller's sequence, for messages.

        Raises:
            ValueError: A row is empty, longer than the window, or holds an id the model does not
                have; or the back end takes texts only.
        """


class NotConvertibleError(ValueError):
    """A back end cannot run this model, or not the way the original does."""


Factory = Callable[[EmbedderConfig, Device], TextEncoder]
_FACTORIES: dict[str, Factory] = {}
_REMOTE: set[str] = set()
_SCORES: set[str] = set()
_LOCAL = {"torch": "local", "sentence_transformers": "local"}


def register(
    name: str, *, remote: bool = False, scores: bool = False
) -> Callable[[Factory], Factory]:
    """Make a factory known as `backend=name`.

    A factory takes what the user asked for and the device, finds the model's files, and returns
    the encoder on that device. A remote one is given the CPU and knows its own device. One that
    `scores` makes a reranker where `config.task` is `"score"`.
    """

    def add(factory: Factory) -> Factory:
        _FACTORIES[name] = factory
        if remote:
            _REMOTE.add(name)
        if scores:
            _SCORES.add(name)
        return factory

    return add


def is_remote(config: EmbedderConfig) -> bool:
    """Say whether a server runs the model."""
    return config.backend in _REMOTE or (config.backend == "auto" and config.server.url is not None)


def create(config: EmbedderConfig, device: Device) -> tuple[TextEncoder, str]:
    """Build an encoder with the back end that `config` names, and say why it is that one.

    `"auto"` asks a server, where one is given, which form of request it speaks. Elsewhere it takes
    llama.cpp for a `.gguf` file, OpenVINO on a CPU where it is installed and runs the model, else
    torch.

    Raises:
        ModelNotFoundError: No files for the model.
        ValueError: There is no such back end, or it cannot run the model.
        ImportError: Its extra is not installed.
    """
    name = config.backend
    if name == "auto":
        return _auto(config, device)
    known = _SCORES if config.task == "score" else set(_FACTORIES)
    if name not in known:
        what = {"embed": "embeddings", "score": "reranking"}[config.task]
        names = ", ".join(["auto", *sorted(known)])
        raise ValueError(f"unknown backend {name!r} for {what}; known: {names}")
    return _FACTORIES[name](config, device), f"{name}: asked for"


def _auto(config: EmbedderConfig, device: Device) -> tuple[TextEncoder, str]:
    if config.server.url is not None:
        return _auto_remote(config, device)
    if config.model.lower().endswith(".gguf"):
        return _llama_cpp(config, device), "llama_cpp: the model is a .gguf file"
    if device.kind != "cpu":
        return _torch(config, device), "torch: it runs on every device"
    chosen = "openvino: the fastest on a CPU, and installed"
    if config.dtype == "int8":  # which torch does not have: say what OpenVINO lacks
        return _openvino(config, device), chosen
    if not is_installed("openvino"):
        reason = f"openvino, faster on a CPU, is not installed ({install_line('openvino')})"
    elif (device.dtype if config.dtype == "auto" else config.dtype) == "float16":
        reason = "openvino does not compute in float16 on a CPU"
    else:
        try:
            return _openvino(config, device), chosen
        except NotConvertibleError as error:
            reason = f"openvino does not take the model: {error}"
    return _torch(config, device), f"torch: {reason}"


def require_local() -> None:
    """Raise ImportError, with the pip line, where what runs torch's models is missing."""
    for module, extra in _LOCAL.items():
        require(module, extra=extra)


def _folder(config: EmbedderConfig) -> Path:
    return resolve(config.model, **config.where).path


def _task(config: EmbedderConfig) -> Any:
    from langchain_gpu.engine.runtimes.tasks import EMBED, SCORE

    return EMBED if config.task == "embed" else SCORE


@register("torch", scores=True)
def _torch(config: EmbedderConfig, device: Device) -> TextEncoder:
    require_local()
    from langchain_gpu.engine.runtimes.torch import TorchEncoder

    return TorchEncoder(
        _folder(config), device, dtype=config.dtype, options=config.options, task=_task(config)
    )


@register("openvino", scores=True)
def _openvino(config: EmbedderConfig, device: Device) -> TextEncoder:
    int8 = config.dtype == "int8"
    extra = "openvino-int8" if int8 else "openvino"
    # Torch is not imported: a model that was converted before does without.
    check_installed({"openvino": extra} | ({"nncf": extra} if int8 else {}) | _LOCAL)
    require("openvino", extra=extra)
    from langchain_gpu.engine.runtimes.openvino import OpenVINOEncoder

    return OpenVINOEncoder(
        _folder(config),
        device,
        dtype=config.dtype,
        options=config.options,
        task=config.task,
        calibration=config.calibration,
    )


@register("llama_cpp", scores=True)
def _llama_cpp(config: EmbedderConfig, device: Device) -> TextEncoder:
    require("xllamacpp", extra="llama-cpp")
    from langchain_gpu.engine.llama_cpp import LlamaCppEncoder
    from langchain_gpu.engine.llama_cpp_rerank import LlamaCppReranker

    kind = LlamaCppReranker if config.task == "score" else LlamaCppEncoder
    options = dict(config.options)
    if config.plan is not None and config.plan.max_batch_tokens is not None:
        options.setdefault("n_ctx", config.plan.max_batch_tokens)
    return kind(
        resolve(config.model, kind="gguf", **config.where).path,
        device,
        dtype=config.dtype,
        options=options,
        fallback=config.fallback,
        on_event=config.on_event,
    )


@register("onnx", scores=True)
def _onnx(config: EmbedderConfig, device: Device) -> TextEncoder:
    from langchain_gpu.engine.runtimes.no_telemetry import importing_without_telemetry

    extra = onnx_extra(device.kind)
    check_installed({"onnxruntime": extra, "onnx": extra} | _LOCAL)
    with importing_without_telemetry():
        require("onnxruntime", extra=extra)
    require("onnx", extra=extra)
    require_local()
    from langchain_gpu.engine.runtimes.onnx import OnnxEncoder

    return OnnxEncoder(
        _folder(config),
        device,
        dtype=config.dtype,
        options=config.options,
        fallback=config.fallback,
        on_event=config.on_event,
        calibration=config.calibration,
        max_tokens=config.max_batch_tokens,
        task=_task(config),
    )


def _auto_remote(config: EmbedderConfig, device: Device) -> tuple[TextEncoder, str]:
    _require_http()
    from langchain_gpu.servers.detect import detect

    form, reason = detect(config.server)
    return _FACTORIES[form](config, device), f"{form}: {reason}"


def _require_http() -> None:
    require("httpx", extra="remote")
    require("tenacity", extra="remote")


@register("openai", remote=True)
def _openai(config: EmbedderConfig, _: Device) -> TextEncoder:
    _require_http()
    from langchain_gpu.engine.remote.openai import OpenAIEncoder

    return OpenAIEncoder(config)


@register("ollama", remote=True)
def _ollama(config: EmbedderConfig, _: Device) -> TextEncoder:
    _require_http()
    from langchain_gpu.engine.remote.ollama import OllamaEncoder

    return OllamaEncoder(config)


@register("triton", remote=True)
def _triton(config: EmbedderConfig, _: Device) -> TextEncoder:
    require_triton()
    from langchain_gpu.engine.remote.triton import TritonEncoder

    return TritonEncoder(config)


def require_triton() -> None:
    """Raise ImportError, with the pip line, where the client of a Triton server is missing."""
    require("tritonclient", extra="triton")
    require("grpc", extra="triton")
    _require_http()
