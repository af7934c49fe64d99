"""Ollama's format: requests to bodies, lines of a stream to deltas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_gpu.generators.base import Delta, FinishReason, Message, Request, ToolCall, Usage
from langchain_gpu.generators.constraints import constraint_of, enforced
from langchain_gpu.generators.images import split
from langchain_gpu.generators.toolcalls import new_call_id, with_objects
from langchain_gpu.servers.errors import BadAnswerError

# Loading again is what a change of these costs, and what we know of the window would be wrong.
LOADING = {"num_ctx": "n_ctx", "num_gpu": "n_gpu_layers", "num_thread": "n_threads"}
LOAD_OPTIONS = frozenset({"main_gpu", "num_batch", "numa", "low_vram", "use_mmap", "use_mlock"})
_OPTIONS = frozenset(
    {
        "frequency_penalty",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "num_keep",
        "penalize_newline",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "tfs_z",
        "top_k",
        "typical_p",
    }
)
_BESIDE = frozenset({"think", "format", "keep_alive", "logprobs", "top_logprobs", "truncate"})
_OURS = ("model", "messages", "prompt", "raw", "stream", "tools", "num_predict")
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_SHOWN = 200  # characters of a line that an error quotes


def path_of(request: Request) -> str:
    """Return where a request goes."""
    return "/api/chat" if request.prompt is None else "/api/generate"


def body_of(
    model: str, request: Request, load: Mapping[str, Any], keep_alive: float | str | None
) -> dict[str, Any]:
    """Return the request in Ollama's form; what is None is left to the server.

    A plain prompt goes past the template of the model.

    Args:
        model: The server's name of the model.
        request: What is asked.
        load: Options the model was loaded with: others would load it again.
        keep_alive: How long it stays loaded afterwards.

    Raises:
        ValueError: An extra option that Ollama does not have, or that is set elsewhere; an empty
            prompt; a format of an unknown type.
    """
    beside, options = _sorted(request.extra)
    settings = request.settings
    if "max_tokens" in settings:
        settings["num_predict"] = settings.pop("max_tokens")
    options |= settings
    # A prompt beyond the window is refused, and the start of a chat not forgotten, by servers
    # that can; the others read over both words.
    body: dict[str, Any] = {"truncate": False, "shift": False, **beside}
    if keep_alive is not None:
        body.setdefault("keep_alive", keep_alive)
    if request.response_format is not None and "format" in body:
        raise ValueError("'format' and response_format say the same: give one of them")
    if request.callable_tools:
        body["tools"] = list(request.tools)
    # Ollama has no choice of tools; a schema enforces it.
    if (wanted := constraint_of(request)) is not None:
        body["format"] = _format(wanted)
    asked = _asked(request, beside)
    return body | asked | {"model": model, "stream": True, "options": {**options, **load}}


def _asked(request: Request, beside: Mapping[str, Any]) -> dict[str, Any]:
    if request.prompt is None:
        return {"messages": messages_of(request.messages)}
    if "think" in beside:
        raise ValueError("'think' is written by the chat template: a plain prompt has none")
    return {"prompt": request.prompt, "raw": True}


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the chat with arguments as objects, and results of tools under the tool's name.

    The images of a message stand beside its text, in their order.

    Raises:
        ValueError: Arguments of a call are no JSON, or an image is elsewhere; the message is named
            by its position.
    """
    names: dict[str, str] = {}
    found = []
    for index, message in enumerate(messages):
        result = with_objects(message, index)
        if isinstance(result["content"], list):
            result["content"], urls = split(result["content"])
            result["images"] = [_base64(url, f"message {index} ({result['role']})") for url in urls]
        if calls := result.get("tool_calls"):
            names |= {call["id"]: call["function"]["name"] for call in calls if call.get("id")}
        if name := names.get(result.get("tool_call_id", "")):
            result.setdefault("tool_name", name)
        found.append(result)
    return found


def _base64(url: str, where: str) -> str:
    if not url.startswith("data:"):
        raise ValueError(
            f"{where}: Ollama fetches no images: read {url.partition('?')[0][:_SHOWN]} yourself, "
            "and give its bytes as {'type': 'image', 'base64': ..., 'mime_type': ...}"
        )
    return url.partition(",")[2]


