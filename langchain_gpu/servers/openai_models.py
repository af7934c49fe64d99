"""What an OpenAI-compatible server says about its models, in the variants that servers have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_gpu.servers import address
from langchain_gpu.servers.errors import RefusedError


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


def bases_of(url: str) -> list[str]:
    """Return where the OpenAI form may be, of an address that users give with `/v1` or without."""
    return [url] if address.has_path(url) else [f"{url}/v1", url]


async def find_served(url: str, model: str, get: Callable[[str], Awaitable[Any]]) -> Served | None:
    """Find the OpenAI form below an address, by its list of models; None where nothing lists any.

    Args:
        url: The address, without a slash at its end.
        model: The server's name of the model.
        get: Returns the JSON at an address.

    Raises:
        RefusedError: The server wants another key.
        ServerError: What else `get` raised.
    """
    for base in bases_of(url):
        try:
            return _served(base, model, await get(f"{base}/models"))
        except RefusedError as error:
            if error.status in {401, 403}:
                raise
    return None


def _served(base: str, model: str, answer: Any) -> Served:
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


__all__ = ["Served", "bases_of", "find_served", "window_in"]
