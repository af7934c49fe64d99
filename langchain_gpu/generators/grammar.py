"""Constrained decoding: answers held to a JSON schema, token by token, by llguidance."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from langchain_gpu.generators.constraints import enforced

_CHOICES = ("anyOf", "oneOf")


class Grammars:
    """Makes grammars for one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers.
        vocabulary: Width of the model's scores; it may be more than the tokenizer has.
        end: The token that ends an answer.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, end: int) -> None:
        self._make: Callable[[], Any] = lambda: from_tokenizer(
            tokenizer, n_vocab=vocabulary, eos_token=end
        )
        self._end = end
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def of(self, response_format: Mapping[str, Any]) -> Grammar:
        """Return the grammar of a response format in OpenAI's form.

        Raises:
            ValueError: An unknown format, or a schema that cannot be enforced.
        """
        schema = enforced(response_format)
        if not _composed(schema):
            schema = _closed(schema)
        with self._lock:  # about a second for a large vocabulary, once
            if self._tokenizer is None:
                self._tokenizer = self._make()
        # Small models would write blanks forever where a schema allows them.
        text = LLMatcher.grammar_from_json_schema(
            json.dumps(schema), defaults={"whitespace_flexible": False}
        )
        matcher = LLMatcher(self._tokenizer, text)
        if matcher.is_error():
            raise ValueError(f"this schema cannot be enforced: {matcher.get_error()}")
        return Grammar(matcher, self._end)


def _closed(schema: Any) -> Any:
    """Allow objects only the properties that are named, unless the schema says otherwise.

    JSON Schema allows any others, which no caller means; llama.cpp's grammars do the same.
    """
    if isinstance(schema, Mapping):
        closed = {name: _closed(value) for name, value in schema.items()}
        if isinstance(closed.get("properties"), dict):
            closed.setdefault("additionalProperties", False)
        return closed
    return [_closed(each) for each in schema] if isinstance(schema, list) else schema


def _composed(schema: Any) -> bool:
    """Say whether several parts describe one object, each of which would rule the others out."""
    if isinstance(schema, Mapping):
        return _parts(schema) > 1 or any(map(_composed, schema.values()))
    return isinstance(schema, list) and any(map(_composed, schema))


def _parts(schema: Any) -> int:
    """Count what names properties of the same object."""
    if not isinstance(schema, Mapping):
        return 0
    own = isinstance(schema.get("properties"), Mapping) + isinstance(schema.get("$ref"), str)
    every = sum(map(_parts, _listed(schema, "allOf")))
    return own + every + sum(any(map(_parts, _listed(schema, name))) for name in _CHOICES)


def _listed(schema: Mapping[str, Any], name: str) -> list[Any]:
    found = schema.get(name)
    return found if isinstance(found, list) else []


class Grammar:
    """The tokens that may come next in one answer."""

    def __init__(self, matcher: LLMatcher, end: int) -> None:
        self._matcher = matcher
        self._end = end

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        """Rule out all other tokens, scores of shape [1, vocabulary].

        Raises:
            RuntimeError: The grammar cannot go on.
        """
        if self._matcher.is_error():
            raise RuntimeError(f"the grammar failed: {self._matcher.get_error()}")
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: scores.shape[-1]].astype(bool)
        if not allowed.any():
            allowed[self._end] = True
        ruled_out = torch.from_numpy(~allowed).to(scores.device)
        return scores.masked_fill(ruled_out, float("-inf"))

    def take(self, token: int) -> None:
        """Go on with `token`."""
        if token != self._end:
            self._matcher.consume_token(token)


__all__ = ["Grammar", "Grammars"]
