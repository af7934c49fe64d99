"""What a server says of its models, in the forms that servers have for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Served:
    """A model on a server.

    Attributes:
        base: Address below which the OpenAI form is, without a slash at its end.
        names: All models the server lists; empty where it lists none.
        owner: Who the server says it is (`"vllm"`, `"llamacpp"`), or nothing.
        window: Tokens of one chat; None where the server does not say.
    """

    base: str
    names: tuple[str, ...] = ()
    owner: str = ""
    window: int | None = None

    @property
    def root(self) -> str:
        """Address of what stands beside the OpenAI form."""
        return self.base.removesuffix("/v1")


def served(base: str, model: str, answer: Any) -> Served:
    """Read the answer of `GET /models`."""
    data = answer.get("data") if isinstance(answer, Mapping) else answer
    entries = [each for each in data if isinstance(each, Mapping)] if isinstance(data, list) else []
    mine = next((each for each in entries if each.get("id") == model), None)
    if mine is None:  # llama-server answers to every name with its one model
        mine = entries[0] if len(entries) == 1 else {}
    return Served(
        base,
        tuple(str(each.get("id")) for each in entries),
        str(mine.get("owned_by", "")),
        _number(mine.get("max_model_len")),
    )


def window_in(properties: Any) -> int | None:
    """Read llama-server's `GET /props`: the window of one slot."""
    try:
        return _number(properties["default_generation_settings"]["n_ctx"])
    except (KeyError, TypeError):
        return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


__all__ = ["Served", "served", "window_in"]
