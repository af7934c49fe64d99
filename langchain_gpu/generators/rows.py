"""One chat inside a batch of tokens: its text so far, and whether it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from langchain_gpu.generators.base import Completion, FinishReason, Request, Timings, Usage
from langchain_gpu.generators.stops import StopText

# A byte sequence that no token has completed yet decodes to this.
_INCOMPLETE = "\ufffd"


class Row:
    """Collects the tokens of one answer and turns them into text.

    Args:
        request: What is answered.
        prompt: Token ids of the prompt.
        limit: Most tokens the answer may have.
        ends: Tokens that end an answer.
        decode: Token ids to text, special tokens left out.

    Attributes:
        tokens: Token ids of the answer so far.
        texts: The pieces of text that may be shown.
        finish_reason: Why it ended, or will end if nothing more comes.
        done: Whether it wants no more tokens.
        canceled: Whether the listener went away.
        listener: Receives every piece of text; returns True when nobody listens any more.
        first_at: `time.perf_counter()` of the first token.
        last_at: The same of the last one.
    """

    def __init__(
        self,
        request: Request,
        prompt: list[int],
        *,
        limit: int,
        ends: frozenset[int],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.tokens: list[int] = []
        self.texts: list[str] = []
        self.finish_reason: FinishReason = "length"
        self.done = False
        self.canceled = False
        self.listener: Callable[[str], bool] | None = None
        self.first_at = self.last_at = 0.0
        self._limit = limit
        self._ends = ends
        self._decode = decode
        self._stops = StopText(request.stop)
        self._read_from = self._read_to = 0
        self._deadline = None if request.timeout is None else time.perf_counter() + request.timeout

    @property
    def left(self) -> int:
        """Tokens that may still come."""
        return self._limit - len(self.tokens)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(len(self.prompt), len(self.tokens))

    def completion(self, start: float) -> Completion:
        """Return the whole answer; `start` is the `time.perf_counter()` of the call."""
        later, seconds = len(self.tokens) - 1, self.last_at - self.first_at
        rate = later / seconds if later > 0 and seconds > 0 else None
        return Completion(
            text="".join(self.texts),
            reasoning="",
            tool_calls=(),
            finish_reason=self.finish_reason,
            usage=self.usage,
            timings=Timings(self.first_at - start, self.last_at - start, rate),
        )

    def add(self, token: int) -> None:
        """Take the next token of this row; a finished row ignores it.

        Raises:
            TimeoutError: The answer is not complete and its time is over.
        """
        if self.done:
            return
        self.last_at = time.perf_counter()
        self.first_at = self.first_at or self.last_at
        self.tokens.append(token)
        if token in self._ends:
            self._end("stop")
        else:
            self.tell(self._stops.feed(self._text()))
            if self._stops.hit:
                self._end("stop")
            elif not self.left:
                self._end("length")
        if not self.done and self._deadline is not None and self.last_at > self._deadline:
            raise TimeoutError(f"the answer was not complete after {self.request.timeout} s")

    def tell(self, text: str) -> bool:
        """Show `text`; returns True, and finishes the row, when nobody listens any more."""
        if text:
            self.texts.append(text)
        if self.listener is not None and self.listener(text):
            self.done = self.canceled = True
        return self.canceled

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        if not self._stops.hit:
            self.tell(self._stops.feed(self._text(final=True)) + self._stops.end())
        self.done = True

    def _text(self, *, final: bool = False) -> str:
        """Return the text that the latest tokens added, whole characters only.

        Decoding begins a little before the new tokens: what a token looks like depends on the one
        before it (a leading space, a character of several tokens).
        """
        before = self._decode(self.tokens[self._read_from : self._read_to])
        after = self._decode(self.tokens[self._read_from :])
        if len(after) <= len(before) or (after.endswith(_INCOMPLETE) and not final):
            return ""
        self._read_from, self._read_to = self._read_to, len(self.tokens)
        return after[len(before) :]


__all__ = ["Row"]
