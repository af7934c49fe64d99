"""Sampling with settings of its own for each chat of a batch.

`generate` of transformers has one setting for a whole batch. Here a batch is greedy for
`generate`, and a logits processor chooses for every row before: so chats of any settings share
forwards, and a seeded one gives the same answer in any company.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from langchain_gpu.generators.base import Request
from langchain_gpu.generators.checks import check_number
from langchain_gpu.generators.rows import Row

_INFINITE = float("-inf")
_TOP_K = 50  # what `generate` samples from where neither the model nor the caller says
_TOP_LOGPROBS = 20  # as many as OpenAI's form allows

# In the order of `generate`; the value says what changes nothing.
_WARPERS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "temperature": (lambda value: TemperatureLogitsWarper(float(value)), 1.0),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (lambda value: TopPLogitsWarper(float(value)), 1.0),
    "min_p": (MinPLogitsWarper, 0.0),
    "typical_p": (TypicalLogitsWarper, 1.0),
    "epsilon_cutoff": (EpsilonLogitsWarper, 0.0),
    "eta_cutoff": (EtaLogitsWarper, 0.0),
}
_BARS = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_new_tokens",
    "suppress_tokens",
)
_OTHERS = ("do_sample", "logprobs", "top_logprobs")


class Format(Protocol):
    """What an answer must look like, token by token."""

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        """Rule out what may not come next, scores of shape [1, vocabulary]."""

    def take(self, token: int) -> None:
        """Go on with `token`."""


class Rules:
    """How one row chooses its tokens.

    Args:
        request: Its settings; `extra` holds more of them under transformers' names, and `logprobs`
            and `top_logprobs` as in OpenAI's form.
        config: The model's own `GenerationConfig`, for what the request leaves open.
        ends: Tokens that end an answer.
        decode: Token ids to text.
        grammar: What the answer must look like.

    Raises:
        ValueError: An option that is not known, or a value outside its range.
    """

    def __init__(
        self,
        request: Request,
        config: Any,
        *,
        ends: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        grammar: Format | None = None,
    ) -> None:
        settings = _settings(request, config)
        self.sample = bool(settings["do_sample"])
        warpers = {
            name: settings[name]
            for name, (_, idle) in _WARPERS.items()
            if self.sample and settings[name] not in (None, idle)
        }
        self._warpers = LogitsProcessorList(
            [_WARPERS[name][0](value) for name, value in warpers.items()]
        )
        self._history = _history(settings, sorted(ends))
        self._suppressed = list(settings["suppress_tokens"] or ())
        self._ends = sorted(ends)
        self._least = settings["min_new_tokens"] or 0
        self._grammar = grammar
        self._decode = decode
        self._seed = request.seed if self.sample else None
        self._generator: torch.Generator | None = None
        self._top = _top_logprobs(settings)
        self._logprobs: torch.Tensor | None = None
        alone = bool(
            self._seed is not None
            or self._history
            or self._suppressed
            or self._least
            or grammar is not None
        )
        self.group = id(self) if alone else (self.sample, tuple(warpers.items()))
        """Rows of the same group choose together."""
        self.idle = not (self.sample or alone)
        """Whether the likeliest token is taken, with nothing to change before."""

    def note(self, scores: torch.Tensor) -> None:
        """Keep what the model thought of every token, scores of shape [vocabulary]."""
        if self._top is not None:
            self._logprobs = torch.log_softmax(scores.float(), dim=-1)

    def choose(self, scores: torch.Tensor, row: Row) -> torch.Tensor:
        """Return the scores to take the largest of, shape [rows, vocabulary].

        Args:
            scores: The model's, shape [rows, vocabulary]; several rows only of one group.
            row: The first of these rows.
        """
        if self._history:
            ids = torch.tensor([row.prompt + row.tokens], device=scores.device)
            scores = self._history(ids, scores)
        never = self._suppressed + (self._ends if len(row.tokens) < self._least else [])
        if never:
            if max(never) >= scores.shape[-1]:  # a GPU would be lost to the whole process
                raise ValueError(
                    f"suppress_tokens names token {max(never)}, and the model has "
                    f"{scores.shape[-1]}"
                )
            scores[:, never] = _INFINITE
        if self._grammar is not None:
            scores = self._grammar.mask(scores)
        if not self.sample:
            return scores
        scores = self._warpers(None, scores)
        chances = torch.softmax(scores, dim=-1)
        token = torch.multinomial(chances, 1, generator=self._on(scores.device))
        return torch.full_like(scores, _INFINITE).scatter_(-1, token, 0.0)

    def took(self, token: int) -> Mapping[str, Any] | None:
        """Go on with `token`; return its log probability in OpenAI's form, if it is wanted."""
        if self._grammar is not None:
            self._grammar.take(token)
        if self._top is None or self._logprobs is None:
            return None
        best = torch.topk(self._logprobs, self._top) if self._top else None
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best else ()
        return {
            **self._named(token, self._logprobs[token].item()),
            "top_logprobs": [self._named(*pair) for pair in pairs],
        }

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _on(self, device: torch.device) -> torch.Generator | None:
        if self._seed is None:
            return None
        if self._generator is None or self._generator.device.type != device.type:
            self._generator = torch.Generator(device).manual_seed(self._seed)
        return self._generator


