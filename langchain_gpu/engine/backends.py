"""Which library runs an embedder: one decorated factory per back end, with its import inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from langchain_gpu._extras import require
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
) -> TextEncoder:
    """Build an encoder with the back end called `name`; `"auto"` is torch.

    Raises:
        ValueError: There is no such back end.
        ImportError: Its extra is not installed.
    """
    chosen = "torch" if name == "auto" else name
    if chosen not in _FACTORIES:
        known = ", ".join(["auto", *sorted(_FACTORIES)])
        raise ValueError(f"unknown backend {name!r} for embeddings; known: {known}")
    return _FACTORIES[chosen](path, device, dtype, options)


@register("torch")
def _torch(path: Path, device: Device, dtype: str, options: Mapping[str, Any]) -> TextEncoder:
    require("torch", extra="local")
    require("sentence_transformers", extra="local")
    from langchain_gpu.engine.runtimes.torch import TorchEncoder

    return TorchEncoder(path, device, dtype=dtype, options=options)
