"""Constraints and tool calls of transformers models."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from langchain_gpu.generators.base import Completion, Delta, Request
from langchain_gpu.generators.constraints import constraint_of
from langchain_gpu.generators.hermes import Parsed, calls_in_text
from langchain_gpu.generators.hf_model import HFModel
from langchain_gpu.generators.rows import Row
from langchain_gpu.generators.streams import Stage, collect
from langchain_gpu.generators.toolcalls import Recovery
from langchain_gpu.utils.extras import require


class Formats:
    """Tools and formats of one model, by its tokenizer and its template."""

    def __init__(self, hf: HFModel) -> None:
        self._hf = hf
        self._lock = threading.Lock()
        self._grammars: Any = None

    def grammar(self, request: Request) -> Any:
        """Return the grammar of the answer; None if it is unconstrained.

        Raises:
            ImportError: llguidance is not installed.
            ValueError: The format cannot be enforced.
        """
        wanted = constraint_of(request)
        if wanted is None:
            return None
        require("llguidance", extra="grammar")
        from langchain_gpu.generators.grammar import Grammars

        with self._lock:
            if self._grammars is None:
                hf = self._hf
                end = hf.tokenizer.eos_token_id
                self._grammars = Grammars(
                    hf.tokenizer, hf.vocabulary, end if end is not None else min(hf.ends)
                )
        return self._grammars.of(wanted)

    def reader(self, request: Request, row: Row) -> Stage:
        """Return a parser that finds the tool calls in an answer, piece by piece.

        It follows the tokenizer's own response schema, if there is one; otherwise it looks for the
        tags that most templates teach, and for bare JSON.
        """
        tools = request.callable_tools
        if not tools or request.constrained:
            return Recovery(tools)
        tokenizer = self._hf.tokenizer
        if not getattr(tokenizer, "response_template", None):
            return calls_in_text(tools)
        before = tokenizer.decode(row.prompt)

        def parse(_: str) -> Mapping[str, Any]:
            text = tokenizer.decode(row.tokens)  # tags may be special tokens
            message: Mapping[str, Any] = tokenizer.parse_response(
                text, prefix=before, tools=list(tools)
            )
            return message

        return Parsed(parse, tools)

    def with_calls(self, answer: Completion, request: Request, row: Row) -> Completion:
        """Do the same with a whole answer."""
        last = Delta(
            text=answer.text,
            logprobs=answer.logprobs,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            timings=answer.timings,
        )
        return collect(filter(None, [self.reader(request, row)(last)]))


__all__ = ["Formats"]
