"""The models of an Ollama server: their properties, and pulling those that are missing."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import Any

from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
    ServerError,
    ServerTimeoutError,
    no_ollama,
)
from langchain_gpu.servers.ollama import OllamaClient

logger = logging.getLogger(__name__)

_STEPS = 10  # lines in the log about one part of a download
_SHOWN = 20  # names that an error lists


@dataclass(frozen=True, slots=True)
class Model:
    """What `/api/show` says of a model.

    Attributes:
        name: The server's name of it.
        window: Tokens of the longest window it was made for.
        asked_window: `num_ctx` of its Modelfile.
        layers: Its layers.
        tools: Whether its template describes tools; None where the server does not say.
        vision: Whether it reads images; the same.
    """

    name: str
    window: int | None
    asked_window: int | None
    layers: int | None
    tools: bool | None
    vision: bool | None


async def fetch(client: OllamaClient, name: str, seconds: float, *, pull: bool) -> Model:
    """Ask what the model is.

    Args:
        client: Where.
        name: The server's name of it.
        seconds: How long the server may say nothing while it fetches it.
        pull: Whether to have the server fetch a model that it does not have.

    Raises:
        RefusedError: It does not have it; the message lists those it has.
        ServerError: It does not answer, or cannot fetch it.
    """
    try:
        shown = await client.ask("/api/show", {"model": name})
    except RefusedError as error:
        if error.status != 404:  # noqa: PLR2004
            raise
        if error.no_such_place:
            raise no_ollama(client.host, error) from None
        if not pull:
            raise await missing(client, name, error) from None
        await _pull(client, name, seconds)
        shown = await client.ask("/api/show", {"model": name})
    return _model(name, shown)


def _model(name: str, shown: dict[str, Any]) -> Model:
    info = shown.get("model_info")
    info = info if isinstance(info, dict) else {}
    kind = info.get("general.architecture")
    # One line each: "num_ctx    8192".
    asked = re.search(r"^num_ctx\s+(\d+)\s*$", str(shown.get("parameters") or ""), re.MULTILINE)
    can = shown.get("capabilities")
    can = can if isinstance(can, list) and can else None
    return Model(
        name,
        _number(info.get(f"{kind}.context_length")),
        int(asked[1]) if asked else None,
        _number(info.get(f"{kind}.block_count")),
        None if can is None else "tools" in can,
        None if can is None else "vision" in can,
    )


def _number(found: Any) -> int | None:
    return found if isinstance(found, int) else None


async def missing(client: OllamaClient, name: str, error: RefusedError) -> RefusedError:
    """Return what to raise where the server does not have a model: it lists those it has."""
    names: list[str] = []
    try:
        rows = (await client.ask("/api/tags")).get("models") or []
        names = [str(row.get("model") or row.get("name")) for row in rows]
    except (ServerError, AttributeError, TypeError):
        pass  # the error at hand matters more than a list
    has = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return RefusedError(
        f"{client.host} has no model {name!r}; fetch it with: ollama pull {name}, or give "
        f"load_kwargs={{'pull': True}}. It has {has or 'no models'} ({error.detail})",
        status=error.status or 404,
        detail=error.detail,
    )


async def _pull(client: OllamaClient, name: str, seconds: float) -> None:
    """Have the server fetch the model, and tell the log how far it is."""
    told: dict[str, int] = {}
    last: dict[str, Any] = {}

    async def take(line: dict[str, Any]) -> None:
        limit.reschedule(asyncio.get_running_loop().time() + seconds)
        last.update(line)
        what, total = str(line.get("digest") or line.get("status")), line.get("total") or 0
        step = (line.get("completed") or 0) * _STEPS // total if total else 0
        if told.get(what, -1) < step:
            told[what] = step
            size = f": {step / _STEPS:.0%} of {total / 1e9:.2f} GB" if total else ""
            logger.info("%s fetches %s, %s%s", client.host, name, line.get("status"), size)

    logger.info("%s has no model %s: pulling it", client.host, name)
    try:
        async with asyncio.timeout(seconds) as limit:
            await client.stream("/api/pull", {"model": name, "stream": True}, take)
    except TimeoutError:
        raise ServerTimeoutError(
            f"{client.host} said nothing for {seconds:g} seconds while it fetched {name}"
        ) from None
    if last.get("status") != "success":
        raise BadAnswerError(f"{client.host} broke off while it fetched {name}: {last}")


__all__ = ["Model", "fetch", "missing"]
