"""Which library runs an embedder: one decorated factory per back end, with its import inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from langchain_gpu._extras import install_line, is_installed, require
from langchain_gpu.engine.encoder import Encoder
from langchain_gpu.hardware.devices import Device


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

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""


class NotConvertibleError(ValueError):
    """A back end cannot run this model, or not the way the original does."""


Factory = Callable[[Path, Device, str, Mapping[str, Any]], TextEncoder]
_FACTORIES: dict[str, Factory] = {}


def register(name: str) -> Callable[[Factory], Factory]:
    """Make a factory known as `backend=name`.

    A factory takes the model's folder, the device, the dtype (or `"auto"`) and the options of its
    library, and returns the encoder on that device.
    """

    def add(factory: Factory) -> Factory:
        _FACTORIES[name] = factory
        return factory

    return add


def create(
    name: str, path: Path, device: Device, dtype: str, options: Mapping[str, Any]
) -> tuple[TextEncoder, str]:
    """Build an encoder with the back end called `name`, and say why it is that one.

    `"auto"` takes OpenVINO on a CPU where it is installed and can run the model, else torch.

    Raises:
        ValueError: There is no such back end, or it cannot run the model.
        ImportError: Its extra is not installed.
    """
    if name == "auto":
        return _auto(path, device, dtype, options)
    if name not in _FACTORIES:
        known = ", ".join(["auto", *sorted(_FACTORIES)])
        raise ValueError(f"unknown backend {name!r} for embeddings; known: {known}")
    return _FACTORIES[name](path, device, dtype, options), f"{name}: asked for"


def _auto(
    path: Path, device: Device, dtype: str, options: Mapping[str, Any]
) -> tuple[TextEncoder, str]:
    reason = "it runs on every device"
    if device.kind == "cpu":
        half = (device.dtype if dtype == "auto" else dtype) == "float16"
        if not is_installed("openvino"):
            reason = f"openvino, faster on a CPU, is not installed ({install_line('openvino')})"
        elif half:
            reason = "openvino does not compute in float16 on a CPU"
        else:
            try:
                encoder = _openvino(path, device, dtype, options)
            except NotConvertibleError as error:
                reason = f"openvino does not take the model: {error}"
            else:
                return encoder, "openvino: the fastest on a CPU, and installed"
    return _torch(path, device, dtype, options), f"torch: {reason}"


@register("torch")
def _torch(path: Path, device: Device, dtype: str, options: Mapping[str, Any]) -> TextEncoder:
    require("torch", extra="local")
    require("sentence_transformers", extra="local")
    from langchain_gpu.engine.runtimes.torch import TorchEncoder

    return TorchEncoder(path, device, dtype=dtype, options=options)


@register("openvino")
def _openvino(path: Path, device: Device, dtype: str, options: Mapping[str, Any]) -> TextEncoder:
    require("openvino", extra="openvino")
    require("torch", extra="local")
    require("sentence_transformers", extra="local")
    from langchain_gpu.engine.runtimes.openvino import OpenVINOEncoder

    return OpenVINOEncoder(path, device, dtype=dtype, options=options)
