"""The models that a local Ollama has loaded, and how much of them is on a GPU."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from langchain_gpu.servers.address import is_loopback, ollama_url

_CONNECT = 0.3  # seconds: a server on this machine accepts at once
_ANSWER = 1.0
_MOST = 2**20  # bytes of an answer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that Ollama holds in memory.

    Attributes:
        name: As Ollama calls it.
        size: Bytes it takes.
        on_gpu: Bytes of these that lie in GPUs' memory.
    """

    name: str
    size: int
    on_gpu: int


@dataclass(frozen=True, slots=True)
class Ollama:
    """A server that answered.

    Attributes:
        url: Where.
        models: What it has loaded.
    """

    url: str
    models: tuple[Loaded, ...] = ()


def read_ollama(environ: Mapping[str, str] = os.environ) -> Ollama | None:
    """Ask the Ollama of this machine what it has loaded; None where none answers at once.

    A server elsewhere is not asked: its hardware is not this machine's.

    Args:
        environ: May hold OLLAMA_HOST.
    """
    try:
        url = ollama_url(environ)
    except ValueError:  # an OLLAMA_HOST that names no address; using it says so
        return None
    if not is_loopback(url) or not url.startswith("http://"):
        return None
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    host = "127.0.0.1" if host == "localhost" else host
    found: list[Ollama] = []

    def ask() -> None:
        try:
            answer = json.loads(_get(host, port, f"{parts.path}/api/ps"))
            models = tuple(
                Loaded(str(model["name"]), int(model["size"]), int(model.get("size_vram") or 0))
                for model in answer["models"]
            )
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return  # nobody there, or somebody who is not Ollama
        found.append(Ollama(url, models))

    # A socket's time-out starts again with every byte; the thread's end does not.
    asking = threading.Thread(target=ask, name="ask-ollama", daemon=True)
    asking.start()
    asking.join(_CONNECT + _ANSWER)
    return found[0] if found else None


def _get(host: str, port: int, path: str) -> bytes:
    """Return the body of an answer.

    Raises:
        OSError: Nobody accepts, or an answer does not begin.
        http.client.HTTPException: It is not an answer.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_CONNECT)
    try:
        connection.connect()
        connection.sock.settimeout(_ANSWER)
        connection.request("GET", path)
        return connection.getresponse().read(_MOST)
    finally:
        connection.close()


__all__ = ["Loaded", "Ollama", "read_ollama"]
