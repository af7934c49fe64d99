"""`POST /api/embed`, Ollama's own form."""

from __future__ import annotations

from typing import Any

from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.remote.encoder import RemoteEncoder
from langchain_gpu.engine.remote.request import Request, read_vectors
from langchain_gpu.engine.remote.suspicion import FAILED
from langchain_gpu.servers import address
from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
    ServerUnreachableError,
    no_ollama,
)
from langchain_gpu.servers.http import JsonClient


class OllamaEncoder(RemoteEncoder):
    """A model behind Ollama.

    Options are fields of its request: `{"options": {"num_thread": 4}, "keep_alive": "10m"}`.
    Texts beyond the model's window are cut by the server with a warning, or refused, as `on_long`
    says.
    """

    reserved = frozenset({"model", "input", "truncate"})
    _client: JsonClient

    def __init__(self, config: EmbedderConfig) -> None:
        client = JsonClient(config.server.url or address.ollama_url(), config.server)
        super().__init__(config, client)

    async def _connect(self) -> int | None:
        try:
            shown = await self._client.post(f"{self._client.url}/api/show", {"model": self._model})
        except ServerUnreachableError as error:
            raise ServerUnreachableError(
                f"{error}. Is Ollama running? Start it: ollama serve"
            ) from None
        except RefusedError as error:
            raise self._explained(error) from None
        info = shown.get("model_info") if isinstance(shown, dict) else None
        info = info if isinstance(info, dict) else {}
        window = info.get(f"{info.get('general.architecture')}.context_length")
        return window if isinstance(window, int) else None

    async def _vectors(self, request: Request, *, cut: bool) -> Vectors:
        body = self._body(request) | {"truncate": cut}
        final = FAILED if request.suspected else None
        try:
            answer = await self._client.post(f"{self._client.url}/api/embed", body, final=final)
        except RefusedError as error:
            raise self._explained(error) from None
        rows: Any = answer.get("embeddings") if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            raise BadAnswerError(f"{self._client.host} did not return a list of vectors")
        return read_vectors(rows, len(request), self._client.host)

    def _explained(self, error: RefusedError) -> RefusedError:
        if error.status != 404:  # noqa: PLR2004 - a model that is not there
            return error
        if error.no_such_place:
            return no_ollama(self._client.host, error)
        return RefusedError(
            f"{self._client.host} has no model {self._model!r}; fetch it with: ollama pull "
            f"{self._model} ({error.detail})",
            status=404,
            detail=error.detail,
        )
