"""Embedders on torch, on any device torch supports."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from langchain_gpu.engine.batching import PADDED, BatchRules
from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors
from langchain_gpu.engine.runtimes.attention import (
    NotPackableError,
    is_too_old,
    kernel_for,
    why_no_kernel,
)
from langchain_gpu.engine.runtimes.buckets import Filled, view
from langchain_gpu.engine.runtimes.cuda_graphs import CudaRecorder
from langchain_gpu.engine.runtimes.graphs import LARGEST_HIDDEN, Graphs
from langchain_gpu.engine.runtimes.modules import DTYPES, ModulesEncoder
from langchain_gpu.engine.runtimes.packed import PackedBatch, Packer, positions_of, prove
from langchain_gpu.engine.runtimes.tasks import EMBED, Task
from langchain_gpu.engine.runtimes.transfers import copy_to_host, pinned
from langchain_gpu.engine.tasks.embed import TextTokenizer
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.torch_models.host_table import keep_on_cpu
from langchain_gpu.torch_models.move import move_model

logger = logging.getLogger(__name__)

_ONE = np.zeros(1, np.int64)
_ATTENTIONS = ("auto", "packed", "padded")
_SAFE = 512  # tokens of a row where a model does not say how many it takes
_IN_FLIGHT = 2  # while the card computes one batch, the next is copied and launched


class TorchEncoder(ModulesEncoder):
    """A sentence-transformers model behind the engine's contract; see `ModulesEncoder`.

    On NVIDIA and AMD cards in half precision, rows lie end to end and nothing is padded, if the
    model is proven to compute the same that way; elsewhere rows are padded to the longest.

    Args:
        path: Folder of the model.
        device: Where to run.
        dtype: `"float32" | "bfloat16" | "float16"`, or `"auto"` for the device's own.
        options: More arguments of `SentenceTransformer`, and three of our own. `attention`:
            `"auto"`, `"padded"`, or `"packed"` to have rows end to end on any device, slowly where
            no kernel takes them. `cuda_graphs`: False to launch every kernel each time.
            `embedding_device`: `"cpu"` keeps the table of token embeddings there.

    Attributes:
        attention: How batches are laid out on the device it runs on now, and why.

    Raises:
        ValueError: `dtype`, `attention` or `embedding_device` is not one of those above, or the
            model cannot be `"packed"`, or has no table that could stay behind.
    """

    attention: str
    _graphs: Graphs | None

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
        task: Task = EMBED,
    ) -> None:
        own = dict(options or {})
        wanted = own.pop("attention", "auto")
        if wanted not in _ATTENTIONS:
            raise ValueError(f"attention {wanted!r} is not one of {', '.join(_ATTENTIONS)}")
        self._may_record = bool(own.pop("cuda_graphs", True))
        table_at = own.pop("embedding_device", None)
        if table_at not in {None, "cpu"}:
            raise ValueError(f"embedding_device {table_at!r} is not 'cpu'")
        # As transformers would have it: the buffers a model makes depend on the dtype of loading.
        loaded = device.dtype if dtype == "auto" else dtype
        own["model_kwargs"] = {**own.get("model_kwargs", {}), "dtype": loaded}
        super().__init__(path, device, dtype=dtype, options=own, task=task)
        if device.kind == "cpu" and device.cores and torch.get_num_threads() > device.cores:
            # In a container torch counts the machine's cores; threads above the quota only wait.
            torch.set_num_threads(device.cores)
        self._asked = (wanted, device)
        self._table = keep_on_cpu(self._model[0].model) if table_at else None
        self._packer, self._unpackable = self._packing()
        self.to(device)
        self.dimension = self._dimension()

    @property
    def rules(self) -> BatchRules:
        """How batches are to be planned on the device it runs on now."""
        if not self._on_card:
            return PADDED if not self._packed else BatchRules(padded=False)
        return BatchRules(padded=not self._packed, in_flight=_IN_FLIGHT)

    @property
    def graphs(self) -> str:
        """Whether batches are repeated as CUDA graphs, or why not."""
        return str(self._graphs or self._no_graphs())

    @property
    def details(self) -> str:
        """How batches are laid out, and whether they are repeated as graphs."""
        if not self._on_card:
            return ""
        table = ", embedding table on the CPU" if self._table is not None else ""
        return f"{self.attention}, {self.graphs}{table}"

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> Any:
        """See `Encoder.prepare`. Pinned for a copy that does not wait, where the device is CUDA."""
        pin = pinned if self._on_card else dict
        graphs = self._graphs
        if not self._packed or self._packer is None:
            return pin(super().prepare(tokens, rows))
        batch = self._pack(tokens, rows)
        filled = batch if graphs is None else graphs.prepare(batch)
        if isinstance(filled, Filled):
            return view(filled.bucket, batch, pin(filled.features))
        return batch.with_features(pin(batch.features))

    @torch.inference_mode()
    def forward(self, features: Any) -> Pending:
        """See `Encoder.forward`."""
        try:
            vectors = self._rows_of(features)
            return copy_to_host(vectors, self._device.torch_name)
        except Exception as error:
            if self._graphs is not None and is_out_of_memory(error):
                self._graphs.clear()  # what was recorded keeps its memory; the batch comes first
            raise

    def to(self, device: Device) -> None:
        """Move the model; with `dtype="auto"` it computes in what the new device prefers.

        Weights that were rounded to half precision stay rounded where that is float32: the
        cosine to vectors of the whole weights is about 0.9999. Positions are exact everywhere.
        """
        self._device, self._graphs = device, None
        move_model(self._model, device.torch_name, DTYPES[self.dtype])
        self._packed, self.attention = self._layout()
        if not self._no_graphs():
            pad_id = int(self._model[0].tokenizer.pad_token_id or 0)
            self._graphs = Graphs(self._compute_packed, CudaRecorder(device.torch_name), pad_id)

    def close(self) -> None:
        """Drop the weights; the encoder cannot be used after that."""
        self._model = self._tokenizer = self._packer = self._graphs = self._table = None

    def peak_bytes(self, tokens: int) -> int | None:
        """Run one batch of about `tokens` in the longest rows; return the bytes it took meanwhile.

        None where torch keeps no such statistic, or the model takes no token ids. Raises what torch
        raises when memory runs out.
        """
        api: Any = {"cuda": torch.cuda, "rocm": torch.cuda, "xpu": torch.xpu}.get(self._device.kind)
        if api is None or not isinstance(self._tokenizer, TextTokenizer):
            return None
        width = min(self._longest, tokens)
        filled = self._rows([width] * max(1, tokens // width))
        features = self.prepare(filled, np.arange(len(filled.lengths)))
        name = self._device.torch_name
        api.synchronize(name)
        before: int = api.memory_allocated(name)
        api.reset_peak_memory_stats(name)
        self.forward(features)()
        peak: int = api.max_memory_allocated(name)
        return max(0, peak - before)

    @property
    def _on_card(self) -> bool:
        return self._device.torch_name.startswith("cuda")

    @property
    def _longest(self) -> int:
        """Tokens of the longest row that is safe to try."""
        limits = [self.window, positions_of(self._model[0].model)]
        return min((limit for limit in limits if limit is not None), default=_SAFE)

    def _pack(self, tokens: Tokenized, rows: NDArray[np.int64]) -> PackedBatch:
        assert self._packer is not None  # noqa: S101 - the callers have looked
        batch = self._packer.pack(tokens, rows)
        if (length := self._prompt_length(tokens.payload.prompt)) is not None:
            batch.features["prompt_length"] = length
        return batch

    def _rows_of(self, batch: Any) -> torch.Tensor:
        """Return vectors of the shape [rows, dimension], float32, on the device."""
        if not isinstance(batch, PackedBatch | Filled):
            return self._compute(batch, packed=False)
        packed = batch.batch if isinstance(batch, Filled) else batch
        if isinstance(batch, Filled) and self._graphs is not None:
            vectors = self._graphs(batch)
        else:
            vectors = self._compute_packed(packed.features)
        if len(packed.empty):
            vectors[torch.from_numpy(packed.empty)] = 0
        return vectors

    def _compute_packed(self, features: dict[str, Any]) -> torch.Tensor:
        return self._compute(features, packed=True)

    def _no_graphs(self) -> str:
        if not self._may_record:
            return "off: asked for"
        if self._table is not None:
            return "off: the embedding table is on the CPU"
        if self._device.kind != "cuda" or not self._packed:
            return "off: they are for packed batches on NVIDIA cards"
        width = getattr(self._model[0].model.config, "hidden_size", None)
        if width is None or width > LARGEST_HIDDEN:
            return f"off: the model is {width} wide, and they pay up to {LARGEST_HIDDEN}"
        return ""

    def _compute(self, features: dict[str, Any], *, packed: bool) -> torch.Tensor:
        if self._packer is not None:
            self._packer.switch(packed=packed)
        name = self._device.torch_name
        moved = {
            key: value.to(name, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in features.items()
        }
        kwargs = {"task": moved["task"]} if "task" in moved else {}
        vectors: torch.Tensor = self._model(moved, **kwargs)[self._task.output].float()
        if self._unit and self.dtype != "float32":
            # The model's own last step, repeated where half precision rounded its result.
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors

    def _packing(self) -> tuple[Packer | None, str]:
        """Return what packs rows for this model, or why there is nothing."""
        if self._task is not EMBED:  # pairs have types and another head
            return None, f"{self._task.work} takes padded pairs"
        if not isinstance(self._tokenizer, TextTokenizer):
            return None, "the model prepares its texts in its own way"
        try:
            return Packer(self._model[0]), ""
        except NotPackableError as error:
            return None, str(error)

    def _layout(self) -> tuple[bool, str]:
        """Decide whether rows lie end to end on this device, and say why."""
        asked, there = self._asked
        wanted = asked if asked != "packed" or self._device == there else "auto"
        if wanted == "padded":
            return False, "padded: asked for"
        kernel = kernel_for(torch.device(self._device.torch_name).type, DTYPES[self.dtype])
        if wanted == "auto" and (kernel is None or is_too_old(self._device)):
            return False, f"padded: {why_no_kernel(self._device, DTYPES[self.dtype])}"
        why = self._unpackable or self._prove()
        if why and wanted == "packed":
            raise ValueError(f"attention='packed' is not possible here: {why}")
        if why:
            level = logging.INFO if self._unpackable else logging.WARNING  # known, or a surprise
            logger.log(level, "batches are padded: %s", why)
            return False, f"padded: {why}"
        return True, f"packed ({kernel.name if kernel else 'row by row'})"

    def _prove(self) -> str | None:
        def run(features: dict[str, Any], *, packed: bool) -> Vectors:
            with torch.inference_mode():
                vectors: Vectors = self._compute(features, packed=packed).cpu().numpy()
            return vectors

        assert self._packer is not None  # noqa: S101 - else it is known to be impossible
        return prove(
            lambda tokens, rows: run(ModulesEncoder.prepare(self, tokens, rows), packed=False),
            lambda tokens, rows: run(self._pack(tokens, rows).features, packed=True),
            self._rows,
            longest=self._longest,
            dtype=self.dtype,
        )

    def _rows(self, lengths: list[int]) -> Tokenized:
        """Return rows of these lengths, filled with tokens of a sentence."""
        sentence = self.tokenize(
            ["The quick brown fox jumps over the lazy dog."], self._task.options
        )
        ids = sentence.payload.ids.tolist() or [0]
        return self.from_ids([(ids * length)[:length] for length in lengths])

    def _dimension(self) -> int:
        known = getattr(self._model, "get_embedding_dimension", None)
        width = known() if known is not None else None
        if width is None:  # a list of modules that does not say: ask it
            items = list(self._task.example[:1])
            probe = self.prepare(self.tokenize(items, self._task.options), _ONE)
            width = self.forward(probe)().shape[1]
        return int(width)
