"""One model of transformers in memory: batches of rows through it, whatever the memory allows."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from langchain_gpu._host_table import keep_on_cpu
from langchain_gpu.events import BudgetChanged, emit, warn_fallback
from langchain_gpu.generators import hf_load
from langchain_gpu.generators.collector import Collector
from langchain_gpu.generators.hf_place import device_map, is_parted, plan_model
from langchain_gpu.generators.registry import Options
from langchain_gpu.generators.rows import Row
from langchain_gpu.generators.sampling import Chooser
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release
from langchain_gpu.planner import ComponentPlan
from langchain_gpu.planner.drive import check_taken


class HFModel:
    """Weights and tokenizer, shared by every generator that asks for the same.

    When memory runs out, the rows that are not finished are split into smaller batches and go on
    from the tokens they have, and later batches stay that small; a single row moves to the CPU with
    the model, if the policy allows.

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
        self.device = device
        self.model: Any = self._load(path)
        self.ends = _end_tokens(self.model, self.tokenizer)
        self.rows = Collector(self._generate, most)

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
        release(self.device)

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
                keep_on_cpu(model).set_dtype(self._dtype)
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
        """Say that a part of the model is not where the whole was asked for."""
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
        taken = None if before is None or after is None else before - after
        check_taken(planned, str(self.device), taken, self._options.listener)

    def _to_cpu(self, model: Any, reason: str) -> Any:
        source, cpu = str(self.device), select_device("cpu")
        self.device = replace(cpu, reason=f"{source} ran out of memory: {reason}")
        warn_fallback(
            self._options.listener, what="chat", source=source, target="cpu", reason=reason
        )
        return model.to("cpu", dtype=self._dtype)

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
        """Generate until every row is finished, in smaller batches or on the CPU if need be."""
        problem: Exception | None = None
        try:
            self._forward(rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = error.with_traceback(None)  # it would hold the tensors that must go
        if problem is None:
            return
        release(self.device)
        rows = [row for row in rows if not row.done]
        if len(rows) > 1:
            self._remember(rows)
            half = len(rows) // 2
            self._advance(rows[:half])
            self._advance(rows[half:])
        elif rows and self._may_fall_back:
            self.model = self._to_cpu(self._open, str(problem))
            self.rows.budget = None
            self._advance(rows)
        elif rows:
            raise problem

    def _remember(self, rows: Sequence[Row]) -> None:
        """Let no later batch become more than the larger half of this one, which was too much."""
        longest = max(row.need for row in rows)
        failed, half = len(rows) * longest, (len(rows) + 1) // 2 * longest
        old = failed if self.rows.budget is None else min(self.rows.budget, failed)
        self.rows.budget = min(old, half)
        emit(
            self._options.listener,
            BudgetChanged(device=str(self.device), old_tokens=old, new_tokens=self.rows.budget),
        )

    def _forward(self, rows: Sequence[Row]) -> None:
        """One `generate` over all rows, from the tokens they have."""
        model = self._open
        ids = [row.prompt + row.tokens for row in rows]
        width = max(len(row) for row in ids)
        pad = self.tokenizer.pad_token_id or 0
        # [rows, width], padded on the left: the next token stands at the same place in every row
        tokens = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        with torch.inference_mode():
            model.generate(
                input_ids=tokens.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max(row.left for row in rows),
                pad_token_id=pad,
                logits_processor=LogitsProcessorList([Chooser(rows)]),
                stopping_criteria=StoppingCriteriaList([_Watch(rows)]),
                **_PLAIN,
                **self._cache,
            )

    @property
    def _cache(self) -> dict[str, Any]:
        """A cache of fixed size lets `generate` compile the model's steps; only where asked for."""
        load = self._options.load
        kind = load.get("cache_implementation") or ("static" if load.get("compile") else None)
        named = {"cache_implementation": kind} if kind else {}
        return named if load.get("compile") else {**named, "disable_compile": True}


# Rows choose for themselves (see `sampling`): `generate` takes the largest score and adds nothing.
_PLAIN: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "eos_token_id": None,
    "stop_strings": None,
    **dict.fromkeys(
        (
            *("temperature", "top_k", "top_p", "min_p", "typical_p"),
            *("epsilon_cutoff", "eta_cutoff", "repetition_penalty", "no_repeat_ngram_size"),
            *("bad_words_ids", "min_new_tokens", "min_length", "suppress_tokens"),
        )
    ),
}


class _Watch(StoppingCriteria):  # type: ignore[misc]  # transformers has no types
    """Hands every new token to its row, and ends the rows that are done."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if not row.done:
                row.add(token, row.rules.took(token))
        done = [row.done for row in self._rows]
        return torch.tensor(done, device=input_ids.device)


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


@dataclass(eq=False)
class _Shared:
    model: HFModel
    users: int = 0


_models: dict[Hashable, _Shared] = {}
_models_lock = threading.RLock()


def shared_model(
    owner: object, path: Path, device: Device, most: int, options: Options
) -> tuple[HFModel, Callable[[], object]]:
    """Return the model with these settings that is already here, or load it.

    It is freed when the last of its owners has called what is returned beside it, or is gone.
    """
    load = repr(sorted(options.load.items()))
    key = (path.resolve(), str(device), options.dtype, options.fallback, most, load, options.plan)
    with _models_lock:
        shared = _models.get(key)
        if shared is None:
            shared = _models[key] = _Shared(HFModel(path, device, most, options))
        shared.users += 1
    let_go = weakref.finalize(owner, _let_go, key, shared)
    let_go.atexit = False
    return shared.model, let_go


def _let_go(key: Hashable, shared: _Shared) -> None:
    with _models_lock:
        shared.users -= 1
        last = shared.users == 0
        if last:
            del _models[key]
    if last:
        shared.model.free()


__all__ = ["HFModel", "shared_model"]
