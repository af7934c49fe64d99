"""What torch allocates for a model: its tensors, its cache, and its peak."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel, AutoModelForCausalLM

from langchain_gpu.hardware.cpu import process_memory
from langchain_gpu.models.resolve import resolve
from langchain_gpu.planner import Chat, ComponentPlan, Encoder
from langchain_gpu.torch_models.progress_bars import no_bars
from langchain_gpu.verify.measured import Measured, compare

_HOW = "bytes of torch's storages: weights, cache, and the peak of all others during one forward"


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's has no types
    """Adds up the storages that operations make while it is active, on any device.

    Attributes:
        peak: The most bytes that lived at the same time; storages that were there before it began
            do not count.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._known = {_key(each) for each in known}
        self._alive: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note what it made."""
        made = func(*args, **(kwargs or {}))
        self._alive = {
            key: (ref, count) for key, (ref, count) in self._alive.items() if not ref.expired()
        }
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                key, storage = _key(leaf), leaf.untyped_storage()
                if key not in self._known and key not in self._alive:
                    ref = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self._alive[key] = (ref, storage.nbytes())
        self.peak = max(self.peak, sum(count for _, count in self._alive.values()))
        return made


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the storages behind `tensors`, each counted once."""
    found = {_key(each): each.untyped_storage().nbytes() for each in tensors}
    return sum(found.values())


def measure_encoder(encoder: Encoder, planned: ComponentPlan) -> Measured:
    """Load an encoder in the planned dtype and run one batch of the planned size.

    Raises:
        ModelNotFoundError: Its files are not here.
        ValueError: Its weights would be packed.
    """
    path = resolve(encoder.info.name, local_files_only=True).path
    before = process_memory()
    place, dtype = _place(planned), _dtype(planned)
    # Its pooler has no part in a vector, and is not loaded by sentence-transformers either.
    with no_bars():
        model = AutoModel.from_pretrained(path, dtype=dtype, use_safetensors=True)
    model = model.to(place).eval()
    window = encoder.info.context_length or encoder.max_length
    width = min(encoder.max_length, window, planned.max_batch_tokens or encoder.max_length)
    rows = max(1, (planned.max_batch_tokens or width) // width)
    measured = {"weights": storage_bytes(_parts(model))}
    ids = torch.ones((rows, width), dtype=torch.long, device=place)
    with torch.no_grad(), Tracker(_parts(model)) as tracker:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    measured["activations"] = tracker.peak
    return compare(planned, measured, how=_HOW, rss=process_memory() - before)


def measure_chat(chat: Chat, planned: ComponentPlan) -> Measured:
    """Load a model of transformers and have it read prompts that fill the planned context.

    Raises:
        ModelNotFoundError: Its files are not here.
        ValueError: Its weights would be packed.
    """
    path = resolve(chat.info.name, local_files_only=True).path
    before = process_memory()
    place, dtype = _place(planned), _dtype(planned)
    with no_bars():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
    model = model.to(place).eval()
    ids = torch.ones((chat.sequences, planned.context or 1), dtype=torch.long, device=place)
    with torch.no_grad(), Tracker(_parts(model)) as tracker:
        answer = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    cache = storage_bytes(
        tensor
        for layer in answer.past_key_values.layers
        for tensor in (layer.keys, layer.values)
        if tensor is not None
    )
    measured = {
        "weights": storage_bytes(_parts(model)),
        "kv_cache": cache,
        "activations": max(0, tracker.peak - cache),
    }
    return compare(planned, measured, how=_HOW, rss=process_memory() - before)


def _key(tensor: torch.Tensor) -> int:
    """Tell storages apart; two tensors may share one."""
    key: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - how torch's own tools do it
    return key


def _parts(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _place(planned: ComponentPlan) -> str:
    device = planned.shares[0].device
    return device.replace("rocm", "cuda")


def _dtype(planned: ComponentPlan) -> torch.dtype:
    dtype = getattr(torch, planned.dtype or "", None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"{planned.name}: {planned.dtype} is not measured here, only what torch loads as it "
            f"is: use float32, bfloat16 or float16"
        )
    return dtype


__all__ = ["Tracker", "measure_chat", "measure_encoder", "storage_bytes"]
