"""Vectors from a Triton server, through the public class and over real gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.utils import triton_to_np_dtype

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine.tasks.embed import TextTooLongError
from langchain_gpu.servers.address import grpc_place
from langchain_gpu.servers.errors import (
    BadAnswerError,
    RefusedError,
    ServerError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from tests.unit_tests.scripted_triton import Asked, Model, ScriptedTriton, serving

TEXTS = [f"text {number} " + "word " * (number % 7) for number in range(50)]
TEXT, VECTOR = ("text", "BYTES", [1]), ("vector", "FP32", [3])
Status = grpc.StatusCode
Builds = Callable[..., GPUEmbeddings]


def vector_of(text: bytes) -> list[float]:
    return [len(text), sum(text) % 97, 1.0]


def embed(asked: Asked) -> dict[str, Any]:
    found = next(iter(asked.inputs.values()))
    return {"vector": np.array([vector_of(text) for text in found.reshape(-1)], np.float32)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedTriton]:
    with serving(monkeypatch, {"embed": Model([TEXT], [VECTOR], embed)}) as running:
        yield running


@pytest.fixture
def builds(server: ScriptedTriton) -> Iterator[Builds]:
    built: list[GPUEmbeddings] = []

    def build(**settings: Any) -> GPUEmbeddings:
        defaults = {"model": "embed", "backend": "triton", "base_url": "grpc://far.example:8001"}
        built.append(GPUEmbeddings(**{**defaults, **settings}))
        return built[-1]

    yield build
    for embeddings in built:
        embeddings.close()


def test_order_batches_and_flights(server: ScriptedTriton, builds: Builds) -> None:
    embeddings = builds(max_concurrency=3)
    vectors = embeddings.embed_to_array(TEXTS)
    assert np.array_equal(vectors, np.array([vector_of(t.encode()) for t in TEXTS], np.float32))
    sizes = [asked.inputs["text"].shape for asked in server.asked]
    assert max(sizes) == (8, 1)  # the model's max_batch_size
    assert sum(size[0] for size in sizes) == len(TEXTS) + 1  # and the probe
    assert server.busiest <= 3
    assert embeddings.dimension == 3
    assert str(embeddings.devices[0].kind) == "remote"
    assert embeddings.devices[0].name == "far.example:8001"


async def test_async_and_queries(builds: Builds) -> None:
    embeddings = builds()
    assert await embeddings.aembed_query("hello") == vector_of(b"hello")
    assert await embeddings.aembed_documents(["a", "bc"]) == [vector_of(b"a"), vector_of(b"bc")]


@pytest.mark.parametrize(
    ("dims", "shape"), [([-1], (5,)), ([-1, 1], (5, 1)), ([-1, -1], (5, 1)), ([1], (1,))]
)
def test_models_without_a_batch_dimension(
    server: ScriptedTriton, builds: Builds, dims: list[int], shape: tuple[int, ...]
) -> None:
    server.models["embed"] = Model([("t", "BYTES", dims)], [("v", "FP32", [-1, 3])], max_batch=0)
    server.models["embed"].answer = lambda asked: {"v": embed(asked)["vector"]}
    assert builds().embed_documents(["a"] * 5) == [vector_of(b"a")] * 5
    assert server.asked[-1].inputs["t"].shape == shape


def test_one_vector_without_a_batch_dimension(server: ScriptedTriton, builds: Builds) -> None:
    server.models["embed"] = Model([("t", "BYTES", [1])], [("v", "FP32", [3])], max_batch=0)
    server.models["embed"].answer = lambda asked: {"v": embed(asked)["vector"][0]}
    assert builds().embed_documents(["a", "b"]) == [vector_of(b"a"), vector_of(b"b")]


def test_half_precision_and_a_dimension_of_one(server: ScriptedTriton, builds: Builds) -> None:
    server.models["embed"] = Model([TEXT], [("v", "FP16", [1, 3])])
    server.models["embed"].answer = lambda asked: {
        "v": embed(asked)["vector"].astype(np.float16)[:, None]
    }
    vectors = builds().embed_to_array(["a", "b"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, 3)


def test_tensors_that_cannot_be_told_apart(server: ScriptedTriton, builds: Builds) -> None:
    server.models["embed"] = Model(
        [TEXT, ("title", "BYTES", [1], True)], [VECTOR, ("w", "FP32", [2])]
    )
    with pytest.raises(ValueError, match=r"2 outputs of type.*vector \(FP32 \[3\]\), w .*output"):
        builds().embed_query("a")
    server.models["embed"].answer = lambda asked: {
        "w": np.ones((len(asked.inputs["title"]), 2), "f4")
    }
    embeddings = builds(model_kwargs={"input": "title", "output": "w"})
    with pytest.raises(ValueError, match=r"needs inputs that nothing fills: text \(BYTES \[1\]\)"):
        embeddings.embed_query("a")
    server.models["embed"].inputs = [("text", "BYTES", [1], True), ("title", "BYTES", [1], True)]
    assert embeddings.embed_query("a") == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"no output 'x' of type FP32"):
        builds(model_kwargs={"output": "x", "input": "text"}).embed_query("a")


def test_a_model_without_texts(server: ScriptedTriton, builds: Builds) -> None:
    server.models["embed"] = Model([("ids", "INT64", [-1])], [VECTOR])
    with pytest.raises(ValueError, match=r"no input of type BYTES \(it has inputs ids \(INT64"):
        builds().embed_query("a")


def test_parameters_by_kind(server: ScriptedTriton, builds: Builds) -> None:
    embeddings = builds(model_kwargs={"task": "x", "query": {"task": "search"}})
    embeddings.embed_query("a")
    embeddings.embed_documents(["a"])
    assert [asked.parameters for asked in server.asked[1:]] == [{"task": "search"}, {"task": "x"}]


def test_the_key_goes_along_and_is_never_shown(server: ScriptedTriton, builds: Builds) -> None:
    embeddings = builds(api_key="very-secret", max_retries=0)
    embeddings.embed_query("a")
    assert server.asked[0].headers["authorization"] == "Bearer very-secret"
    server.faults = [(Status.UNAUTHENTICATED, "who is very-secret?")]
    with pytest.raises(RefusedError, match=r"UNAUTHENTICATED.*\*\*\*.*is api_key right") as caught:
        embeddings.embed_query("a")
    assert "very-secret" not in str(caught.value)
    assert "very-secret" not in repr(embeddings)


def test_a_model_it_does_not_have(server: ScriptedTriton, builds: Builds) -> None:
    server.models["broken"] = Model([TEXT], [VECTOR], ready=False, reason="out of luck")
    match = r"no model 'x' that is ready; it has embed \(ready\), broken \(unavailable: out of luck"
    with pytest.raises(RefusedError, match=match):
        builds(model="x").embed_query("a")
    with pytest.raises(RefusedError, match=r"no model 'broken' that is ready"):
        builds(model="broken").embed_query("a")


def test_a_storm_passes(server: ScriptedTriton, builds: Builds) -> None:
    embeddings = builds(max_retries=3)
    embeddings.embed_query("a")
    server.faults = [(Status.UNAVAILABLE, "Exceeds maximum queue size")] * 2
    server.faults += [(Status.RESOURCE_EXHAUSTED, "too busy")]
    assert embeddings.embed_query("b") == vector_of(b"b")
    assert server.faults == []


def test_a_storm_that_stays(server: ScriptedTriton, builds: Builds) -> None:
    embeddings = builds(max_retries=2)
    embeddings.embed_query("a")
    server.faults = [(Status.UNAVAILABLE, "Exceeds maximum queue size")] * 9
    with pytest.raises(ServerError, match="answered UNAVAILABLE: Exceeds maximum queue size"):
        embeddings.embed_query("b")
    assert len(server.faults) == 6  # three attempts


def test_a_batch_that_does_not_fit_is_halved(server: ScriptedTriton, builds: Builds) -> None:
    def small(asked: Asked) -> dict[str, Any]:
        if len(asked.inputs["text"]) > 2:
            asked.context.abort(Status.INTERNAL, "CUDA out of memory")
        return embed(asked)

    server.models["embed"].answer = small
    embeddings = builds(max_retries=5)
    assert embeddings.embed_documents(["a"] * 8) == [vector_of(b"a")] * 8


def test_a_text_for_which_it_has_no_memory(server: ScriptedTriton, builds: Builds) -> None:
    """There is no other device, and nobody here knows what is free there."""

    def answer(asked: Asked) -> dict[str, Any]:
        if b"big" in asked.inputs["text"]:
            asked.context.abort(Status.INTERNAL, "CUDA out of memory")
        return embed(asked)

    server.models["embed"].answer = answer
    with pytest.raises(MemoryError) as caught:
        builds().embed_documents(["a", "big", "c"])
    message = str(caught.value)
    assert "item 1 (about 2 tokens) does not fit on far.example:8001 even alone: " in message
    assert message.endswith("CUDA out of memory. Shorten it.")


def test_the_text_that_is_to_blame_is_named(server: ScriptedTriton, builds: Builds) -> None:
    def picky(asked: Asked) -> dict[str, Any]:
        if b"bad" in asked.inputs["text"]:
            asked.context.abort(Status.INTERNAL, "Failed to process the request(s): no bad words")
        if b"long" in asked.inputs["text"]:
            asked.context.abort(
                Status.INVALID_ARGUMENT, "longer than the maximum model length of 8"
            )
        return embed(asked)

    server.models["embed"].answer = picky
    with pytest.raises(RefusedError, match="text 33 was refused.*no bad words"):
        builds().embed_documents([*TEXTS[:33], "bad", *TEXTS[33:]])
    with pytest.raises(TextTooLongError, match="text 2 was refused.*does not cut it, so split it"):
        builds().embed_documents(["a", "b", "long"])


def test_a_server_that_hangs_is_a_time_out(server: ScriptedTriton, builds: Builds) -> None:
    embeddings = builds(timeout=0.3, max_retries=1)
    embeddings.embed_query("a")

    def hang(asked: Asked) -> dict[str, Any]:
        asked.wait()
        return embed(asked)

    server.models["embed"].answer = hang
    start = time.monotonic()
    with pytest.raises(ServerTimeoutError, match=r"did not answer within 0.3 seconds|DEADLINE"):
        embeddings.embed_query("b")
    assert time.monotonic() - start < 20


def test_a_server_that_comes_back(server: ScriptedTriton, builds: Builds) -> None:
    """It is found again soon, however long it was away."""
    embeddings = builds(max_retries=0)
    embeddings.embed_query("a")
    server.stop()
    until = time.monotonic() + 6
    while time.monotonic() < until:
        with pytest.raises(ServerUnreachableError):
            embeddings.embed_query("b")
        time.sleep(0.2)
    server.start()
    until = time.monotonic() + 10
    while True:
        try:
            assert embeddings.embed_query("b") == vector_of(b"b")
            break
        except ServerUnreachableError:
            assert time.monotonic() < until, "still not found"
            time.sleep(0.2)


def test_the_first_call_after_it_came_back(server: ScriptedTriton, builds: Builds) -> None:
    """It connects at once; gRPC itself would go on with the old error for two seconds."""
    embeddings = builds(max_retries=0)
    embeddings.embed_query("a")
    server.stop()
    for _ in range(20):
        with pytest.raises(ServerUnreachableError):
            embeddings.embed_query("b")
        time.sleep(0.1)
    server.start()
    assert embeddings.embed_query("b") == vector_of(b"b")


def test_it_breaks_off(server: ScriptedTriton, builds: Builds) -> None:
    embeddings = builds(max_retries=0)
    embeddings.embed_query("a")

    def dies(asked: Asked) -> dict[str, Any]:
        threading.Thread(target=server.stop).start()
        asked.wait()
        time.sleep(1)  # the connection goes first
        return embed(asked)

    server.models["embed"].answer = dies
    with pytest.raises(ServerError):
        embeddings.embed_query("b")


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, builds: Builds, tmp_path: Any) -> None:
    from langchain_gpu.servers import triton

    monkeypatch.setattr(triton, "channel_target", lambda _: f"unix:{tmp_path}/none")
    with pytest.raises(
        ServerUnreachableError, match="Is Triton running, and is this its gRPC port"
    ):
        builds(max_retries=1).embed_query("a")


def test_bfloat16(server: ScriptedTriton, builds: Builds) -> None:
    bfloat16 = triton_to_np_dtype("BF16")
    server.models["embed"] = Model([TEXT], [("v", "BF16", [3])])
    server.models["embed"].answer = lambda asked: {"v": embed(asked)["vector"].astype(bfloat16)}
    assert builds().embed_documents(["a", "bc"]) == [vector_of(b"a"), vector_of(b"bc")]


@pytest.mark.parametrize("dims", [[4, 3], [-1, -1]])
def test_vectors_of_tokens_are_no_vectors(
    server: ScriptedTriton, builds: Builds, dims: list[int]
) -> None:
    """Texts padded to one length would all have vectors of one width: of every token, flattened."""
    server.models["embed"] = Model([TEXT], [("tokens", "FP32", dims)])
    server.models["embed"].answer = lambda asked: {
        "tokens": np.ones((len(asked.inputs["text"]), 4, 3), np.float32)
    }
    match = (
        r"tokens of shape \(1, 4, 3\), which is not one vector per text.*model_kwargs\['output'\]"
    )
    with pytest.raises(BadAnswerError, match=match):
        builds().embed_query("a")


def test_vectors_without_numbers(server: ScriptedTriton, builds: Builds) -> None:
    server.models["embed"].answer = lambda asked: {
        "vector": np.ones((len(asked.inputs["text"]), 0), np.float32)
    }
    with pytest.raises(BadAnswerError, match="returned empty vectors"):
        builds().embed_query("a")


@pytest.mark.parametrize(
    ("vectors", "match"),
    [
        (np.ones((1, 4), np.float32), r"shape \(1, 4\) instead of \(1, 3\)"),
        (np.ones((2, 3), np.float32), r"shape \(2, 3\) instead of \(1, 3\)"),
        (np.ones((1, 3), np.int32), "returned int32 in the tensor vector"),
        (np.full((1, 3), np.nan, np.float32), "NaN or infinity for text 0"),
        (None, "returned no tensor vector"),
    ],
)
def test_wrong_answers(server: ScriptedTriton, builds: Builds, vectors: Any, match: str) -> None:
    embeddings = builds()
    embeddings.embed_query("a")
    server.models["embed"].answer = lambda _: {} if vectors is None else {"vector": vectors}
    with pytest.raises(BadAnswerError, match=match):
        embeddings.embed_query("b")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"base_url": None}, "needs base_url"),
        ({"base_url": "ftp://host"}, "is not the address of a Triton server"),
        ({"base_url": "grpc://host:8001/path"}, "is not the address of a Triton server"),
        ({"base_url": "grpc://me:secret@host"}, "must not hold a user or password"),
        ({"dtype": "float16"}, "cannot be chosen here"),
        ({"device": "cuda"}, "cannot be chosen here"),
        ({"on_long": "error"}, "on_long='error' cannot be promised"),
        ({"on_long": "mean"}, "on_long='mean' needs the model's tokenizer"),
    ],
)
def test_what_cannot_be(builds: Builds, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        builds(**settings).embed_query("a")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("grpc://host", "grpc://host:8001"),
        ("grpc://host:9000", "grpc://host:9000"),
        ("grpc://host:8000", "grpc://host:8000"),  # who writes grpc means it
        ("http://host:8000", "grpc://host:8001"),
        ("http://host:8000/", "grpc://host:8001"),
        ("http://host:8001", "grpc://host:8001"),
        ("https://host:443", "grpcs://host:443"),
        ("grpcs://[::1]:8001", "grpcs://[::1]:8001"),
    ],
)
def test_an_address_of_any_form_becomes_a_grpc_place(url: str, place: str) -> None:
    assert grpc_place(url).url == place
