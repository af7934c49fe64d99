"""One transformers model in memory, and batches that are split when memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from langchain_gpu.events import BudgetChanged, emit, warn_fallback
from langchain_gpu.generators import hf_load
from langchain_gpu.generators.collector import Collector
from langchain_gpu.generators.hf_forward import forward
from langchain_gpu.generators.hf_placement import device_map, is_parted, plan_model
from langchain_gpu.generators.options import Options
from langchain_gpu.generators.rows import Row
from langchain_gpu.generators.token_budget import TokenBudget
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release
from langchain_gpu.planner import ComponentPlan
from langchain_gpu.planner.drive import check_taken
from langchain_gpu.torch_models.host_table import keep_on_cpu
from langchain_gpu.torch_models.move import move_model


class HFModel:
    """Weights and tokenizer, shared by every generator that asks for the same.

    When memory runs out, the rows that are not finished are split into smaller batches and go on
    from the tokens they have, and later batches stay that small until enough of them have gone
    well; a single row moves to the CPU with the model, if the policy allows.

    Args:
        path: Folder with safetensors, or a `.gguf` file.
        device: Where it goes.
        most: Rows of one batch.
        options: Data type, fallback policy, and what is handed on to `from_pretrained`.
    """

    def __init__(self, path: Path, device: Device, most: int, options: Options) -> None:
        self._options = options
        self._lock = threading.RLock()  # a collected generator frees from any thread
        self._places_itself = hf_load.places_itself(options.load)
        self.tokenizer_lock = threading.Lock()  # encoding sets its padding: not for two at once
        self.tokenizer = hf_load.load_tokenizer(path, options.load)
        self.device = self._asked = device
        self.model: Any = self._load(path)
        self.ends = _end_tokens(self.model, self.tokenizer)
        self.rows = Collector(self._generate, most)
        self._budget = TokenBudget()

    @property
    def window(self) -> int | None:
        """The model's own window in tokens, if its configuration names one."""
        config = self._open.config.get_text_config()
        window: int | None = getattr(config, "max_position_embeddings", None)
        return window

    @property
    def vocabulary(self) -> int:
        """Width of the model's scores."""
        size: int = self._open.config.get_text_config().vocab_size
        return size

    @property
    def generation_config(self) -> Any:
        """What the model's makers sample with."""
        return self._open.generation_config

    def free(self) -> None:
        """Free the memory, after the batch that runs."""
        with self._lock:
            self.model = None
        self._release()

    @property
    def _open(self) -> Any:
        if self.model is None:
            raise RuntimeError("this generator is closed")
        return self.model

    def _load(self, path: Path) -> Any:
        load = dict(self._options.load)
        planned = None
        if not self._places_itself:
            dtype = str(self._dtype).removeprefix("torch.")
            planned = plan_model(path, self.device, dtype, self._options)
        if planned is not None and is_parted(planned):
            load["device_map"] = device_map(path, planned)
            self._places_itself = True
            self._tell(planned)
        before = free_memory(self.device)
        model = hf_load.load_model(path, self._dtype, load)
        if self._places_itself or getattr(model, "is_quantized", False):
            self.device = _where(model, self.device)
            return model
        if planned is not None and planned.decision == "cpu" and self.device.kind != "cpu":
            return self._to_cpu(model, planned.reason)
        problem: Exception | None = None
        try:
            if planned is not None and planned.embedding_on_cpu and planned.decision == "partial":
                keep_on_cpu(model)
                self._tell(planned)
            model = model.to(self.device.torch_name)
        except Exception as error:
            if not is_out_of_memory(error) or not self._may_fall_back:
                raise
            problem = error.with_traceback(None)
        if problem is None:
            self._check(planned, before)
            return model
        release(self.device)
        return self._to_cpu(model, str(problem))

    def _tell(self, planned: ComponentPlan) -> None:
        """Warn that a part of the model is not on the device that was asked for."""
        if planned.decision == "partial":
            warn_fallback(
                self._options.listener,
                what=f"a part of {planned.model}",
                source=str(self.device),
                target="cpu",
                reason=planned.reason,
            )

    def _check(self, planned: ComponentPlan | None, before: int | None) -> None:
        if planned is None or self.device.kind == "cpu":
            return
        after = free_memory(self.device)
        check_taken(planned, str(self.device), before, after, self._options.listener)

    def _to_cpu(self, model: Any, reason: str) -> Any:
        source, cpu = self.device, select_device("cpu")
        self.device = replace(cpu, reason=f"not on {source}: {reason}")
        warn_fallback(
            self._options.listener, what="chat", source=str(source), target="cpu", reason=reason
        )
        if model.dtype != self._dtype:  # else whatever transformers keeps in float32 stays so
            move_model(model, "cpu", self._dtype)
        moved = model.to("cpu")
        release(source)  # the weights have left it: nobody else gives their memory back
        return moved

    @property
    def _dtype(self) -> torch.dtype:
        name, planned = self._options.dtype, self._options.plan
        if name == "auto":
            name = (planned and planned.dtype) or self.device.dtype
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    @property
    def _may_fall_back(self) -> bool:
        fixed = self._places_itself or getattr(self.model, "is_quantized", False)
        return self._options.fallback == "cpu" and self.device.kind != "cpu" and not fixed

    def _generate(self, rows: Sequence[Row]) -> None:
        with self._lock:
            self._advance(rows)

    def _advance(self, rows: Sequence[Row]) -> None:
        """Generate until every row is finished, in smaller batches or on the CPU if necessary.

        Returns earlier where waiting rows should join.
        """
        problem: Exception | None = None
        try:
            pad = self.tokenizer.pad_token_id or 0
            load = self._options.load
            forward(self._open, rows, pad=pad, load=load, crowded=self.rows.crowded)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = error.with_traceback(None)  # it would hold the tensors that must go
        if problem is None:
            old = self._budget.finished(*_size(rows))
            if old is not None:
                self._bound(old)
            return
        self._release()
        rows = [row for row in rows if not row.done]
        if len(rows) > 1:
            self._bound(self._budget.failed(*_size(rows)))
            half = len(rows) // 2
            self._advance(rows[:half])
            self._advance(rows[half:])
        elif rows and self._may_fall_back:
            self.model = self._to_cpu(self._open, str(problem))
            self._budget.forget()
            self.rows.budget = None
            self._advance(rows)
        elif rows:
            raise problem

    def _release(self) -> None:
        """Give memory back, wherever parts of the model lie."""
        release(self.device)
        if self.device.kind != self._asked.kind:
            release(self._asked)  # a model whose first weights are on the CPU is said to be there

    def _bound(self, old: int) -> None:
        """Bound later batches by the token budget, and report the change."""
        self.rows.budget = self._budget.tokens
        if self.rows.budget is not None:
            changed = BudgetChanged(
                device=str(self.device), old_tokens=old, new_tokens=self.rows.budget
            )
            emit(self._options.listener, changed)


def _size(rows: Sequence[Row]) -> tuple[int, int]:
    """Return how many rows these are, and the longest that one of them may become."""
    return len(rows), max(row.need for row in rows)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)


def _where(model: Any, planned: Device) -> Device:
    """Return where transformers has put a model, with what it says as the reason."""
    spread = getattr(model, "hf_device_map", None)
    kind = "cpu" if model.device.type == "cpu" else planned.kind
    if kind == planned.kind and not spread:
        return planned
    reason = f"transformers placed it: {spread or model.device}"
    return replace(planned if kind != "cpu" else select_device("cpu"), reason=reason)


__all__ = ["HFModel"]
