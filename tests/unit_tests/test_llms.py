"""`GPULLM` over tiny models: plain prompts, one call for all of them, streams, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import wraps
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import FakeListLLM
from langchain_core.outputs import Generation
from pydantic import ValidationError

from langchain_gpu import GPULLM, ChatGPU
from langchain_gpu.generators.transformers import TransformersGenerator
from tests.unit_tests.tiny_chat import WINDOW, build_chat

SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "temperature": 0, "max_tokens": 6}
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_chat(tmp_path_factory.mktemp("base"), template=None)


@pytest.fixture(scope="module")
def llm(path: str) -> Iterator[GPULLM]:
    with GPULLM(model=path, **SETTINGS) as model:
        yield model


@pytest.fixture(scope="module")
def gguf() -> Iterator[GPULLM]:
    engine = {"device": "cpu", "n_ctx": 256, "n_parallel": 2, "n_threads": 1}
    with GPULLM(model=SMOLLM2, backend="llama_cpp", temperature=0, max_tokens=5, **engine) as model:
        yield model


class Ear(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard = ""

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.heard += token


def forwards(llm: GPULLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward has from now on."""
    heights: list[int] = []
    with llm._hold() as generator:
        assert isinstance(generator, TransformersGenerator)
        model = generator._open.model
    forward = model.forward

    @wraps(forward)
    def counted(*args: Any, **kwargs: Any) -> Any:
        heights.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    return heights


async def test_every_way_to_ask_gives_the_same_text(llm: GPULLM) -> None:
    text = llm.invoke("hello")
    assert text
    assert "".join(llm.stream("hello")) == text
    assert await llm.ainvoke("hello") == text
    assert "".join([piece async for piece in llm.astream("hello")]) == text
    assert llm.batch(["hello"] * 3) == [text] * 3
    assert await llm.abatch(["hello"] * 3) == [text] * 3
    assert llm.invoke("hello", stop=[text[2:4]]) == text[: text.find(text[2:4])]
    assert text.startswith(llm.invoke("hello", max_tokens=2))


