"""Embedders on torch, on any device torch knows: the forward is the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors, done
from langchain_gpu.engine.runtimes.modules import DTYPES, ModulesEncoder
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.hardware.devices import Device

_ONE = np.zeros(1, np.int64)


class TorchEncoder(ModulesEncoder):
    """A sentence-transformers model behind the engine's contract; see `ModulesEncoder`."""

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(path, device, dtype=dtype, options=options)
        if device.kind == "cpu" and device.cores and torch.get_num_threads() > device.cores:
            # In a container torch counts the machine's cores; threads above the quota only wait.
            torch.set_num_threads(device.cores)
        self.to(device)
        self.dimension = self._dimension()

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> dict[str, Any]:
        """See `Encoder.prepare`. Pinned for a copy that does not wait, where the device is CUDA."""
        features = super().prepare(tokens, rows)
        if not self._device.torch_name.startswith("cuda"):
            return features
        return {
            name: value.pin_memory() if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }

    @torch.inference_mode()
    def forward(self, features: dict[str, Any]) -> Pending:
        """See `Encoder.forward`."""
        name = self._device.torch_name
        moved = {
            key: value.to(name, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in features.items()
        }
        kwargs = {"task": moved["task"]} if "task" in moved else {}
        vectors = self._model(moved, **kwargs)["sentence_embedding"].float()
        if self._unit and self.dtype != "float32":
            # The model's own last step, repeated where half precision rounded its result.
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        result: Vectors = vectors.cpu().numpy()
        return done(result)

    def to(self, device: Device) -> None:
        """Move the model; with `dtype="auto"` it computes in what the new device prefers."""
        self._device = device
        self._model.to(device=device.torch_name, dtype=DTYPES[self.dtype])

    def close(self) -> None:
        """Drop the weights; the encoder cannot be used after that."""
        self._model = self._tokenizer = None

    def _dimension(self) -> int:
        width = self._model.get_embedding_dimension()
        if width is None:  # a list of modules that does not say: ask it
            probe = self.prepare(self.tokenize(["a"], EmbedOptions()), _ONE)
            width = self.forward(probe)().shape[1]
        return int(width)
