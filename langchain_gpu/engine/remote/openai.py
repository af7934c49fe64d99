"""`POST /embeddings` as OpenAI defined it: vLLM, TEI, infinity, OpenLLM, NIM, llama-server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.remote.encoder import RemoteEncoder
from langchain_gpu.engine.remote.request import PROBE, Items, Request, read_vectors
from langchain_gpu.engine.remote.suspicion import FAILED
from langchain_gpu.engine.tasks.embed import EmbedOptions, check_texts
from langchain_gpu.engine.tasks.token_rows import flat_ids
from langchain_gpu.servers.errors import BadAnswerError, RefusedError
from langchain_gpu.servers.http import JsonClient
from langchain_gpu.servers.openai_models import Served, bases_of, find_served

DEFAULT_URL = "http://localhost:8000"  # where vLLM and NIM listen


class OpenAIEncoder(RemoteEncoder):
    """A model behind any server that speaks OpenAI's form.

    The address may end with `/v1` or not; without a path both are tried. Vectors travel as base64
    where the server takes that, else as numbers.

    Texts beyond the model's window: vLLM refuses them or cuts them, as `on_long` says, and a cut is
    warned about. Other servers decide for themselves: a refusal is an error that names the text,
    but TEI and infinity, as they are usually started, cut without a word, which nobody can see
    from here.
    """

    reserved = frozenset({"model", "input", "encoding_format", "truncate_prompt_tokens"})
    _client: JsonClient

    def __init__(self, config: EmbedderConfig) -> None:
        self._base64 = True
        client = JsonClient(config.server.url or DEFAULT_URL, config.server)
        super().__init__(config, client)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off.

        Raises:
            ValueError: The server does not count; vLLM does.
        """
        check_texts(texts)
        if self._served.owner != "vllm":
            return super().count_tokens(texts)
        return self._client.run(self._counts(texts))

    def from_ids(self, rows: Sequence[Sequence[int]], *, start: int = 0) -> Tokenized:
        """See `TextEncoder.from_ids`; whether an id exists only the server knows."""
        _, lengths = flat_ids(rows, window=self.window, vocabulary=None, start=start)
        plain = [[int(item) for item in row] for row in rows]
        return Tokenized(lengths, Items(plain, EmbedOptions(), start, "token row"))

    async def _connect(self) -> int | None:
        url = self._client.url
        found = await find_served(url, self._model, self._client.get)
        # Not every server lists its models.
        self._served = found or Served(await self._first_that_answers(bases_of(url)))
        await self._choose_encoding()
        return self._served.window

    async def _first_that_answers(self, candidates: Sequence[str]) -> str:
        for candidate in candidates[:-1]:
            try:
                await self._client.post(f"{candidate}/embeddings", self._probe())
            except RefusedError as error:
                if error.no_such_place:
                    continue
            return candidate
        return candidates[-1]

    async def _choose_encoding(self) -> None:
        """Ask once for base64, and once for numbers where that is refused."""
        try:
            answer = await self._post(self._probe())
        except RefusedError as error:
            if not error.about_items:
                raise
            self._base64 = False
            await self._post(self._probe())
        else:
            rows = answer.get("data") if isinstance(answer, dict) else None
            first = rows[0] if isinstance(rows, list) and rows else {}
            # Some servers read over the wish; then it is not repeated.
            self._base64 = isinstance(first, dict) and isinstance(first.get("embedding"), str)

    def _probe(self) -> dict[str, Any]:
        return self._with_encoding(self._body(PROBE))

    def _with_encoding(self, body: dict[str, Any]) -> dict[str, Any]:
        return body | ({"encoding_format": "base64"} if self._base64 else {})

    async def _post(self, body: dict[str, Any], *, final: int | None = None) -> Any:
        try:
            return await self._client.post(f"{self._served.base}/embeddings", body, final=final)
        except RefusedError as error:
            if error.no_such_place:
                problem = f"nothing at {self._served.base}/embeddings; is that the right address?"
            elif error.status == 404:  # noqa: PLR2004 - a model that is not there
                known = ", ".join(self._served.names)
                problem = f"no model {self._model!r} for embeddings"
                problem += f"; it serves {known}" if known else ""
            else:
                raise
            raise RefusedError(
                f"{self._client.host} has {problem} ({error.detail})",
                status=error.status or 0,
                detail=error.detail,
            ) from None

    async def _vectors(self, request: Request, *, cut: bool) -> Vectors:
        body = self._with_encoding(self._body(request))
        if cut:
            body["truncate_prompt_tokens"] = -1  # to the model's window
        answer = await self._post(body, final=FAILED if request.suspected else None)
        rows = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadAnswerError(f"{self._client.host} did not return a list of vectors")
        vectors = read_vectors(
            [row.get("embedding") for row in rows], len(request), self._client.host
        )
        places = [row.get("index", place) for place, row in enumerate(rows)]
        whole = all(isinstance(place, int) for place in places)
        if not whole or sorted(places) != list(range(len(rows))):
            raise BadAnswerError(f"{self._client.host} returned the positions {places[:10]} ...")
        ordered = np.empty_like(vectors)
        ordered[places] = vectors
        return ordered

    async def _counts(self, texts: Sequence[str]) -> list[int]:
        url = f"{self._served.root}/tokenize"
        asked = [self._client.post(url, {"model": self._model, "prompt": text}) for text in texts]
        return [int(answer["count"]) for answer in await asyncio.gather(*asked)]
