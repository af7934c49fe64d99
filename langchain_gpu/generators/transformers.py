"""Safetensors models through Hugging Face transformers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria

from langchain_gpu.events import warn_fallback
from langchain_gpu.generators.base import (
    Completion,
    Delta,
    Deltas,
    Message,
    PromptTooLongError,
    Request,
    timed,
)
from langchain_gpu.generators.placing import place_model
from langchain_gpu.generators.pump import pulled
from langchain_gpu.generators.registry import Options, refuse
from langchain_gpu.generators.rows import Row
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.hardware.memory import is_out_of_memory, release

_BATCH = 8
_DTYPES = ("float32", "bfloat16", "float16")


class TransformersGenerator:
    """One model on one device. Calls take turns; the chats of one call share forwards.

    When memory runs out, the chats that are not finished are split into smaller batches and go on
    from the tokens they have; a single chat moves to the CPU with the model, if the policy allows.

    Args:
        path: Folder with config.json, tokenizer files and safetensors weights.
        options: `n_parallel` is 8 chats a batch unless given; `n_ctx` lowers the model's window.

    Raises:
        DeviceNotFoundError: The device is not here and `fallback="error"`.
        ValueError: Unknown dtype, an option of another engine, or a model without chat template.
    """

    def __init__(self, path: Path, options: Options) -> None:
        refuse(options, "transformers", "n_gpu_layers", "n_threads", "load")
        if options.dtype != "auto" and options.dtype not in _DTYPES:
            raise ValueError(f"dtype={options.dtype!r}: choose 'auto' or one of {_DTYPES}")
        self._options = options
        self._lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()  # encoding sets its padding: not for two at once
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        if not self._tokenizer.chat_template:
            raise ValueError(
                f"{path} has no chat template: it is a base model; take its instruction-tuned one"
            )
        self._device = place_model(options)
        self._model: Any = self._load(path)
        self._eos = _end_tokens(self._model, self._tokenizer)

    @property
    def device(self) -> Device:
        """Where it runs now, with the reason."""
        return self._device

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together."""
        config = self._open.config.get_text_config()
        own: int | None = getattr(config, "max_position_embeddings", None)
        known = [size for size in (own, self._options.n_ctx) if size]
        if not known:
            raise ValueError("the model names no window of its own: set n_ctx")
        return min(known)

    @property
    def max_batch(self) -> int:
        """Chats that share one forward."""
        return self._options.n_parallel or _BATCH

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer every request; those with the same sampling share forwards.

        Raises:
            PromptTooLongError: A prompt does not fit the window.
            TimeoutError: An answer was not complete in time.
        """
        rows = [self._row(request) for request in requests]
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault(_sampling_key(row.request), []).append(row)
        start = time.perf_counter()
        for group in groups.values():
            for first in range(0, len(group), self.max_batch):
                with self._lock:
                    self._advance(group[first : first + self.max_batch])
        return [row.completion(start) for row in rows]

    def stream(self, request: Request) -> Deltas:
        """Yield the answer piece by piece; closing the iterator stops the generation.

        Raises:
            PromptTooLongError: The prompt does not fit the window.
            TimeoutError: The answer was not complete in time.
        """
        row = self._row(request)

        def push(sink: Callable[[Delta], bool]) -> None:
            row.listener = lambda text: sink(Delta(text=text))
            with self._lock:
                if not row.tell(""):  # it may have waited long enough for nobody to listen any more
                    self._advance([row])
            if not row.canceled:
                sink(Delta(finish_reason=row.finish_reason, usage=row.usage))

        with closing(pulled(push, timeout=request.timeout)) as deltas:
            yield from timed(deltas)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens."""
        with self._tokenizer_lock:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def count_chat_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Tokens of the prompt that a chat becomes, template included."""
        return len(self._prompt(messages, tools))

    def close(self) -> None:
        """Free the model, after the chat that runs."""
        with self._lock:
            self._model = None
        release(self._device)

    @property
    def _open(self) -> Any:
        if self._model is None:
            raise RuntimeError("this generator is closed")
        return self._model

    def _load(self, path: Path) -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=self._dtype, use_safetensors=True
        ).eval()
        reason = ""
        try:
            return model.to(self._device.torch_name)
        except Exception as error:
            if not is_out_of_memory(error) or not self._may_fall_back:
                raise
            reason = str(error)
        release(self._device)
        return self._to_cpu(model, reason)

    def _to_cpu(self, model: Any, reason: str) -> Any:
        source, cpu = str(self._device), select_device("cpu")
        self._device = replace(cpu, reason=f"{source} ran out of memory: {reason}")
        warn_fallback(
            self._options.listener, what="chat", source=source, target="cpu", reason=reason
        )
        return model.to("cpu", dtype=self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        name = self._device.dtype if self._options.dtype == "auto" else self._options.dtype
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    @property
    def _may_fall_back(self) -> bool:
        return self._options.fallback == "cpu" and self._device.kind != "cpu"

    def _prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        with self._tokenizer_lock:
            encoded = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=True,
                return_dict=True,
            )
        ids: list[int] = encoded["input_ids"]
        return ids

    def _row(self, request: Request) -> Row:
        for name in ("tools", "response_format"):
            if getattr(request, name):
                raise NotImplementedError(
                    f"{name}: the transformers back end cannot hold a model to a format; a GGUF "
                    f"file of the model and backend='llama_cpp' can"
                )
        prompt = self._prompt(request.messages)
        room = self.context_length - len(prompt)
        if room < 1:
            raise PromptTooLongError(len(prompt), self.context_length)
        return Row(
            request,
            prompt,
            limit=min(room, request.max_tokens or room),
            ends=self._eos,
            decode=lambda ids: self._tokenizer.decode(ids, skip_special_tokens=True),
        )

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
        release(self._device)
        rows = [row for row in rows if not row.done]
        if len(rows) > 1:
            half = len(rows) // 2
            self._advance(rows[:half])
            self._advance(rows[half:])
        elif self._may_fall_back:
            self._model = self._to_cpu(self._open, str(problem))
            self._advance(rows)
        else:
            raise problem

    def _forward(self, rows: Sequence[Row]) -> None:
        """One `generate` over rows with the same sampling, from the tokens they have."""
        model, request = self._open, rows[0].request
        ids = [row.prompt + row.tokens for row in rows]
        width = max(len(row) for row in ids)
        pad = self._tokenizer.pad_token_id or 0
        # [rows, width], padded on the left: the next token stands at the same place in every row
        tokens = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        device = self._device.torch_name
        # Sampling draws from torch's global state, which is put back after a seeded call.
        gpus = [] if self._device.kind == "cpu" else [self._device.index or 0]
        fork = torch.random.fork_rng(gpus, enabled=request.seed is not None)
        with torch.inference_mode(), fork:
            if request.seed is not None:
                torch.manual_seed(request.seed)
            model.generate(
                input_ids=tokens.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=max(row.left for row in rows),
                pad_token_id=pad,
                stopping_criteria=[_Watch(rows)],
                **_sampling(request),
            )


class _Watch(StoppingCriteria):  # type: ignore[misc]  # transformers has no types
    """Hands every new token to its row, and ends the rows that are done."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.add(token)
        done = [row.done for row in self._rows]
        return torch.tensor(done, device=input_ids.device)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)


def _sampling_key(request: Request) -> Any:
    extra = repr(sorted(request.extra.items()))
    return request.temperature, request.top_p, request.seed, request.max_tokens, extra


def _sampling(request: Request) -> dict[str, Any]:
    """The request in the terms of `generate`; what is None is left to the model's own settings."""
    if request.temperature == 0:
        return {
            **request.extra,
            "do_sample": False,
            "temperature": None,
            "top_p": None,
            "top_k": None,
        }
    wanted = {"temperature": request.temperature, "top_p": request.top_p}
    given = {name: value for name, value in wanted.items() if value is not None}
    return {**request.extra, **({"do_sample": True} if given else {}), **given}


__all__ = ["TransformersGenerator"]