def test_a_prompt_is_continued_and_no_template_stands_between(path: str, llm: GPULLM) -> None:
    with llm._hold() as generator:
        assert isinstance(generator, TransformersGenerator)
        model = generator._open
        ids = model.tokenizer("hello", return_tensors="pt")
        whole = model.model.generate(**ids, max_new_tokens=6, do_sample=False)[0]
        text = model.tokenizer.decode(whole[ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert llm.invoke("hello") == text
    with pytest.raises(ValueError, match="GPULLM"):
        ChatGPU(model=path, **SETTINGS).invoke("hello")


@pytest.mark.parametrize("is_async", [False, True])
async def test_all_prompts_share_forwards_and_say_what_they_took(
    llm: GPULLM, monkeypatch: pytest.MonkeyPatch, *, is_async: bool
) -> None:
    prompts = ["a", "hello world", "the longest of the prompts"]
    alone = [llm.invoke(prompt) for prompt in prompts]
    with llm._hold() as generator:
        counts = [len(generator.tokenize(prompt)) for prompt in prompts]
    heights = forwards(llm, monkeypatch)
    result = await llm.agenerate(prompts) if is_async else llm.generate(prompts)
    assert heights == [3] * 6
    assert [each[0].text for each in result.generations] == alone
    assert result.llm_output is not None
    assert result.llm_output["token_usage"] == {
        "prompt_tokens": sum(counts),
        "completion_tokens": 18,
        "total_tokens": sum(counts) + 18,
    }
    first = result.generations[1][0]
    assert isinstance(first, Generation)
    info = first.generation_info or {}
    assert info["finish_reason"] == "length"
    assert info["device"] == "cpu"
    assert info["usage"]["input_tokens"] == counts[1]
    assert info["timings"]["seconds"] > 0


def test_streaming_inside_invoke_tells_the_callbacks_every_token(path: str, llm: GPULLM) -> None:
    ear = Ear()
    with GPULLM(model=path, streaming=True, **SETTINGS) as model:
        text = model.invoke("hello", config={"callbacks": [ear]})
    assert ear.heard == text == llm.invoke("hello")
    ear = Ear()
    assert "".join(llm.stream("hello", config={"callbacks": [ear]})) == ear.heard == text


@pytest.mark.parametrize(
    ("prompt", "error", "named"),
    [
        ("", ValueError, "prompt 0 is empty"),
        ("a\ud800b", ValueError, "prompt 0: character 1"),
        ("x" * 1000, ContextOverflowError, f"window holds {WINDOW}"),
    ],
)
async def test_what_cannot_be_continued_is_named(
    prompt: str, error: type[Exception], named: str, llm: GPULLM
) -> None:
    with pytest.raises(error, match=named):
        llm.invoke(prompt)
    with pytest.raises(error, match=named):
        list(llm.stream(prompt))
    with pytest.raises(error, match=named):
        await llm.ainvoke(prompt)


@pytest.mark.parametrize("engine", ["llm", pytest.param("gguf", marks=pytest.mark.models)])
async def test_of_several_prompts_the_one_that_is_too_long_is_named(
    engine: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(engine)
    prompts = ["a", "hello", "x " * 1000]
    with pytest.raises(ContextOverflowError, match="^prompt 2: the prompt has"):
        model.batch(prompts)
    with pytest.raises(ContextOverflowError, match="^prompt 2: the prompt has"):
        await model.agenerate(prompts)
    with pytest.raises(ContextOverflowError, match="^the prompt has"):
        model.invoke(prompts[2])


def test_settings_are_checked(llm: GPULLM) -> None:
    with pytest.raises(ValidationError, match="tempreature"):
        GPULLM(model="m", tempreature=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        llm.invoke("hello", max_tokens=0)
    with pytest.raises(ValueError, match="this GPULLM holds"):
        llm.invoke("hello", model="another")
    with pytest.raises(TimeoutError):
        llm.invoke("hello", max_tokens=100, timeout=1e-6)


async def test_one_that_fails_cancels_its_call_and_no_other(llm: GPULLM) -> None:
    other = asyncio.create_task(llm.ainvoke("hello"))
    with pytest.raises(ContextOverflowError):
        await llm.agenerate(["a", "x" * 1000])
    assert await other == llm.invoke("hello")


def test_an_engine_without_plain_prompts_says_so(
    llm: GPULLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersGenerator, "plain_prompts", False)
    with pytest.raises(NotImplementedError, match="TransformersGenerator takes chats only"):
        llm.invoke("hello")
    both = llm.with_fallbacks([FakeListLLM(responses=["from the other"])])
    assert both.invoke("hello") == "from the other"


def test_langchains_cache_works(llm: GPULLM) -> None:
    cached = llm.model_copy(update={"cache": InMemoryCache()})
    assert cached.invoke("hello") == cached.invoke("hello") == llm.invoke("hello")
    shorter = cached.model_copy(update={"max_tokens": 2})
    assert shorter.invoke("hello") != cached.invoke("hello")
    assert llm.get_num_tokens("hello") == 1


@pytest.mark.models
async def test_llama_cpp_goes_on_with_a_prompt(gguf: GPULLM) -> None:
    text = gguf.invoke("The capital of France is")
    assert text.startswith(" Paris")
    assert "".join(gguf.stream("The capital of France is")) == text
    assert await gguf.ainvoke("The capital of France is") == text
    texts = gguf.batch(["The capital of France is", "One, two, three,"])
    assert texts[0] == text
    assert texts[1].strip().startswith("four")
    assert gguf.invoke("The capital of France is", stop=["Par"]).strip() == ""
    result = gguf.generate(["The capital of France is"], logprobs=True, top_logprobs=2)
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["completion_tokens"] == 5
    info = getattr(result.generations[0][0], "generation_info", {})
    first = info["logprobs"]["content"][0]
    assert (first["token"], len(first["top_logprobs"])) == (" Paris", 2)
    with pytest.raises(ContextOverflowError, match="256"):
        gguf.invoke("word " * 500)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert gguf.invoke("JSON: ", response_format=wanted, max_tokens=20).strip().startswith("{")


@pytest.mark.models
def test_llama_cpp_chats_carry_log_probabilities() -> None:
    engine = {"device": "cpu", "n_ctx": 256, "n_parallel": 2, "n_threads": 1}
    with ChatGPU(model=SMOLLM2, temperature=0, max_tokens=3, **engine) as chat:
        answer = chat.invoke("hi", logprobs=True, top_logprobs=2)
    content = answer.response_metadata["logprobs"]["content"]
    assert "".join(each["token"] for each in content).startswith(str(answer.content)[:5])
    assert all(len(each["top_logprobs"]) == 2 and each["logprob"] <= 0 for each in content)


def test_options_are_the_engines(path: str) -> None:
    with pytest.raises(ValueError, match="n_gpu_layers"):
        GPULLM(model=path, n_gpu_layers=3).invoke("hello")


async def test_streaming_inside_ainvoke_tells_the_callbacks_too(path: str) -> None:
    ear = Ear()
    with GPULLM(model=path, streaming=True, **SETTINGS) as model:
        text = await model.ainvoke("hello", config={"callbacks": [ear]})
    assert ear.heard == text


async def test_settings_of_the_call_are_part_of_the_key_of_a_cache(llm: GPULLM) -> None:
    cached = llm.model_copy(update={"cache": InMemoryCache()})
    text = cached.invoke("hello")
    assert cached.invoke("hello") == text
    assert cached.invoke("hello", max_tokens=2) == llm.invoke("hello", max_tokens=2) != text
    sampled: dict[str, Any] = {"temperature": 2.0, "seed": 3}
    assert cached.invoke("hello", **sampled) == llm.invoke("hello", **sampled) != text
    assert cached.invoke("hello", top_k=1) == text
    assert (await cached.ainvoke("hello", max_tokens=1)) != text
    assert cached.max_tokens == 6
    assert cached.loaded is llm.loaded  # no call loads a model of its own


async def test_stop_strings_of_the_object_are_part_of_the_key_of_a_cache(llm: GPULLM) -> None:
    text = llm.invoke("hello")
    shared = InMemoryCache()
    cut = llm.model_copy(update={"cache": shared, "stop": [text[2:4]]})
    whole = llm.model_copy(update={"cache": shared})
    assert cut.invoke("hello") == text[: text.find(text[2:4])]
    assert whole.invoke("hello") == await whole.ainvoke("hello") == text


@pytest.mark.parametrize("is_async", [False, True])
async def test_several_prompts_share_forwards_and_no_callback_hears_the_others(
    path: str, monkeypatch: pytest.MonkeyPatch, *, is_async: bool
) -> None:
    prompts = ["a", "hello world", "the longest of the prompts"]
    ears: list[Any] = [Ear() for _ in prompts]
    with GPULLM(model=path, streaming=True, **SETTINGS) as model:
        alone = [model.invoke(prompt) for prompt in prompts]
        heights = forwards(model, monkeypatch)
        each: list[Any] = [[ear] for ear in ears]
        if is_async:
            result = await model.agenerate(prompts, callbacks=each)
        else:
            result = model.generate(prompts, callbacks=each)
    assert [answers[0].text for answers in result.generations] == alone
    assert heights == [3] * 6
    assert [ear.heard for ear in ears] == ["", "", ""]


async def test_errors_of_a_batch_are_returned_where_they_belong(llm: GPULLM) -> None:
    inputs: list[Any] = ["hello", "x" * 1000, "", "a"]
    expected = [llm.invoke("hello"), ContextOverflowError, ValueError, llm.invoke("a")]
    for answers in (
        llm.batch(inputs, return_exceptions=True),
        await llm.abatch(inputs, return_exceptions=True),
    ):
        found = [each if isinstance(each, str) else type(each) for each in answers]
        assert found == expected
    with pytest.raises(ValueError, match="prompt 2 is empty"):
        llm.batch(inputs)
    assert llm.batch([], return_exceptions=True) == []