class Pieces:
    """The lines of one answer in, its pieces out. The last one has the reason and the usage.

    Args:
        host: Who answers, for messages.

    Attributes:
        begun: Whether a piece was given out: the answer cannot be asked for again.
        ended: Whether the server has said that the answer is done: it is whole.
        last: The line that ended the answer.
        scored: Whether log probabilities came.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._calls = 0
        self.begun = False
        self.scored = False
        self.last: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """See the class."""
        return self.last is not None

    def read(self, line: Mapping[str, Any]) -> Delta | None:
        """Return what a line adds to the answer; None if nothing.

        Raises:
            BadAnswerError: It is not what the form promises.
        """
        try:
            delta = self._read(line)
        except (AttributeError, KeyError, TypeError, ValueError):
            shown = json.dumps(line, default=str)[:_SHOWN]
            raise BadAnswerError(f"{self._host} sent a line that cannot be read: {shown}") from None
        self.begun = self.begun or delta is not None
        return delta

    def end(self) -> Delta:
        """Return the last piece.

        Raises:
            BadAnswerError: The server did not say that the answer is done, or gave it up.
        """
        if self.last is None:
            raise BadAnswerError(
                f"{self._host} ended the answer without saying that it is done: it is not whole",
                again=not self.begun,
            )
        named = self.last.get("done_reason") or "stop"  # servers before 0.1.38 give none
        if named not in _REASONS:
            raise BadAnswerError(
                f"{self._host} aborted the answer with done_reason {named!r}; its log may say why"
            )
        calls = self._calls > 0 and named == "stop"
        reason: FinishReason = "tool_calls" if calls else _REASONS[named]
        sent, written = self.last.get("prompt_eval_count"), self.last.get("eval_count", 0)
        usage = Usage(sent, written) if isinstance(sent, int) else None
        return Delta(finish_reason=reason, usage=usage, model=self.last.get("model"))

    def _read(self, line: Mapping[str, Any]) -> Delta | None:
        if line.get("done"):
            self.last = line
        message = line.get("message") or {"content": line.get("response")}
        text, thought = message.get("content") or "", message.get("thinking") or ""
        calls, logprobs = message.get("tool_calls") or (), line.get("logprobs") or ()
        if not (text or thought or calls or logprobs):
            return None
        self.scored = self.scored or bool(logprobs)
        if not (isinstance(text, str) and isinstance(thought, str)):
            raise TypeError
        return Delta(
            text=text,
            reasoning=thought,
            tool_calls=tuple(map(self._tool_call, calls)),
            logprobs=tuple(logprobs),
        )

    def _tool_call(self, call: Mapping[str, Any]) -> ToolCall:
        """Ollama sends every call whole; only its newer versions give it an id."""
        function, index = call["function"], self._calls
        self._calls += 1
        arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
        name = call.get("id") or new_call_id()
        return ToolCall(index, name, function["name"], arguments)


def _sorted(extra: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the extra options into fields of the request and its `options`."""
    rest = dict(extra)
    options = dict(rest.pop("options", None) or {})  # unchecked: for options of newer servers
    for name in (*rest, *options):
        if name in _OURS:
            where = "max_tokens sets it" if name == "num_predict" else "the call itself sets it"
            raise ValueError(f"{name!r} cannot be given as an option of the model: {where}")
        if name in LOADING or name in LOAD_OPTIONS:
            place = LOADING.get(name, "it in load_kwargs")
            raise ValueError(f"{name!r} is decided when the model is loaded: give {place}")
    for name in rest:
        if name not in _OPTIONS and name not in _BESIDE:
            known = ", ".join(sorted(_OPTIONS | _BESIDE))
            raise ValueError(
                f"Ollama would ignore {name!r}; it has {known}. An option of a newer server goes "
                f"under 'options': {{'options': {{{name!r}: ...}}}}"
            )
    beside = {name: value for name, value in rest.items() if name in _BESIDE}
    options |= {name: value for name, value in rest.items() if name in _OPTIONS}
    return beside, options


def _format(wanted: Mapping[str, Any]) -> Any:
    any_json = wanted.get("type") == "json_object" and not wanted.get("schema")
    return "json" if any_json else enforced(wanted)


__all__ = ["LOADING", "LOAD_OPTIONS", "Pieces", "body_of", "messages_of", "path_of"]
