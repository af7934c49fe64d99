"""Chats through a real Ollama on the CPU: SmolLM2, and Qwen2.5-Coder where tools are needed."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from langchain_gpu import GPULLM, ChatGPU
from langchain_gpu.events import FallbackWarning
from langchain_gpu.hardware.devices import DeviceNotFoundError
from langchain_gpu.servers.errors import RefusedError, ServerError, ServerTimeoutError
from tests.chat_suite import ChatSuite, check_agent, check_agent_with_schema, get_weather
from tests.integration_tests.servers import Running, ollama, recipes
from tests.integration_tests.slow import skip_unless_asked

pytestmark = [pytest.mark.shared, pytest.mark.models, pytest.mark.timeout(900)]

COLORS = "Name three colors."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ollama(tmp_path_factory.mktemp("ollama"), recipes()) as running:
        yield running


@pytest.fixture
def make(server: Running) -> Iterator[Callable[..., ChatGPU]]:
    made: list[ChatGPU] = []

    def build(model: str = "smollm2", **options: Any) -> ChatGPU:
        fixed = {"backend": "ollama", "base_url": server.url, "temperature": 0, "max_tokens": 16}
        small = {"n_ctx": 512, "n_threads": 1, "timeout": 300}
        made.append(ChatGPU(**{"model": model, **fixed, **small, **options}))
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def qwen(server: Running) -> Iterator[ChatGPU]:
    """Loaded for the whole file: every other one of these settings finds it there."""
    with ChatGPU(**qwen_settings(server)) as chat:
        _ = chat.devices
        yield chat


@pytest.fixture(scope="module")
def asked_to_wait() -> None:
    """Prompts with several tools take minutes: this Ollama has no fast kernels for the weights."""
    skip_unless_asked("this Ollama reads some five tokens of Qwen in a second of a core")


def qwen_settings(server: Running) -> dict[str, Any]:
    place = {"backend": "ollama", "base_url": server.url, "n_ctx": 2048, "n_threads": 1}
    limits = {"temperature": 0, "max_tokens": 48, "timeout": 600}
    return {"model": "qwen", "keep_alive": "30m", **place, **limits}


def loaded(server: Running) -> dict[str, Any]:
    """What is in Ollama's memory."""
    with urllib.request.urlopen(f"{server.url}/api/ps", timeout=10) as answer:  # noqa: S310
        return {row["name"].partition(":")[0]: row for row in json.load(answer)["models"]}


def soon(seen: Callable[[], bool], seconds: float = 30) -> bool:
    """Wait until it is seen; Ollama unloads in its own time."""
    deadline = time.monotonic() + seconds
    while not seen() and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen()


def test_a_stream_says_what_the_whole_answer_says(make: Callable[..., ChatGPU]) -> None:
    chat = make(seed=1)
    whole = chat.invoke(COLORS)
    chunks = list(chat.stream(COLORS))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert "Red" in whole.text
    assert len(chunks) > 8
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 16
    assert (
        chat.get_num_tokens_from_messages([HumanMessage(COLORS)])
        == (whole.usage_metadata["input_tokens"])
    )
    assert whole.response_metadata["finish_reason"] == "length"
    assert whole.response_metadata["timings"]["tokens_per_second"] > 0


async def test_async(make: Callable[..., ChatGPU]) -> None:
    chat = make(max_tokens=4)
    answer = await chat.ainvoke(COLORS)
    assert "".join([chunk.text async for chunk in chat.astream(COLORS)]) == answer.text


def test_a_stop_string_ends_the_answer(make: Callable[..., ChatGPU]) -> None:
    answer = make().invoke(COLORS, stop=["Red"])
    assert "Red" not in answer.text
    assert answer.response_metadata["finish_reason"] == "stop"


def test_the_device_says_that_it_is_a_cpu(make: Callable[..., ChatGPU]) -> None:
    (device,) = make().devices
    assert device.kind == "remote"
    assert device.reason.endswith("GB on its CPU")


def test_a_gpu_that_is_not_there_is_told(make: Callable[..., ChatGPU]) -> None:
    with pytest.warns(FallbackWarning, match=r"device='cuda' was asked for.*on its CPU"):
        make(device="cuda", max_tokens=1).invoke("Hi.")
    with pytest.warns(FallbackWarning, match="n_gpu_layers=99"):
        make(n_gpu_layers=99, max_tokens=1).invoke("Hi.")
    with pytest.raises(DeviceNotFoundError, match="fallback='error'"):
        make(device="cuda", fallback="error").invoke("Hi.")


def test_leaving_the_stream_stops_the_server(make: Callable[..., ChatGPU], server: Running) -> None:
    chat = make(max_tokens=480, n_parallel=1)
    stream = chat.stream("Tell a very long story about a cat and a dog.")
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    # A model with a chat under way is not unloaded, and this one would take half a minute.
    began = time.monotonic()
    chat.close()
    assert "smollm2" not in loaded(server)
    assert time.monotonic() - began < 10


def test_the_time_out_stops_the_server_too(make: Callable[..., ChatGPU]) -> None:
    chat = make(max_tokens=450)
    chat.invoke("Hi.", max_tokens=1)
    began = time.monotonic()
    with pytest.raises(ServerTimeoutError, match="within 1 seconds"):
        chat.invoke("Tell a very long story.", timeout=1)
    assert time.monotonic() - began < 10


