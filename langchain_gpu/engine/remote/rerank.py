"""`POST /rerank`: how well documents answer a query, computed behind a server.

Two forms are spoken: Cohere's and Jina's (vLLM, infinity, llama-server, NIM's successors), which
take `documents` and return `{"results": [{"index", "relevance_score"}]}`, and TEI's, which takes
`texts` and returns `[{"index", "score"}]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from langchain_gpu.engine.remote.reranker import PROBE, OnLong, Part, Reranker, Scores
from langchain_gpu.engine.remote.suspicion import FAILED
from langchain_gpu.engine.remote.truncation import Truncation
from langchain_gpu.servers.errors import BadAnswerError, RefusedError
from langchain_gpu.servers.http import JsonClient
from langchain_gpu.servers.openai_models import bases_of
from langchain_gpu.servers.server import Server

DEFAULT_URL = "http://localhost:8000"


@dataclass(frozen=True, slots=True)
class _Form:
    """Where a server takes pairs, and under which name it takes documents."""

    url: str
    documents: str


class RemoteReranker(Reranker):
    """A cross-encoder behind a server.

    Args:
        model: Its name there.
        server: Where it is. Its address may end with `/v1`, `/rerank`, or neither; which form is
            spoken there is found out when the reranker is built.

    Raises:
        ServerError: Nothing there reranks, or not with this model.
        ValueError: The address or the key cannot be used.
    """

    _client: JsonClient

    def __init__(self, model: str, server: Server) -> None:
        client = JsonClient(server.url or DEFAULT_URL, server)
        self._truncation = Truncation(client.host)
        super().__init__(model, client, server.batch_size)

    def score(
        self, query: str, documents: Sequence[str], *, on_long: OnLong = "truncate"
    ) -> Scores:
        """Score documents; see `Reranker.score`. A warning tells once that the server cut pairs."""
        scores = super().score(query, documents, on_long=on_long)
        self._truncation.tell()
        return scores

    async def _connect(self) -> None:
        self._form = await self._find_form()

    async def _ask(self, part: Part) -> Scores:
        ask = partial(self._post, self._form)
        allowed = part.on_long == "truncate"
        return await self._truncation.ask(ask, part, f"document {part.start}", allowed=allowed)

    async def _post(self, form: _Form, part: Part, *, cut: bool) -> Scores:
        body: dict[str, Any] = {"query": part.query, form.documents: part.documents}
        if form.documents == "documents":
            body |= {"model": self._model, "return_documents": False}
            body |= {"truncate_prompt_tokens": -1} if cut else {}
        else:
            body |= {"truncate": cut}
        final = FAILED if part.suspected else None
        answer = await self._client.post(form.url, body, final=final)
        rows: Any = answer.get("results") if isinstance(answer, dict) else answer
        scores = np.full(len(part), np.nan, np.float32)
        try:
            for row in rows:
                scores[_place_of(row, len(part))] = _score_of(row)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise BadAnswerError(
                f"{self._client.host} returned scores that cannot be read: {error!r}"
            ) from None
        if len(rows) != len(part):
            raise BadAnswerError(
                f"{self._client.host} returned {len(rows)} scores for {len(part)} documents"
            )
        return self._finite(scores, part)

    async def _find_form(self) -> _Form:
        base = self._client.url
        urls = [f"{each}/rerank" for each in bases_of(base)]
        if base.endswith("/rerank"):
            urls = [base]
        refusals: list[RefusedError] = []
        for form in (_Form(url, name) for name in ("documents", "texts") for url in urls):
            try:
                await self._post(form, PROBE, cut=False)
            except RefusedError as error:
                if error.status in {401, 403}:
                    raise
                refusals.append(error)
                continue
            return form
        # What the server says about its own form tells more than that a place is not there.
        telling = next((each for each in refusals if not each.no_such_place), refusals[0])
        problem = f"does not rerank with model {self._model!r}"
        if telling.no_such_place:
            problem = "has no place that reranks; is the address right?"
        raise RefusedError(
            f"{self._client.host} {problem} ({telling.detail})",
            status=telling.status or 0,
            detail=telling.detail,
        )


def _place_of(row: Any, documents: int) -> int:
    """Return the document of a row. As an index, None would be all documents, and -1 the last.

    Raises:
        ValueError: There is no such document.
    """
    place = row["index"]
    if type(place) is not int or not 0 <= place < documents:
        raise ValueError(f"the position {place!r}")
    return place


def _score_of(row: Any) -> Any:
    return row["relevance_score"] if "relevance_score" in row else row["score"]
