"""A Triton server's responses to one chat, as deltas."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_gpu.generators.base import Delta, FinishReason, Usage
from langchain_gpu.generators.stops import StopText
from langchain_gpu.generators.triton_form import Form
from langchain_gpu.servers.errors import BadAnswerError

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


class Pieces:
    """Responses in, pieces out. The last piece waits for the end of the stream.

    Stop strings are looked for here too: not every model takes them, and some leave them in.

    Args:
        form: What the model returns.
        host: Who answers, for messages.
        stop: Strings that end the answer.
        max_tokens: What was asked for.

    Attributes:
        begun: Whether a piece was given out: the answer cannot be asked for again.
        ended: Whether it is known why the answer ended: it is whole.
    """

    def __init__(
        self, form: Form, host: str, stop: Sequence[str] = (), max_tokens: int | None = None
    ) -> None:
        self._form = form
        self._host = host
        self._stop = StopText(stop)
        self._max_tokens = max_tokens
        # A character may be cut in two, as tokens are.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = b""
        self._reason: FinishReason | None = None
        self._answers = 0
        self._input: int | None = None
        self._output: int | None = None
        self.begun = False

    @property
    def ended(self) -> bool:
        """See the class."""
        return self._reason is not None

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met, and nothing more is wanted."""
        return self._stop.hit

    def read(self, arrays: Mapping[str, Any]) -> Delta | None:
        """Return what a response adds to the answer; None if nothing.

        Raises:
            BadAnswerError: It is not what the model's configuration promises.
        """
        self._answers += 1
        self._count(arrays)
        text = self._stop.feed(self._text(arrays))
        if (reason := _first(arrays, "finish_reason")) is not None:
            word = _decoded(reason)
            if word in _REASONS:
                self._reason = _REASONS[word]
            elif word.lower() not in {"none", ""}:
                raise BadAnswerError(f"{self._host} ended the answer early: {word}")
        if self._stop.hit:
            self._reason = "stop"
        if not text:
            return None
        self.begun = True
        return Delta(text=text)

    def end(self) -> Delta:
        """Return the last piece.

        Raises:
            BadAnswerError: The stream ended before the answer did.
        """
        if self._reason is None and (self._form.says_why or not self._answers):
            raise BadAnswerError(
                f"{self._host} ended the answer without saying why", again=not self.begun
            )
        usage = None
        if self._input is not None and self._output is not None:
            usage = Usage(self._input, self._output)
        full = self._max_tokens is not None and (self._output or 0) >= self._max_tokens
        reason: FinishReason = self._reason or ("length" if full else "stop")
        # A stop string may begin with what is held back still.
        held = self._stop.feed(self._decoder.decode(b"", final=True)) + self._stop.end()
        return Delta(text=held, finish_reason=reason, usage=usage, model=self._form.model.name)

    def _text(self, arrays: Mapping[str, Any]) -> str:
        found = _first(arrays, self._form.text.name)
        if found is None:  # the end of a stream may come alone
            return ""
        if not isinstance(found, bytes):
            raise BadAnswerError(
                f"{self._host} returned {type(found).__name__} in the tensor {self._form.text}"
            )
        if self._form.cumulative:
            if not found.startswith(self._seen):
                raise BadAnswerError(f"{self._host} took back a part of the answer")
            found, self._seen = found[len(self._seen) :], found
        return self._decoder.decode(found)

    def _count(self, arrays: Mapping[str, Any]) -> None:
        if (count := _first(arrays, "num_input_tokens")) is not None:
            self._input = int(count)
        if (count := _first(arrays, "num_output_tokens")) is not None:
            self._output = (self._output or 0) + int(count)  # those of this response alone


def _first(arrays: Mapping[str, Any], name: str) -> Any:
    """Return the value in a tensor; None where it is missing or empty."""
    found = arrays.get(name)
    return None if found is None or not found.size else found.reshape(-1)[0]


def _decoded(word: Any) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


__all__ = ["Pieces"]
