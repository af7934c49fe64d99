"""Detect the API that a server offers."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from langchain_gpu.servers import address
from langchain_gpu.servers.errors import RefusedError, ServerError, ServerUnreachableError
from langchain_gpu.servers.http import JsonClient
from langchain_gpu.servers.server import Server

Form = Literal["ollama", "openai"]


def detect(server: Server) -> tuple[Form, str]:
    """Say which form the server at `server.url` speaks, and why it is that one.

    Raises:
        ServerError: Nothing answers there.
        ValueError: `server.url` is not an address.
    """
    if server.url is None:
        raise ValueError("there is no address to ask")
    url = address.check_url(server.url)
    host = address.host_of(url)
    if address.has_path(url):
        return "openai", f"the address of {host} has a path as OpenAI-compatible servers do"
    client = JsonClient(url, replace(server, max_retries=min(1, server.max_retries)))
    try:
        answer = client.run(client.get(f"{url}/api/version"))
    except ServerUnreachableError as error:
        if not address.is_ollamas_port(url):
            raise
        raise ServerUnreachableError(
            f"{error}. Is Ollama running? Start it: ollama serve"
        ) from None
    except (RefusedError, ServerError) as error:
        if error.status is None:  # nothing came back that could be called an answer
            raise
        return "openai", f"{host} does not answer as Ollama does ({error.status})"
    finally:
        client.close()
    if isinstance(answer, dict) and isinstance(answer.get("version"), str):
        return "ollama", f"{host} is Ollama {answer['version']}"
    return "openai", f"{host} does not answer as Ollama does"
