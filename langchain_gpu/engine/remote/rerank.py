"""`POST /rerank`: how well documents answer a query, computed behind a server.

Two forms are spoken: Cohere's and Jina's (vLLM, infinity, llama-server, NIM's successors), which
take `documents` and return `{"results": [{"index", "relevance_score"}]}`, and TEI's, which takes
`texts` and returns `[{"index", "score"}]`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.engine.remote.cuts import Cuts
from langchain_gpu.engine.remote.halves import by_halves
from langchain_gpu.engine.tasks.embed import TextTooLongError, check_texts, surrogate_problem
from langchain_gpu.hardware.devices import Device
from langchain_gpu.servers import address
from langchain_gpu.servers.errors import BadAnswerError, RefusedError
from langchain_gpu.servers.http import JsonClient
from langchain_gpu.servers.server import Server

OnLong = Literal["truncate", "error"]
DEFAULT_URL = "http://localhost:8000"
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Form:
    """Where a server takes pairs, and under which name it takes documents."""

    url: str
    documents: str


@dataclass(frozen=True, slots=True)
class _Part:
    query: str
    documents: Sequence[str]
    start: int
    on_long: OnLong

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, part: slice) -> _Part:
        first = part.indices(len(self))[0]
        return replace(self, documents=self.documents[part], start=self.start + first)


_PROBE = _Part("query", ["document"], 0, "error")


class RemoteReranker:
    """A cross-encoder behind a server.

    Args:
        model: Its name there.
        server: Where it is. Its address may end with `/v1`, `/rerank`, or neither; which form is
            spoken there is found out when the reranker is built.

    Raises:
        ServerError: Nothing there reranks, or not with this model.
        ValueError: The address or the key cannot be used.
    """

    def __init__(self, model: str, server: Server) -> None:
        self._model = model
        self._client = JsonClient(server.url or DEFAULT_URL, server)
        self._max_items = server.batch_size
        self._cuts = Cuts(self._client.host)
        self._closing = weakref.finalize(self, self._client.close)
        try:
            self._form = self._client.run(self._find_form())
        except BaseException:
            self._closing()
            raise
        host = self._client.host
        self.device = Device(kind="remote", name=host, reason=f"{host} serves {model}")

    def score(
        self, query: str, documents: Sequence[str], *, on_long: OnLong = "truncate"
    ) -> Scores:
        """Score documents, several requests in flight.

        Args:
            query: What is asked.
            documents: What might answer it.
            on_long: For pairs beyond the model's window: `"truncate"` has the server cut them,
                with a warning, where it can (vLLM, TEI); `"error"` refuses them.

        Returns:
            Scores as the server computes them, higher is better, in the order of the documents.
            Shape (documents,). Most servers return probabilities, some raw logits.

        Raises:
            TextTooLongError: The server refuses a pair for its length; names the document.
            ServerError: The server did not do it.
            TypeError: The query or a document is no text.
            ValueError: A text cannot be sent.
        """
        check_sendable(query, documents)
        step = self._max_items
        flights = [
            self._client.start(self._scores(_Part(query, documents[at : at + step], at, on_long)))
            for at in range(0, len(documents), step)
        ]
        try:
            scores = [flight() for flight in flights]
        finally:
            for flight in flights:
                flight.cancel()
        self._cuts.tell()
        return np.concatenate([np.empty(0, np.float32), *scores])

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        self._closing()

    async def _scores(self, part: _Part) -> Scores:
        async def ask(part: _Part) -> Scores:
            allowed = part.on_long == "truncate"
            return await self._cuts.ask(
                partial(self._ask, self._form), part, f"document {part.start}", allowed=allowed
            )

        return await by_halves(part, ask, self._named, self._too_many)

    async def _ask(self, form: _Form, part: _Part, *, cut: bool) -> Scores:
        body: dict[str, Any] = {"query": part.query, form.documents: part.documents}
        if form.documents == "documents":
            body |= {"model": self._model, "return_documents": False}
            body |= {"truncate_prompt_tokens": -1} if cut else {}
        else:
            body |= {"truncate": cut}
        answer = await self._client.post(form.url, body)
        rows: Any = answer.get("results") if isinstance(answer, dict) else answer
        scores = np.full(len(part), np.nan, np.float32)
        try:
            for row in rows:
                scores[row["index"]] = _score_of(row)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise BadAnswerError(
                f"{self._client.host} returned scores that cannot be read: {error!r}"
            ) from None
        if len(rows) != len(part):
            raise BadAnswerError(
                f"{self._client.host} returned {len(rows)} scores for {len(part)} documents"
            )
        finite = np.isfinite(scores)
        if not finite.all():
            bad = part.start + int(np.flatnonzero(~finite)[0])
            raise BadAnswerError(f"{self._client.host} returned no finite score for document {bad}")
        return scores

    async def _find_form(self) -> _Form:
        base = self._client.url
        if base.endswith("/rerank"):
            urls = [base]
        elif address.has_path(base):
            urls = [f"{base}/rerank"]
        else:
            urls = [f"{base}/v1/rerank", f"{base}/rerank"]
        refusals: list[RefusedError] = []
        for form in (_Form(url, name) for name in ("documents", "texts") for url in urls):
            try:
                await self._ask(form, _PROBE, cut=False)
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

    def _named(self, part: _Part, error: RefusedError) -> Exception:
        text = f"document {part.start} was refused: {error}"
        if error.too_long:
            remedy = "split it, or choose on_long='truncate'"
            if part.on_long == "truncate":
                remedy = "the server does not cut it, so split it"
            return TextTooLongError(
                f"{text}. With the query it is longer than the model's window: {remedy}"
            )
        return RefusedError(text, status=error.status or 0, detail=error.detail)

    def _too_many(self, items: int) -> None:
        if items <= self._max_items:
            self._max_items = max(1, items // 2)


def _score_of(row: Any) -> Any:
    return row["relevance_score"] if "relevance_score" in row else row["score"]


def check_sendable(query: str, documents: Sequence[str]) -> None:
    """Refuse what no server can be sent.

    Raises:
        TypeError: The query or a document is no text.
        ValueError: A text cannot be encoded; the message names it.
    """
    if not isinstance(query, str):
        raise TypeError(f"the query is {type(query).__name__}, not str")
    if isinstance(documents, str | bytes):
        raise TypeError(f"documents is one {type(documents).__name__}; pass a list: [document]")
    check_texts(documents)
    for name, text in [
        ("the query", query),
        *((f"document {i}", t) for i, t in enumerate(documents)),
    ]:
        if (problem := surrogate_problem(text)) is not None:
            raise ValueError(f"{name} {problem}")