class Chooser(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Has every row of a batch choose by its own rules, those of one group together."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores, shape [rows, vocabulary], whose largest is the token of each row."""
        groups: dict[Any, list[int]] = {}
        for at, row in enumerate(self._rows):
            if row.done:
                continue
            row.rules.note(scores[at])
            if not row.rules.idle:
                groups.setdefault(row.rules.group, []).append(at)
        for members in groups.values():
            first = self._rows[members[0]]
            scores[members] = first.rules.choose(scores[members], first)
        return scores


def _settings(request: Request, config: Any) -> dict[str, Any]:
    names = (*_WARPERS, *_BARS, *_OTHERS)
    unknown = sorted(set(request.extra) - set(names))
    if unknown:
        raise ValueError(f"unknown options {', '.join(unknown)}; known: {', '.join(names)}")
    settings = {name: getattr(config, name, None) for name in names}
    if settings["top_k"] is None:
        settings["top_k"] = _TOP_K
    wanted = {"temperature": request.temperature, "top_p": request.top_p, **request.extra}
    given = {name: value for name, value in wanted.items() if value is not None}
    settings.update(given)
    if settings["temperature"] == 0 or given.get("do_sample") is False:
        settings["do_sample"] = False
    elif _WARPERS.keys() & given.keys():
        settings["do_sample"] = True
    _check(settings)
    return settings


def _check(settings: Mapping[str, Any]) -> None:
    """Check what would fail only inside a forward, or without a name."""
    if settings["repetition_penalty"] is not None:
        check_number("repetition_penalty", settings["repetition_penalty"])
    for name in ("no_repeat_ngram_size", "min_new_tokens"):
        if settings[name] is not None:
            check_number(name, settings[name], whole=True)
    suppressed = settings["suppress_tokens"] or ()
    if not isinstance(suppressed, (list, tuple)):
        raise ValueError(f"suppress_tokens must be a list of token ids, not {suppressed!r}")  # noqa: TRY004 - as every wrong setting
    for at, token in enumerate(suppressed):
        check_number(f"suppress_tokens[{at}]", token, whole=True)
        if token < 0:
            raise ValueError(f"suppress_tokens[{at}] must not be negative, not {token}")


def _history(settings: Mapping[str, Any], ends: list[int]) -> LogitsProcessorList:
    """What looks at the tokens so far."""
    found = LogitsProcessorList()
    if settings["repetition_penalty"] not in (None, 1.0):
        found.append(RepetitionPenaltyLogitsProcessor(float(settings["repetition_penalty"])))
    if settings["no_repeat_ngram_size"]:
        found.append(NoRepeatNGramLogitsProcessor(settings["no_repeat_ngram_size"]))
    if settings["bad_words_ids"]:
        found.append(NoBadWordsLogitsProcessor(settings["bad_words_ids"], torch.tensor(ends)))
    return found


def _top_logprobs(settings: Mapping[str, Any]) -> int | None:
    """How many alternatives are wanted beside every token; None for no log probabilities."""
    top = settings["top_logprobs"]
    if not settings["logprobs"]:
        if top:
            raise ValueError("top_logprobs needs logprobs=True")
        return None
    if not isinstance(top or 0, int) or not 0 <= (top or 0) <= _TOP_LOGPROBS:
        raise ValueError(f"top_logprobs must lie between 0 and {_TOP_LOGPROBS}, not {top!r}")
    return top or 0


__all__ = ["Chooser", "Rules"]
