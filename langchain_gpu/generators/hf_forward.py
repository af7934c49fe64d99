"""One call of transformers' `generate` for a batch whose rows sample their own tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from langchain_gpu.generators.rows import Row
from langchain_gpu.generators.sampling import Chooser

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
# A batch is interrupted for waiting chats, and its tokens are prefilled again together with theirs,
# once it has run this many times as long as that prefill takes: at most a quarter more work.
_RUN_PER_READING = 4


def forward(
    model: Any,
    rows: Sequence[Row],
    *,
    pad: int,
    load: Mapping[str, Any],
    crowded: Callable[[], bool] = bool,
) -> None:
    """Generate for every row from the tokens it has, until all are done or others should join.

    Args:
        model: A causal language model of transformers.
        rows: Prompts and what is written of their answers.
        pad: Id of the token that fills shorter rows up.
        load: Options the model was loaded with: those for the cache are said here.
        crowded: Whether others wait that could join. A compiled model is not left: another shape
            of its batch would be compiled first.
    """
    leave = _Leave(rows, bool if load.get("compile") else crowded)
    ids = [row.prompt + row.tokens for row in rows]
    width = max(len(row) for row in ids)
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
            stopping_criteria=StoppingCriteriaList([_Watch(rows, leave)]),
            **_PLAIN,
            **_cache(load),
        )


def _cache(load: Mapping[str, Any]) -> dict[str, Any]:
    """A cache of fixed size lets `generate` compile the model's steps; only where asked for."""
    kind = load.get("cache_implementation") or ("static" if load.get("compile") else None)
    named = {"cache_implementation": kind} if kind else {}
    return named if load.get("compile") else {**named, "disable_compile": True}


class _Leave:
    """Stops `generate` after this token when waiting chats should join the batch."""

    def __init__(self, rows: Sequence[Row], crowded: Callable[[], bool]) -> None:
        self._rows = rows
        self._crowded = crowded
        self._start = time.perf_counter()
        self._read = _tokens(rows)
        self._reading: float | None = None

    def __call__(self) -> bool:
        seconds = time.perf_counter() - self._start
        if self._reading is None:
            self._reading = seconds
            return False
        again = self._reading * _tokens(self._rows) / self._read
        return seconds > _RUN_PER_READING * again and self._crowded()


def _tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.prompt) + len(row.tokens) for row in rows)


class _Watch(StoppingCriteria):  # type: ignore[misc]  # transformers has no types
    """Gives every new token to its row, and stops the rows that are done, or all of them."""

    def __init__(self, rows: Sequence[Row], leave: Callable[[], bool]) -> None:
        self._rows = rows
        self._leave = leave

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if not row.done:
                row.add(token, row.rules.took(token))
        left = self._leave()
        done = [left or row.done for row in self._rows]
        return torch.tensor(done, device=input_ids.device)


__all__ = ["forward"]
