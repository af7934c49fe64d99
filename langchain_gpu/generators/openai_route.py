"""The endpoint of a request in the OpenAI format, and how its answers and errors are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from langchain_gpu.generators.base import PromptTooLongError, Request
from langchain_gpu.generators.openai_form import Pieces, body_of, numbers_in
from langchain_gpu.generators.openai_plain import PlainPieces, plain_body_of, with_schema
from langchain_gpu.servers.errors import RefusedError
from langchain_gpu.servers.openai_models import Served

_NO_MODEL = re.compile(
    r"model.*(not exist|not found|unknown|not available)", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Route:
    """One request on its way.

    Attributes:
        path: Place below the server's base: `"/chat/completions"` or `"/completions"`.
        body: What is sent.
        pieces: Makes the reader of the answer, given the host's name.
    """

    path: str
    body: dict[str, Any]
    pieces: Callable[[str], Pieces]

    @property
    def prompt(self) -> str | None:
        """The plain prompt; None for a chat."""
        return self.body.get("prompt")

    @property
    def unbounded(self) -> bool:
        """Whether it is a plain prompt whose text may become as long as the server likes."""
        return self.prompt is not None and "max_tokens" not in self.body

    def bounded(self, max_tokens: int) -> Route:
        """Return it with the longest answer."""
        return replace(self, body=self.body | {"max_tokens": max_tokens})


def route_of(model: str, request: Request, served: Served) -> Route:
    """Return where a request goes.

    Raises:
        ValueError: It cannot be said in this form.
    """
    if request.prompt is None:
        return Route("/chat/completions", body_of(model, request), Pieces)
    body = plain_body_of(model, request)
    if served.owner == "llamacpp":
        body = with_schema(body)
    return Route("/completions", body, PlainPieces)


def explained(error: RefusedError, host: str, served: Served, route: Route) -> Exception:
    """Say what helps, where the server's words leave that open.

    Args:
        error: The refusal.
        host: Who refused, for messages.
        served: What the server said of its models.
        route: What was asked.
    """
    if error.too_long:
        tokens, window = numbers_in(error.detail)
        remedy = f"lower max_tokens, or have it served with a larger window ({error})"
        return PromptTooLongError(tokens, window or served.window, remedy)
    if _NO_MODEL.search(error.detail):
        known = ", ".join(served.names)
        problem = f"no model {route.body['model']!r}" + (f"; it serves {known}" if known else "")
    elif error.no_such_place:
        problem = f"nothing at {served.base}{route.path}; "
        if route.prompt is not None:
            problem += "it may take chats only, no plain prompts (then take ChatGPU); "
        problem += "is base_url right?"
    else:
        return error
    return RefusedError(
        f"{host} has {problem} ({error.detail})", status=error.status or 0, detail=error.detail
    )


__all__ = ["Route", "explained", "route_of"]
