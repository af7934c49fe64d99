"""A real Triton Inference Server with the example's models: vectors, scores and chats over gRPC."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage

from langchain_gpu import GPULLM, ChatGPU, GPUEmbeddings, GPURerank
from langchain_gpu.models.resolve import resolve
from langchain_gpu.servers.errors import RefusedError, ServerError, ServerUnreachableError
from tests.integration_tests.servers import Running, free_port
from tests.integration_tests.triton_server import triton

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
pytestmark = [pytest.mark.shared, pytest.mark.models, pytest.mark.timeout(900)]
Chats = Callable[..., ChatGPU]


@pytest.fixture(scope="module")
def reranker(shared: Path) -> Path:
    return shared / "models" / "cross-encoder-minilm-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, reranker: Path) -> Iterator[Running]:
    with triton(tmp_path_factory.mktemp("triton"), reranker) as running:
        yield running


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    """400 of mixed lengths, in no order."""
    data = json.loads((shared / "data/xquad/xquad.en.json").read_text())["data"]
    parts = [part for article in data for part in article["paragraphs"]]
    found = [part["context"] for part in parts[:40]]
    found += [each["question"] for part in parts for each in part["qas"]][:360]
    random.Random(0).shuffle(found)  # noqa: S311 - an order, no secret
    return [*found[:-3], "", "naïve café 漢字 🙂", "a\nb"]


@pytest.fixture
def chats(server: Running) -> Iterator[Chats]:
    built: list[ChatGPU] = []

    def build(**settings: Any) -> ChatGPU:
        defaults = {"model": "chat", "temperature": 0, "max_tokens": 16, "timeout": 300}
        url = {"backend": "triton", "base_url": server.url}
        built.append(ChatGPU(**{**url, **defaults, **settings}))
        return built[-1]

    yield build
    for chat in built:
        chat.close()


@pytest.mark.filterwarnings("ignore::langchain_gpu.events.TruncationWarning")  # cut alike
def test_vectors_are_the_local_ones_in_order(server: Running, texts: list[str]) -> None:
    with GPUEmbeddings(model="embed", backend="triton", base_url=server.url) as there:
        vectors = there.embed_to_array(texts)
        assert there.devices[0].kind == "remote"
    folder = str(resolve(MINILM).path)
    with GPUEmbeddings(model=folder, backend="torch", dtype="float32", device="cpu") as here:
        wanted = here.embed_to_array(texts)
    assert vectors.shape == (400, 384)
    cosines = (vectors * wanted).sum(1) / np.linalg.norm(vectors, axis=1)
    assert cosines.min() >= 0.9999


@pytest.mark.filterwarnings("ignore::langchain_gpu.events.TruncationWarning")  # cut alike
def test_scores_are_the_local_ones(server: Running, reranker: Path, texts: list[str]) -> None:
    pairs = [(texts[at % 3], text) for at, text in enumerate(texts[:60])]
    with GPURerank(model="rerank", backend="triton", base_url=server.url) as there:
        scores = there.score(pairs)
        best = there.rerank(texts[0], texts[:50], top_n=3)
    local = {"backend": "torch", "dtype": "float32", "device": "cpu", "activation": "identity"}
    with GPURerank(model=str(reranker), **local) as here:
        assert np.allclose(scores, here.score(pairs), atol=1e-3)
        wanted = here.rerank(texts[0], texts[:50], top_n=3)
    assert [each.index for each in best] == [each.index for each in wanted]


def test_chats(chats: Chats) -> None:
    chat = chats()
    question = [("system", "Answer in one word."), ("human", "The capital of France?")]
    answer = chat.invoke(question)
    assert answer.content
    usage = answer.usage_metadata
    assert usage is not None
    assert usage["output_tokens"] <= 16
    assert usage["input_tokens"] > 10
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    pieces = [piece.content for piece in chat.stream(question)]
    assert len(pieces) > 2
    assert "".join(map(str, pieces)) == answer.content
    assert chats(max_tokens=2).invoke("Count.").response_metadata["finish_reason"] == "length"


async def test_streams_asynchronously(chats: Chats) -> None:
    pieces = [piece.content async for piece in chats().astream([HumanMessage("Say hi.")])]
    assert "".join(map(str, pieces))


def test_many_keep_their_order(chats: Chats) -> None:
    chat = chats(max_tokens=8)
    questions = [f"Repeat the number {number}" for number in (11, 22, 33, 44)]
    alone = [chat.invoke(question).content for question in questions]
    assert [each.content for each in chat.batch(questions)] == alone


def test_stop_and_plain_prompts(server: Running) -> None:
    settings = {"temperature": 0, "timeout": 300, "backend": "triton", "base_url": server.url}
    with GPULLM(model="chat", max_tokens=12, **settings) as llm:
        text = llm.invoke("1, 2, 3, 4, 5,")
        assert "7" in text
        assert llm.invoke("1, 2, 3, 4, 5,", stop=["7"]) == text.split("7")[0]


def test_the_seed_repeats(chats: Chats) -> None:
    chat = chats(temperature=1.5, seed=7)
    first, again = (chat.invoke("Tell me something odd.").content for _ in range(2))
    assert first == again
    assert chats(temperature=1.5, seed=8).invoke("Tell me something odd.").content != first


def test_a_closed_stream_frees_its_place(chats: Chats) -> None:
    """There is one place: a chat that ran on would keep the next one waiting for all its tokens."""
    long = chats(max_tokens=1500)
    start = time.perf_counter()
    stream: Any = long.stream("Count from 1 to 1000, one number per line.")
    for _ in range(30):
        next(stream)
    each = (time.perf_counter() - start) / 30
    stream.close()
    start = time.perf_counter()
    chats(max_tokens=4).invoke("Hi")
    assert time.perf_counter() - start < each * 1500 / 2


async def test_a_cancelled_task_frees_its_place(chats: Chats) -> None:
    task = asyncio.create_task(chats(max_tokens=1500).ainvoke("Count from 1 to 1000."))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await chats(max_tokens=4).ainvoke("Hi")).content


def test_a_time_out_ends_it(chats: Chats) -> None:
    with pytest.raises(TimeoutError, match="did not finish the answer within 1 seconds"):
        chats(max_tokens=1500, timeout=1, model_kwargs={"ignore_eos": True}).invoke("Count.")
    assert chats(max_tokens=4).invoke("Hi").content


def test_a_prompt_beyond_the_window(chats: Chats) -> None:
    with pytest.raises(ContextOverflowError, match="the prompt is too long"):
        chats().invoke("word " * 5000)


def test_models_it_does_not_have(server: Running, chats: Chats) -> None:
    match = r"no model 'x' that is ready; it has broken \(unavailable: .*chat \(ready\)"
    with pytest.raises(RefusedError, match=match):
        chats(model="x").invoke("Hi")
    broken = GPUEmbeddings(
        model="broken", backend="triton", base_url=server.url, max_retries=0, timeout=30
    )
    with pytest.raises(RefusedError, match="no model 'broken' that is ready"):
        broken.embed_query("a")
    with pytest.raises(ValueError, match=r"no input of type BYTES|inputs of type BYTES"):
        GPUEmbeddings(model="rerank", backend="triton", base_url=server.url).embed_query("a")


def test_nobody_there() -> None:
    url = f"grpc://127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnreachableError, match="Is Triton running"):
        ChatGPU(model="chat", backend="triton", base_url=url, max_retries=0).invoke("Hi")


def test_answers_in_a_form(chats: Chats) -> None:
    schema = {
        "title": "Place",
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    }
    chat = chats(max_tokens=40).with_structured_output(schema, method="json_schema")
    found: Any = chat.invoke("Name a city.")
    assert isinstance(found["city"], str)


def test_a_crash_in_the_middle(tmp_path: Path, reranker: Path) -> None:
    """No call hangs: not the stream that is under way, and not the next one."""
    with triton(tmp_path, reranker) as server:
        url = {"backend": "triton", "base_url": server.url}
        chat = ChatGPU(model="chat", max_tokens=1500, timeout=300, max_retries=1, **url)
        embeddings = GPUEmbeddings(model="embed", max_retries=1, **url)
        embeddings.embed_query("a")
        stream = chat.stream("Count from 1 to 1000, one number per line.")
        next(stream)
        server.kill()
        with pytest.raises(ServerError):
            list(stream)
        with pytest.raises(ServerUnreachableError):
            embeddings.embed_query("b")
        with pytest.raises(ServerUnreachableError):
            chat.invoke("Hi")
