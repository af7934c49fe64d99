"""What embedders and rerankers in GGUF files share: a model that llama.cpp has on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xllamacpp
from numpy.typing import NDArray

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.encoder import Tokenized
from langchain_gpu.events import Fallback, Listener, warn_fallback
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device
from langchain_gpu.llama.errors import ModelLoadError
from langchain_gpu.llama.gpus import gpus_of, position_of
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.llama.settings import LlamaSettings
from langchain_gpu.llama.shared import shared_server
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.info import HeaderError
from langchain_gpu.planner.arithmetic import rounded
from langchain_gpu.planner.gguf_encoder import WINDOW, slots_of

_OPTIONS = ("n_ctx", "n_gpu_layers", "n_parallel", "n_threads", "pooling")
_POOLINGS = (None, "mean", "cls", "last")


@dataclass(frozen=True, slots=True)
class LlamaRows:
    """What llama.cpp computes row by row.

    Attributes:
        rows: Token ids of texts, or pairs of texts.
        start: Position of the first item in the caller's sequence.
    """

    rows: list[Any]
    start: int


@dataclass(frozen=True, slots=True)
class LlamaBatch:
    """One batch.

    Attributes:
        rows: As those of `LlamaRows`.
        items: Position of each row's item in the caller's sequence.
    """

    rows: list[Any]
    items: list[int]


class LlamaCppModel(ABC):
    """A GGUF file on a device, and the part of `Encoder` and `TextEncoder` that any of them has.

    Args:
        path: The `.gguf` file.
        device: Where its layers go.
        dtype: `"auto"`: the file brings its own.
        options: `n_ctx`, the tokens of the longest text (2048, or the model's own window where
            that is smaller); `pooling` (`"mean"`, `"cls"`, `"last"`) where the file names none;
            `n_gpu_layers`, `n_parallel` and `n_threads` as llama.cpp means them.
        fallback: `"cpu"` goes on there with a warning where the device cannot be used.
        on_event: Told of that.

    Raises:
        DeviceNotFoundError: The device cannot be used and the policy is `"error"`.
        ModelLoadError: The file is missing, damaged, or does not fit into memory.
        ValueError: A dtype was asked for, or an option is unknown.
    """

    _pooling: ClassVar[str | None] = None  # that of the file, or of the options
    _what: ClassVar[str] = "embedding"

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
        fallback: Fallback = "cpu",
        on_event: Listener | None = None,
    ) -> None:
        chosen = dict(options or {})
        if dtype != "auto":
            raise ValueError(f"a GGUF file has its own dtype; choose another file, not {dtype}")
        if unknown := [name for name in chosen if name not in _OPTIONS]:
            raise ValueError(f"unknown options {', '.join(unknown)}; known: {', '.join(_OPTIONS)}")
        if chosen.get("pooling") not in _POOLINGS:
            raise ValueError(f"pooling {chosen['pooling']!r} is not one of mean, cls, last")
        self._path, self._options, self._fallback = path.resolve(), chosen, fallback
        self._on_event = on_event
        self._asked: int = chosen.get("n_ctx") or _window_of(self._path)
        self._server: LlamaServer | None = None
        self.to(device)
        self.dimension = self._look()

    @property
    def device(self) -> Device:
        """Where the layers are, with the reason."""
        return self._device

    @property
    def rules(self) -> BatchRules:
        """How batches are to be planned: llama.cpp packs the rows of a batch by itself."""
        return BatchRules(padded=False)

    @property
    def dtype(self) -> str:
        """What the file's weights are in, in llama.cpp's words, for example `"F16"`."""
        return str(self._open.facts.get("ftype", "gguf"))

    @property
    def window(self) -> int | None:
        """Tokens the model reads at most, special tokens included."""
        return self._window

    @property
    def prompts(self) -> Mapping[str, str]:
        """None: a GGUF file holds no prompts for embedders."""
        return {}

    @property
    def default_prompt_name(self) -> str | None:
        """None; see `prompts`."""
        return None

    @property
    def details(self) -> str:
        """See `TextEncoder.details`."""
        return ""

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> LlamaBatch:
        """See `Encoder.prepare`."""
        whole: LlamaRows = tokens.payload
        items = rows if tokens.owners is None else tokens.owners[rows]
        return LlamaBatch([whole.rows[row] for row in rows], (items + whole.start).tolist())

    def to(self, device: Device) -> None:
        """Load the file onto `device`, or onto the CPU where the policy allows.

        Raises:
            DeviceNotFoundError: The device cannot be used and the policy is `"error"`.
            ModelLoadError: The file does not fit into memory.
        """
        self._server = None  # never two models at once
        problem = self._start(device)
        if problem is None:
            return
        if self._fallback == "error":
            raise DeviceNotFoundError(f"{device} cannot be used and fallback='error': {problem}")
        warn_fallback(
            self._on_event, what=self._what, source=str(device), target="cpu", reason=problem
        )
        self._load(replace(select_device("cpu"), reason=problem))

    def close(self) -> None:
        """Let go of the weights; they are freed with the last encoder that uses them."""
        self._server = None

    @abstractmethod
    def _look(self) -> int:
        """Learn what the loaded model needs around its input; return the width of its rows."""

    def _start(self, device: Device) -> str | None:
        """Load onto a device; return what stands against it."""
        layers: int | None = self._options.get("n_gpu_layers")
        if device.kind == "cpu":
            if layers:
                return f"n_gpu_layers={layers}, but {device.reason}"
            self._load(device)
            return None
        gpus = gpus_of(xllamacpp.get_device_info())
        main_gpu = position_of(gpus, device.kind, device.index or 0)
        if main_gpu is None:
            return (
                "this build of xllamacpp does not see it; the README of xllamacpp names the builds "
                "for CUDA, ROCm and Vulkan"
            )
        try:
            self._load(device, -1 if layers is None else layers, main_gpu)
        except ModelLoadError as error:
            return str(error)
        return None

    def _load(self, device: Device, n_gpu_layers: int = 0, main_gpu: int = 0) -> None:
        slots = slots_of(device.kind)
        self._server = shared_server(
            LlamaSettings(
                path=self._path,
                n_ctx=rounded(self._asked),  # a text beyond its work space is fatal
                n_parallel=self._options.get("n_parallel") or slots,
                n_gpu_layers=n_gpu_layers,
                main_gpu=main_gpu,
                n_threads=self._options.get("n_threads"),
                cores=select_device("cpu").cores or 1,
                embedding=True,
                pooling=self._pooling or self._options.get("pooling"),
            )
        )
        self._device = replace(device, reason=f"{device.reason}; llama.cpp runs the model")

    @property
    def _window(self) -> int:
        return min(self._asked, self._open.n_ctx)

    @property
    def _open(self) -> LlamaServer:
        if self._server is None:
            raise RuntimeError("this encoder is closed")
        return self._server


def tokenized(
    rows: LlamaRows,
    lengths: Sequence[int] | NDArray[np.int64],
    owners: Sequence[int] | None = None,
    truncated: Sequence[int] = (),
) -> Tokenized:
    """Make rows ready for planning; see `Tokenized` for the arguments."""
    return Tokenized(
        np.asarray(lengths, np.int64),
        rows,
        None if owners is None else np.asarray(owners, np.int64),
        np.asarray(truncated, np.int64),
    )


def _window_of(path: Path) -> int:
    """Return the tokens that a text of this model may have, where nothing else is asked for."""
    try:
        said = read_info(path).context_length
    except HeaderError:  # what is wrong with the file is said when it is loaded
        return WINDOW
    return min(WINDOW, said or WINDOW)


__all__ = ["LlamaBatch", "LlamaCppModel", "LlamaRows", "tokenized"]
