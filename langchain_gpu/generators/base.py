"""The `Generator` contract: requests in, completions or streamed deltas out."""

from __future__ import annotations

from collections import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from langchain_gpu.generators.checks import (
    check_format,
    check_sampling,
    check_stops,
    check_timeout,
    check_tools,
)
from langchain_gpu.hardware.devices import Device

Message = Mapping[str, Any]
"""`{"role", "content"}` and, with tools, `tool_calls` or `tool_call_id`: the OpenAI chat format.

Content is a text, or a list where it holds images: see `generators.images`."""

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class PromptTooLongError(ValueError):
    """The prompt does not fit the model's window.

    Attributes:
        tokens: Tokens of the prompt; None where a server does not say.
        window: Tokens of the window, the answer included; None where a server does not say.
        at: Its position among the prompts of one call; None where it is the only one.

    Args:
        tokens: See above.
        window: See above.
        remedy: What helps besides a shorter prompt.
    """

    def __init__(
        self,
        tokens: int | None,
        window: int | None,
        remedy: str = "give a larger n_ctx if the model's own window is larger",
    ) -> None:
        long = f"has {tokens} tokens" if tokens is not None else "is too long"
        holds = f" and the context window holds {window}" if window is not None else ""
        super().__init__(f"the prompt {long}{holds}: shorten it, or {remedy}")
        self.tokens = tokens
        self.window = window
        self.at: int | None = None

    def __str__(self) -> str:
        """Return the message, with the prompt's position."""
        said = super().__str__()
        return said if self.at is None else f"prompt {self.at}: {said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One chat to be answered, or one plain prompt to be completed.

    Attributes:
        messages: The chat so far, at least one message; none with a prompt.
        prompt: A plain text to go on with, outside any chat template; None for a chat.
        tools: Tool definitions in the OpenAI format.
        tool_choice: `"auto"`, `"none"`, `"required"`, or the name of the tool that must be called.
        response_format: `{"type": "json_object"}` or `{"type": "json_schema", "json_schema": ...}`.
        stop: Strings that end the answer; they are not part of it.
        max_tokens: Longest answer; None leaves the rest of the window to it.
        temperature: 0 takes the likeliest token; None is the engine's own default.
        top_p: Nucleus sampling; None is the engine's own default.
        seed: Makes sampling repeatable on one machine.
        timeout: Seconds from the call to the last token; None waits.
        extra: More options, handed to the engine under its own names.
    """

    messages: Sequence[Message] = ()
    prompt: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    response_format: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    timeout: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def callable_tools(self) -> Sequence[Mapping[str, Any]]:
        """The tools that the answer may call."""
        return self.tools if self.tool_choice != "none" else ()

    @property
    def settings(self) -> dict[str, Any]:
        """The sampling settings that are given, under OpenAI's names."""
        named = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": list(self.stop) or None,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a tool call."""
        return bool(self.tools) and self.tool_choice not in ("auto", "none")

    @property
    def constrained(self) -> bool:
        """Whether the answer is constrained to a format."""
        asked = self.response_format is not None and self.response_format.get("type") != "text"
        return asked or self.must_call

    def __post_init__(self) -> None:
        """Check what no engine could answer.

        Raises:
            ValueError: No message, an empty prompt or one beside messages or tools, a stop string,
                tool or format that is none, or a number outside its range.
        """
        if self.prompt is not None and (self.messages or self.tools):
            raise ValueError("a plain prompt has no messages and no tools: give one or the other")
        if self.prompt == "":
            raise ValueError("the prompt is empty: there is nothing to continue")
        if self.prompt is None and not self.messages:
            raise ValueError("the list of messages is empty: there is nothing to answer")
        check_sampling(self.max_tokens, self.temperature, self.top_p, self.seed)
        if self.timeout is not None:
            check_timeout(self.timeout)
        if self.response_format is not None:
            check_format(self.response_format)
        check_stops(self.stop)
        check_tools(self.tools, self.tool_choice)
        if self.extra.get("n") not in (None, 1):
            raise ValueError(
                f"n={self.extra['n']!r}: one call gives one answer; call batch() for several"
            )


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one chat; `cached_tokens` of the input needed no new computation."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one answer.

    Attributes:
        time_to_first_token: From the call to the first token.
        seconds: From the call to the last token.
        tokens_per_second: Output tokens after the first, per second; None for fewer than two.
    """

    time_to_first_token: float
    seconds: float
    tokens_per_second: float | None

    @classmethod
    def of(cls, start: float, first: float, last: float, tokens: int) -> Timings:
        """Compute them from three times of one clock (call, first, last token) and the tokens."""
        later, seconds = tokens - 1, last - first
        rate = later / seconds if later > 0 and seconds > 0 else None
        return cls(first - start, last - start, rate)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, or a piece of one: pieces with the same index belong together.

    Attributes:
        index: Position among the calls of one answer.
        id: Engine's name for the call; None in later pieces.
        name: Tool; None in later pieces.
        arguments: JSON text, or the next part of it.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The next piece of an answer. The last one, and only it, carries a finish_reason.

    Attributes:
        text: What comes next.
        reasoning: The next part of the model's reasoning.
        tool_calls: Calls, or the next parts of them.
        logprobs: One mapping per token in the OpenAI format, where they were asked for.
        finish_reason: Why the answer ended.
        usage: Tokens of the whole chat; None on the last piece where a server does not say.
        timings: Of the whole answer.
        model: The engine's own name of the model that answered, if it has one.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    model: str | None = None

    @property
    def only_text(self) -> bool:
        """Whether it holds nothing beside the text."""
        rest = self.reasoning or self.tool_calls or self.logprobs or self.finish_reason
        return not (rest or self.usage or self.timings or self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer. `reasoning` comes before the answer itself; see `Delta`."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage | None
    timings: Timings
    logprobs: tuple[Mapping[str, Any], ...] = ()
    model: str | None = None


Deltas = abc.Generator[Delta, None, None]
"""A stream of one answer. It has a `close()`, which stops the generation."""


class Generator(Protocol):
    """An engine with one model loaded. Safe to call from several threads."""

    @property
    def device(self) -> Device:
        """Where it runs now, with the reason."""

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together."""

    @property
    def max_batch(self) -> int:
        """Chats that are computed at the same time; further ones wait."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer every request, in order. One that fails raises, and cancels the others."""

    def stream(self, request: Request) -> Deltas:
        """Yield the answer piece by piece; closing the iterator stops the generation."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens."""

    def count_chat_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Tokens of the prompt that a chat becomes, template included."""

    def close(self) -> None:
        """Stop running answers and release the weights."""


__all__ = [
    "Completion",
    "Delta",
    "Deltas",
    "FinishReason",
    "Generator",
    "Message",
    "PromptTooLongError",
    "Request",
    "Timings",
    "ToolCall",
    "Usage",
]
