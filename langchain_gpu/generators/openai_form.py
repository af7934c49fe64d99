"""The OpenAI chat format: requests to bodies, chunks of a stream to deltas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_gpu.generators.base import Delta, FinishReason, Request, ToolCall, Usage
from langchain_gpu.generators.toolcalls import new_call_id
from langchain_gpu.servers.errors import BadAnswerError

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",  # its name before there were tools
    "eos_token": "stop",  # TGI's own words
    "stop_sequence": "stop",
    "repetition": "stop",  # vLLM, where it was told to end a loop
}
_OURS = ("model", "messages", "prompt", "stream", "stream_options")
_SHOWN = 200  # characters of a chunk that an error quotes

# How servers give the numbers when a prompt is too long. "At least" so many, as vLLM says where it
# stopped counting, is not a number.
_PROMPT = tuple(
    map(
        re.compile,
        (
            r"(?:contains|has) (\d+) (?:input )?tokens",  # vLLM
            r"(\d+) (?:input tokens|tokens from the input|in the messages)",  # vLLM, SGLang
            r"(?:input|request) \((\d+) tokens\)",  # SGLang, llama-server
            r"resulted in (\d+) tokens",  # OpenAI
            r"Given: (\d+)",  # TGI
            r"prompt length \(?(\d+)",  # TensorRT-LLM
        ),
    )
)
_WINDOW = tuple(
    map(
        re.compile,
        (
            r"context (?:length|size)(?: is| of)?(?: only)?[ (]+(\d+)",
            r"must have less than (\d+) tokens",
            r"max_(?:seq_len|input_len|model_len)[ (=]*(\d+)",
        ),
    )
)


def body_of(model: str, request: Request) -> dict[str, Any]:
    """Return a chat in the OpenAI form; what is None is left to the server.

    Raises:
        ValueError: An extra option would replace what the call itself says.
    """
    return settings_of(model, request) | {"messages": list(request.messages)}


def settings_of(model: str, request: Request) -> dict[str, Any]:
    """Return what a request says beside its chat or its prompt.

    Options the form does not know (`top_k`, `min_p`) stand beside the others, as servers want it.

    Raises:
        ValueError: An extra option would replace what the call itself says.
    """
    extra = dict(request.extra)
    extra |= extra.pop("extra_body", None) or {}
    for name in _OURS:
        if name in extra:
            raise ValueError(f"{name!r} is set by the call itself: leave it out of model_kwargs")
    if extra.get("n", 1) != 1:
        raise ValueError(f"n={extra['n']!r}: one call gives one answer; call batch() for several")
    body = extra | request.settings
    if request.response_format is not None:
        body["response_format"] = request.response_format
    if request.tools:
        body |= {"tools": list(request.tools), "tool_choice": _choice(request.tool_choice)}
    return body | {"model": model, "stream": True, "stream_options": {"include_usage": True}}


def _choice(choice: str) -> str | dict[str, Any]:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


class Pieces:
    """The chunks of one answer in, its pieces out. The last piece waits for the usage.

    Args:
        host: Who answers, for messages.

    Attributes:
        begun: Whether a piece was given out: the answer cannot be asked for again.
        ended: Whether the server has said why the answer ended: it is whole.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._reason: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._model: str | None = None
        self._calls: dict[int, str] = {}  # ids of the calls so far
        self._places: dict[int, int] = {}  # by the server's index: the call that it means now
        self._arguments: dict[int, str] = {}
        self.begun = False

    @property
    def ended(self) -> bool:
        """See the class."""
        return self._reason is not None

    def read(self, chunk: Any) -> Delta | None:
        """Return what a chunk adds to the answer; None if nothing.

        Raises:
            BadAnswerError: It is not what the form promises.
        """
        try:
            delta = self._read(chunk)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            shown = json.dumps(chunk, default=str)[:_SHOWN]
            raise BadAnswerError(
                f"{self._host} sent a chunk that cannot be read: {shown}"
            ) from None
        self.begun = self.begun or delta is not None
        return delta

    def end(self) -> Delta:
        """Return the last piece.

        Raises:
            BadAnswerError: The server did not say why the answer ended, or that it gave it up.
        """
        if self._reason is None:
            raise BadAnswerError(
                f"{self._host} ended the answer without a finish_reason: it is not whole",
                again=not self.begun,
            )
        reason = _REASONS.get(self._reason)
        if reason is None:
            raise BadAnswerError(
                f"{self._host} aborted the answer with finish_reason {self._reason!r}; its log may "
                f"say why"
            )
        if reason == "stop" and self._called():  # said of a tool that was named in the request
            reason = "tool_calls"
        usage = None if self._usage is None else _usage(self._usage)
        return Delta(finish_reason=reason, usage=usage, model=self._model)

    def _called(self) -> bool:
        """Whether there are calls and all of them are whole: a stop string may have cut one."""
        whole = all(_is_json(arguments or "{}") for arguments in self._arguments.values())
        return whole and bool(self._arguments)

    def _read(self, chunk: Any) -> Delta | None:
        self._usage = chunk.get("usage") or self._usage
        self._model = chunk.get("model") or self._model
        choices = chunk["choices"]
        if not choices:
            return None
        choice = choices[0]
        self._reason = choice.get("finish_reason") or self._reason
        return self._delta(choice)

    def _delta(self, choice: Mapping[str, Any]) -> Delta | None:
        piece = choice.get("delta") or {}
        text = piece.get("content") or ""
        reasoning = piece.get("reasoning_content") or piece.get("reasoning") or ""
        calls = piece.get("tool_calls")
        logprobs = choice.get("logprobs")
        if not (text or reasoning or calls or logprobs):
            return None
        if not (isinstance(text, str) and isinstance(reasoning, str)):
            raise TypeError
        return Delta(
            text=text,
            reasoning=reasoning,
            tool_calls=tuple(map(self._call, _listed(calls))) if calls else (),
            logprobs=tuple(logprobs.get("content") or ()) if logprobs else (),
        )

    def _call(self, call: Mapping[str, Any]) -> ToolCall:
        """A piece of a call. Its name and id are given once: LangChain would join them."""
        function = call.get("function") or {}
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):  # TGI: an object
            arguments = json.dumps(arguments)
        at = self._place(call.get("index"), call.get("id"))
        if at is not None and not (function.get("name") and self._begins(at, arguments)):
            self._arguments[at] += arguments
            return ToolCall(at, None, None, arguments)
        index = call.get("index")
        free = max(self._calls, default=-1) + 1
        at = free if index is None or index in self._calls else index
        name = str(call.get("id") or new_call_id())
        self._calls[at], self._arguments[at] = name, arguments
        self._places[at if index is None else index] = at
        return ToolCall(at, name, function["name"], arguments)

    def _place(self, index: int | None, name: str | None) -> int | None:
        """Return which call a piece goes on with; None where it is the first of one."""
        if index is not None:
            return self._places.get(index)
        if not name:
            return next(reversed(self._calls), None)
        return next((at for at, known in self._calls.items() if known == name), None)

    def _begins(self, at: int, arguments: str) -> bool:
        """Whether arguments cannot go on with those of a call: some servers count no calls."""
        return arguments.lstrip().startswith("{") and _is_json(self._arguments[at])


def numbers_in(words: str) -> tuple[int | None, int | None]:
    """Return the tokens of the prompt and of the window, where a server's words give them."""
    return _number(_PROMPT, re.sub(r"at least \d+", "many", words)), _number(_WINDOW, words)


def _number(patterns: Iterable[re.Pattern[str]], words: str) -> int | None:
    match = next(filter(None, (pattern.search(words) for pattern in patterns)), None)
    return int(match[1]) if match else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (RecursionError, ValueError):
        return False
    return True


def _listed(calls: Any) -> list[Any]:
    return [calls] if isinstance(calls, Mapping) else list(calls)


def _usage(usage: Mapping[str, Any]) -> Usage | None:
    """Tokens as the server counted them; nothing where it did not count all."""
    sent, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(sent, int) or not isinstance(written, int):
        return None
    details = usage.get("prompt_tokens_details") or {}
    return Usage(sent, written, details.get("cached_tokens") or 0)


__all__ = ["Pieces", "body_of", "numbers_in", "settings_of"]
