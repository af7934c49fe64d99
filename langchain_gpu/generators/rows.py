"""One chat in a batch: its tokens, its text so far, and whether it is finished."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_gpu.generators.base import Completion, Delta, FinishReason, Request, Timings, Usage
from langchain_gpu.generators.stops import StopText

# A byte sequence that no token has completed yet decodes to this.
_INCOMPLETE = "\ufffd"


class Row:
    """Collects the tokens of one answer and turns them into text. One thread adds, one waits.

    Args:
        request: The request.
        prompt: Token ids of the prompt.
        limit: Most tokens the answer may have.
        ends: Tokens that end an answer.
        decode: Token ids to text, special tokens left out.
        rules: The engine's state for sampling this row's tokens.

    Attributes:
        tokens: Token ids of the answer so far.
        texts: The pieces of text that may be shown.
        logprobs: One mapping per token, where they were asked for.
        finish_reason: Why it ended, or will end if nothing more comes.
        done: Whether it takes no more tokens.
        canceled: Whether the caller has given it up.
        error: Why it has no whole answer.
        listener: Receives every piece, and None after the last one.
    """

    def __init__(
        self,
        request: Request,
        prompt: list[int],
        *,
        limit: int,
        ends: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        rules: Any = None,
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.rules = rules
        self.tokens: list[int] = []
        self.texts: list[str] = []
        self.logprobs: list[Mapping[str, Any]] = []
        self.finish_reason: FinishReason = "length"
        self.done = False
        self.canceled = False
        self.error: BaseException | None = None
        self.listener: Callable[[Delta | None], object] | None = None
        self._ended = threading.Event()
        self._start = self._last = time.perf_counter()
        self._first: float | None = None
        self._told = 0  # log probabilities that the listener has
        self._limit = limit
        self._ends = ends
        self._decode = decode
        self._stops = StopText(request.stop)
        self._read_from = self._read_to = 0
        self._deadline = None if request.timeout is None else self._start + request.timeout

    @property
    def left(self) -> int:
        """Tokens that may still come."""
        return self._limit - len(self.tokens)

    @property
    def need(self) -> int:
        """Most tokens it may come to, the prompt among them."""
        return len(self.prompt) + self._limit

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(len(self.prompt), len(self.tokens))

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the answer must be complete, or None."""
        return None if self._deadline is None else max(0.0, self._deadline - time.perf_counter())

    @property
    def problem(self) -> BaseException | None:
        """Why it has no whole answer; None where it has, or goes on."""
        return self.error or (RuntimeError("the chat was canceled") if self.canceled else None)

    def wait(self) -> Completion:
        """Wait for the answer.

        Raises:
            TimeoutError: It is not complete in time.
            BaseException: Whatever kept it from being complete.
        """
        try:
            in_time = self._ended.wait(self.seconds_left)
        except BaseException:
            self.cancel()  # interrupted: nobody needs it any more
            raise
        if not in_time:
            self.fail(self.late())
        if (error := self.problem) is not None:
            raise error
        return self.completion()

    def completion(self) -> Completion:
        """Return the whole answer."""
        first = self._last if self._first is None else self._first
        return Completion(
            text="".join(self.texts),
            reasoning="",
            tool_calls=(),
            finish_reason=self.finish_reason,
            usage=self.usage,
            timings=Timings.of(self._start, first, self._last, len(self.tokens)),
            logprobs=tuple(self.logprobs),
        )

    def add(self, token: int, logprob: Mapping[str, Any] | None = None) -> None:
        """Take the next token of this row; a finished row ignores it.

        A row that is late fails, and leaves the others of its batch alone.
        """
        if self.done:
            return
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        if token in self._ends:
            self._end("stop")
            return
        self._tell(self._stops.feed(self._text()))
        if self._stops.hit:
            self._end("stop")
        elif not self.left:
            self._end("length")
        elif self._deadline is not None and self._last > self._deadline:
            self.fail(self.late())

    def cancel(self) -> None:
        """Give the answer up: no more tokens are generated."""
        self.canceled = True
        self._finish()

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it is done already."""
        if not self.done:
            self.error = error
            self._finish()

    def late(self) -> TimeoutError:
        """Return the error of an answer that is not complete in time."""
        return TimeoutError(f"the answer was not complete after {self.request.timeout} s")

    def _tell(self, text: str) -> None:
        if not text:
            return
        self.texts.append(text)
        fresh, self._told = tuple(self.logprobs[self._told :]), len(self.logprobs)
        self._hand(Delta(text=text, logprobs=fresh))

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        if not self._stops.hit:
            self._tell(self._stops.feed(self._text(final=True)) + self._stops.end())
        fresh = tuple(self.logprobs[self._told :])
        self._hand(Delta(logprobs=fresh, finish_reason=reason, usage=self.usage))
        self._finish()

    def _finish(self) -> None:
        if self.done:
            return
        self.done = True
        self._ended.set()
        self._hand(None)
        self.listener = None  # it may hold this row

    def _hand(self, piece: Delta | None) -> None:
        listener = self.listener  # another thread may end the row meanwhile
        if listener is not None:
            listener(piece)

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