def test_close_unloads_what_it_loaded_and_nothing_else(
    make: Callable[..., ChatGPU], server: Running
) -> None:
    assert "smollm2" not in loaded(server)
    mine, guest = make(keep_alive="10m"), make(keep_alive="10m")
    mine.invoke("Hi.", max_tokens=1)
    guest.invoke("Hi.", max_tokens=1)
    guest.close()
    time.sleep(1)
    assert "smollm2" in loaded(server)
    mine.close()
    assert "smollm2" not in loaded(server)


def test_keep_alive_zero_leaves_nothing_behind(
    make: Callable[..., ChatGPU], server: Running
) -> None:
    chat = make(keep_alive=0, max_tokens=1)
    assert chat.invoke("Hi.").usage_metadata is not None
    assert soon(lambda: "smollm2" not in loaded(server))
    assert chat.invoke("Hi.").usage_metadata is not None  # it comes back


def test_the_window_is_the_one_that_was_asked_for(make: Callable[..., ChatGPU]) -> None:
    chat = make(n_ctx=128, max_tokens=1)
    assert chat.context_length == 128
    with pytest.raises(ContextOverflowError, match="context window holds 128"):
        chat.invoke("word " * 200)


def test_what_is_wrong_is_said(make: Callable[..., ChatGPU], server: Running) -> None:
    with pytest.raises(RefusedError, match=r"ollama pull nothing-like-it.*smollm2:latest"):
        make("nothing-like-it").invoke("Hi.")
    with pytest.raises(ValueError, match="cannot describe tools"):
        make().bind_tools([get_weather]).invoke("Hi.")
    with pytest.raises(ServerError, match="top_k"):
        make(model_kwargs={"top_k": "many"}, max_retries=0).invoke("Hi.")
    with pytest.raises(ServerError, match="does not support thinking"):
        make(model_kwargs={"think": True}).invoke("Hi.")
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    with pytest.raises(ValueError, match="holds an image, which smollm2 cannot read"):
        make().invoke([HumanMessage(["What is this?", image])])


async def test_plain_prompts_are_continued(server: Running) -> None:
    place = {"backend": "ollama", "base_url": server.url, "timeout": 300}
    small = {"temperature": 0, "max_tokens": 5, "n_ctx": 128, "n_threads": 1}
    with GPULLM(model="smollm2", **place, **small) as llm:
        prompt = "The capital of France is"
        text = llm.invoke(prompt)
        assert text.startswith(" Paris")  # no template stands between: it is no chat's answer
        assert "".join(llm.stream(prompt)) == text
        assert await llm.ainvoke(prompt) == text
        assert llm.batch([prompt, "One, two, three,"])[1].strip().startswith("four")
        usage = (llm.generate([prompt]).llm_output or {})["token_usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 5)
        with pytest.raises(ContextOverflowError, match="context window holds 128"):
            llm.invoke("word " * 400)


def test_auto_finds_ollama_behind_the_address(make: Callable[..., ChatGPU]) -> None:
    chat = make(backend="auto", max_tokens=1)
    assert chat.backend_reason.startswith("ollama: ")
    assert chat.invoke("Hi.").response_metadata["backend"] == "ollama"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def test_a_schema_is_enforced(qwen: ChatGPU) -> None:
    person = qwen.with_structured_output(Person).invoke("Bob is 31 years old.")
    assert person == Person(name="Bob", age=31)


def test_a_tool_is_called(qwen: ChatGPU) -> None:
    """One call, as short as a prompt with tools can be."""
    answer = qwen.bind_tools([get_weather]).invoke("What is the weather in Paris?")
    assert isinstance(answer, AIMessage)
    assert [(each["name"], each["args"]) for each in answer.tool_calls] == [
        ("get_weather", {"city": "Paris"})
    ]
    assert answer.response_metadata["finish_reason"] == "tool_calls"


def test_an_agent_calls_its_tool_and_answers_with_its_result(
    asked_to_wait: None, qwen: ChatGPU
) -> None:
    check_agent(qwen)


def test_an_agent_with_a_schema_calls_its_tool(qwen: ChatGPU) -> None:
    check_agent_with_schema(qwen)


class _Suite(ChatSuite):
    settings: ClassVar[dict[str, Any]] = {}  # known when the server has a port

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**self.settings, **self.brief}


class TestSmolLM2(_Suite):
    @pytest.fixture(autouse=True)
    def _place(self, server: Running) -> None:
        more = {"model": "smollm2", "n_ctx": 1024, "max_tokens": 100}
        type(self).settings = {**qwen_settings(server), **more}

    @property
    def has_tool_calling(self) -> bool:
        return False  # its chat template has no tools

    @pytest.mark.xfail(reason="a model of 135 M parameters forgets the keys it was asked for")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)


class TestQwen(_Suite):
    @pytest.fixture(autouse=True)
    def _place(self, asked_to_wait: None, qwen: ChatGPU, server: Running) -> None:
        # Jokes are long, and without a penalty this model tells the same one forever.
        more = {"max_tokens": 160, "model_kwargs": {"repeat_penalty": 1.2}}
        type(self).settings = {**qwen_settings(server), **more}
