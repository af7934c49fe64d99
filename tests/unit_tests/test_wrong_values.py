"""Wrong values: the message names the item and says what it wants, and shows no secret."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from pydantic import ValidationError

from langchain_gpu import (
    GPULLM,
    ChatGPU,
    FAISSVectorStore,
    GPUEmbeddings,
    GPURerank,
    create_rag_chain,
)
from langchain_gpu.generators.registry import Options, choose
from langchain_gpu.servers.address import check_url
from langchain_gpu.servers.server import Server

FACES = [ChatGPU, GPULLM, GPUEmbeddings, GPURerank]
SECRET = "pass-1234"  # noqa: S105 - nobody's
ADDRESS = f"http://user:{SECRET}@host"


def store() -> FAISSVectorStore:
    return FAISSVectorStore.from_texts(["a", "b"], DeterministicFakeEmbedding(size=8))


def chain(**given: Any) -> object:
    wanted = {"retriever": store().as_retriever(), "llm": FakeListChatModel(responses=["x"])}
    return create_rag_chain(**(wanted | given))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: chain(max_context_tokens="5"), TypeError, "max_context_tokens must be a whole"),
        (lambda: chain(max_context_tokens=1.5), TypeError, "max_context_tokens must be a whole"),
        (lambda: chain(max_context_tokens=0), ValueError, "max_context_tokens must be at least 1"),
        (lambda: chain(retriever="x"), TypeError, "retriever must be a retriever, not 'x'"),
        (lambda: chain(llm="x"), TypeError, "llm must be a chat model, not 'x'"),
        (lambda: chain(reranker="x"), TypeError, "reranker must be a BaseDocumentCompressor"),
        (lambda: chain(prompt=5), TypeError, "prompt must be a prompt template, not 5"),
        (
            lambda: store().as_retriever(search_kwargs={"k": "3"}).invoke("a"),
            TypeError,
            "k must be a whole number, not '3'",
        ),
        (lambda: store().similarity_search("a", k=2.0), TypeError, "k must be a whole number"),  # type: ignore[arg-type]
        (
            lambda: store().max_marginal_relevance_search("a", fetch_k="9"),  # type: ignore[arg-type]
            TypeError,
            "fetch_k must be a whole number, not '9'",
        ),
        (
            lambda: GPURerank().compress_documents([], "a", top_n="3"),  # type: ignore[call-arg]
            TypeError,
            "top_n",
        ),
    ],
)
def test_it_names_the_item(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("face", [ChatGPU, GPULLM])
@pytest.mark.parametrize(
    ("width", "error", "message"),
    [
        (0, ValueError, "max_concurrency must be at least 1, not 0"),
        (-1, ValueError, "max_concurrency must be at least 1, not -1"),
        ("2", TypeError, "max_concurrency must be a whole number, not '2'"),
    ],
)
async def test_the_width_of_a_batch(
    face: type[ChatGPU | GPULLM], width: Any, error: type[Exception], message: str
) -> None:
    model = face(model="m", backend="openai", base_url="http://127.0.0.1:1")
    config = {"max_concurrency": width}
    for errors in (True, False):
        with pytest.raises(error, match=message):
            model.batch(["a", "b"], config, return_exceptions=errors)  # type: ignore[arg-type]
        with pytest.raises(error, match=message):
            await model.abatch(["a", "b"], config, return_exceptions=errors)  # type: ignore[arg-type]
    if width:  # LangChain itself takes 0 in a bound config for none
        with pytest.raises(error, match=message):
            model.with_config(max_concurrency=width).batch(["a", "b"])


@pytest.mark.parametrize("face", FACES)
def test_settings_are_pickled_and_nothing_that_is_loaded(face: type[Any]) -> None:
    first = face(model="m", device="cpu")
    again = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own
    assert (again.model, again.device) == ("m", "cpu")


def test_a_store_says_what_to_do_in_place_of_pickling_it() -> None:
    kept = store()
    for spoil in (pickle.dumps, copy.deepcopy):
        for each in (kept, kept.as_retriever()):
            with pytest.raises(TypeError, match=r"save_local\(FOLDER\) writes it"):
                spoil(each)


@pytest.mark.parametrize("face", FACES)
def test_no_password_of_an_address_is_shown(face: type[Any]) -> None:
    model = face(model="m", backend="triton", base_url=ADDRESS)
    assert SECRET not in repr(model) + str(model)
    for wrong in ({"bsae_url": ADDRESS}, {"base_url": [ADDRESS]}, {"model": 5}):
        given = {"model": "m", "base_url": ADDRESS, "api_key": SECRET} | wrong
        with pytest.raises(ValidationError, match=next(iter(wrong))) as caught:
            face(**given)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("face", [ChatGPU, GPULLM])
def test_a_missing_model_shows_nothing_else(face: type[Any]) -> None:
    with pytest.raises(ValidationError, match="model\n.*required") as caught:
        face(base_url=ADDRESS, api_key=SECRET)
    assert SECRET not in str(caught.value)


def test_an_address_is_not_shown_below_the_faces() -> None:
    assert SECRET not in repr(Options(server=Server(url=ADDRESS)))
    for address in (ADDRESS, f"user:{SECRET}@host"):
        with pytest.raises(ValueError, match="must not hold a user or password") as caught:
            check_url(address)
        assert SECRET not in str(caught.value)
    with pytest.raises(ValueError, match="base_url has no meaning") as caught:
        choose("m", "transformers", Options(server=Server(url=ADDRESS)))
    assert SECRET not in str(caught.value)
