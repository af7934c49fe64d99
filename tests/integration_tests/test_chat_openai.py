"""Chats with a real vLLM and a real llama.cpp server, both in OpenAI's form."""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import xllamacpp
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage
from pydantic import BaseModel

from langchain_gpu import GPULLM, ChatGPU
from langchain_gpu.models.resolve import resolve
from langchain_gpu.servers.errors import RefusedError, ServerError, ServerTimeoutError
from tests.chat_suite import ChatSuite
from tests.integration_tests.servers import Running, vllm_chat

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
KEY = secrets.token_urlsafe(24)
LONG = "Tell a very long story about a robot."

pytestmark = [pytest.mark.shared, pytest.mark.models, pytest.mark.timeout(900)]


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with vllm_chat(tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """Address of llama.cpp's own server, which wants a key."""
    params = xllamacpp.CommonParams()
    params.model.path = str(resolve(SMOLLM2, kind="gguf").path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 1024, 2, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [KEY]
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


Chats = Callable[..., ChatGPU]


@pytest.fixture
def chats(vllm: Running) -> Iterator[Chats]:
    """Chat with vLLM; closed at the end."""
    opened: list[ChatGPU] = []

    def open_it(**settings: Any) -> ChatGPU:
        settings = {"model": "qwen", "temperature": 0, "max_tokens": 24, "timeout": 120, **settings}
        opened.append(ChatGPU(base_url=vllm.url, **settings))
        return opened[-1]

    yield open_it
    for chat in opened:
        chat.close()


def whole(chunks: list[Any]) -> AIMessageChunk:
    total: AIMessageChunk = chunks[0]
    for each in chunks[1:]:
        total += each
    return total


def at_work(server: Running) -> float:
    """Chats that vLLM is working on now, as it says itself."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:  # noqa: S310 - ours
        text = answer.read().decode()
    found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)", text, re.MULTILINE)
    assert found
    return sum(map(float, found))


def until(check: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.1)
    return False


class TestVLLM:
    def test_every_way_gives_the_same_answer(self, chats: Chats) -> None:
        chat, question = chats(), "What is a GPU? One sentence."
        answer = chat.invoke(question)
        assert answer.text
        streamed = whole(list(chat.stream(question)))
        awaited = asyncio.run(chat.ainvoke(question))
        assert answer.text == streamed.text == awaited.text
        assert answer.usage_metadata == streamed.usage_metadata == awaited.usage_metadata
        assert answer.usage_metadata
        assert answer.usage_metadata["output_tokens"] <= 24
        said = answer.response_metadata
        assert (said["model_name"], said["backend"], said["device"]) == ("qwen", "openai", "remote")
        assert said["finish_reason"] in ("stop", "length")
        assert said["timings"]["tokens_per_second"] > 0

    def test_counts_are_the_servers(self, chats: Chats) -> None:
        chat = chats()
        messages: list[BaseMessage] = [HumanMessage("How many tokens has this?")]
        usage = chat.invoke(messages).usage_metadata
        assert usage
        assert chat.get_num_tokens_from_messages(messages) == usage["input_tokens"]
        assert chat.context_length == 4096
        assert len(chat.get_token_ids("Hello there")) == 2

    def test_a_batch_runs_together(self, vllm: Running, chats: Chats) -> None:
        chat, seen = chats(max_tokens=48), []
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.1):
                seen.append(at_work(vllm))

        watching = threading.Thread(target=look)
        watching.start()
        questions: list[Any] = [f"Write about the number {number}." for number in range(6)]
        answers = chat.batch(questions)
        over.set()
        watching.join()
        assert max(seen) > 1
        assert [answer.text for answer in answers[:2]] != [answers[1].text, answers[0].text]

    @pytest.mark.parametrize("choice", ["add", "any"])
    def test_a_forced_call(self, chats: Chats, choice: str) -> None:
        def add(a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        bound = chats(max_tokens=100).bind_tools([add], tool_choice=choice)
        (call,) = bound.invoke("What is 3 + 4?").tool_calls
        assert (call["name"], set(call["args"])) == ("add", {"a", "b"})
        (streamed,) = whole(list(bound.stream("What is 3 + 4?"))).tool_calls
        assert streamed["args"] == call["args"]

    def test_structured_output(self, chats: Chats) -> None:
        person = chats(max_tokens=60).with_structured_output(Person).invoke("Bob is 31.")
        assert person == Person(name="Bob", age=31)

    def test_log_probabilities(self, chats: Chats) -> None:
        chat = chats(max_tokens=3).bind(logprobs=True, top_logprobs=2)
        for answer in (chat.invoke("hi"), whole(list(chat.stream("hi")))):
            scores = answer.response_metadata["logprobs"]["content"]
            assert "".join(score["token"] for score in scores) == answer.text
            assert all(len(score["top_logprobs"]) == 2 for score in scores)

    def test_options_only_vllm_knows(self, chats: Chats) -> None:
        free = chats(temperature=2, model_kwargs={"top_k": 1}, seed=1)
        assert free.invoke("hi").text == chats(temperature=2, top_p=1e-6).invoke("hi").text
        with pytest.raises(RefusedError, match="top_k"):
            free.invoke("hi", top_k="many")

    def test_an_image_for_a_model_that_does_not_see(self, chats: Chats) -> None:
        image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
        with pytest.raises(RefusedError, match="multimodal"):
            chats().invoke([HumanMessage(["What is this?", image])])

    def test_stop_strings(self, chats: Chats) -> None:
        answer = chats().invoke("Count from 1 to 9.", stop=["5"])
        assert "4" in answer.text
        assert "5" not in answer.text
        assert answer.response_metadata["finish_reason"] == "stop"

    def test_closing_a_stream_frees_the_server(self, vllm: Running, chats: Chats) -> None:
        stream = chats(max_tokens=2000).stream(LONG)
        next(stream)
        assert at_work(vllm) == 1
        stream.close()  # type: ignore[attr-defined]
        assert until(lambda: at_work(vllm) == 0)

    def test_a_deadline_frees_the_server(self, vllm: Running, chats: Chats) -> None:
        began = time.monotonic()
        with pytest.raises(ServerTimeoutError, match="within 1.5 seconds"):
            chats(max_tokens=2000).invoke(LONG, timeout=1.5)
        assert time.monotonic() - began < 10
        assert until(lambda: at_work(vllm) == 0)

    def test_a_task_that_is_canceled_frees_the_server(self, vllm: Running, chats: Chats) -> None:
        async def leave() -> None:
            task = asyncio.create_task(chats(max_tokens=2000).ainvoke(LONG))
            assert await asyncio.to_thread(until, lambda: at_work(vllm) == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(leave())
        assert until(lambda: at_work(vllm) == 0)

    @pytest.mark.parametrize("words", [4200, 100_000])
    def test_too_long(self, chats: Chats, words: int) -> None:
        with pytest.raises(ContextOverflowError, match="context window holds 4096"):
            chats().invoke("word " * words)

    def test_a_model_it_does_not_have(self, chats: Chats) -> None:
        with pytest.raises(RefusedError, match="no model 'other'; it serves qwen"):
            chats(model="other").invoke("hi")

    def test_plain_prompts(self, vllm: Running) -> None:
        place = {"base_url": vllm.url, "temperature": 0, "timeout": 120}
        prompt = "The capital of France is"
        with GPULLM(model="qwen", **place) as llm:
            text = llm.invoke(prompt, max_tokens=6)
            assert text.startswith(" Paris")
            assert "".join(llm.stream(prompt, max_tokens=6)) == text
            assert asyncio.run(llm.ainvoke(prompt, max_tokens=6)) == text
            together = llm.batch([prompt] * 6, max_tokens=6)
            # In bfloat16, six prompts at once are rounded otherwise than one, on some CPUs.
            assert len(together) == 6
            assert all(answer.startswith(" Paris") for answer in together)
            assert llm.invoke("1, 2, 3,", stop=[" 6"], max_tokens=20) == " 4, 5,"
            scored = llm.generate([prompt], max_tokens=2, logprobs=True, top_logprobs=2)
            info = getattr(scored.generations[0][0], "generation_info", {})
            first = info["logprobs"]["content"][0]
            assert (first["token"], len(first["top_logprobs"])) == (" Paris", 2)
            assert info["usage"]["output_tokens"] == 2
            # Without a length the rest of the window is asked for, and not the server's 16 tokens.
            counting = llm.invoke(", ".join(map(str, range(40))) + ",", stop=["70"])
            assert counting.strip().endswith("69,")
            with pytest.raises(ContextOverflowError, match="context window holds 4096"):
                llm.invoke("word " * 5000)


class TestStandard(ChatSuite):
    url: str

    @pytest.fixture(autouse=True)
    def _server(self, vllm: Running) -> None:
        self.url = vllm.url

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # Half a billion parameters, taken greedily, tell jokes that go round in circles.
        settings = {"temperature": 0, "model_kwargs": {"repetition_penalty": 1.2}}
        limits = {"max_tokens": 160, "timeout": 200}
        return {"model": "qwen", "base_url": self.url, **settings, **limits, **self.brief}


class TestLlamaServer:
    @pytest.fixture
    def chat(self, llama: str) -> Iterator[ChatGPU]:
        settings = {"temperature": 0, "max_tokens": 16, "timeout": 120, "api_key": KEY}
        with ChatGPU(model="smol", base_url=llama, **settings) as chat:
            yield chat

    def test_chat(self, chat: ChatGPU) -> None:
        answer = chat.invoke("What is a GPU?")
        streamed = whole(list(chat.stream("What is a GPU?")))
        assert answer.text == streamed.text
        assert answer.usage_metadata
        assert 0 < answer.usage_metadata["output_tokens"] <= 16
        assert "SmolLM2" in answer.response_metadata["model_name"]  # its own name, not ours

    def test_the_same_answer_as_in_this_process(self, chat: ChatGPU) -> None:
        settings: dict[str, Any] = {"temperature": 0, "max_tokens": 16, "n_ctx": 512}
        with ChatGPU(model=SMOLLM2, device="cpu", n_threads=1, **settings) as here:
            assert here.invoke("What is a GPU?").text == chat.invoke("What is a GPU?").text
            messages: list[BaseMessage] = [HumanMessage("hi")]
            count = here.get_num_tokens_from_messages(messages)
            assert chat.get_num_tokens_from_messages(messages) == count
            assert chat.get_token_ids("Hello there") == here.get_token_ids("Hello there")

    def test_window_and_counts(self, chat: ChatGPU) -> None:
        assert chat.context_length == 512  # 1024 for two slots
        messages: list[BaseMessage] = [HumanMessage("What is a GPU?")]
        usage = chat.invoke(messages).usage_metadata
        assert usage
        assert chat.get_num_tokens_from_messages(messages) == usage["input_tokens"]

    def test_structured_output(self, chat: ChatGPU) -> None:
        asking = chat.model_copy(update={"max_tokens": 60}).with_structured_output(Person)
        person = asking.invoke("Bob is 31 years old.")
        assert isinstance(person, Person)

    def test_too_long(self, chat: ChatGPU) -> None:
        with pytest.raises(ContextOverflowError, match="context window holds 512"):
            chat.invoke("word " * 900)

    def test_plain_prompts(self, llama: str) -> None:
        place = {"base_url": llama, "api_key": KEY, "temperature": 0, "timeout": 120}
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        prompt = "The capital of France is"
        with GPULLM(model="smol", max_tokens=5, **place) as llm:
            text = llm.invoke(prompt)
            assert text.startswith(" Paris")
            assert "".join(llm.stream(prompt)) == text
            enforced = llm.invoke("JSON: ", response_format=wanted, max_tokens=20)
            assert enforced.strip().startswith("{")
            scored = llm.generate([prompt], logprobs=True, top_logprobs=2)
            info = getattr(scored.generations[0][0], "generation_info", {})
            first = info["logprobs"]["content"][0]
            assert (first["token"], len(first["top_logprobs"])) == (" Paris", 2)

    @pytest.mark.parametrize("key", [None, "wrong-key"])
    def test_another_key(self, llama: str, key: str | None) -> None:
        with pytest.raises(RefusedError, match="api_key") as caught:
            ChatGPU(model="smol", base_url=llama, backend="openai", api_key=key).invoke("hi")
        assert key is None or key not in str(caught.value)


def test_a_server_that_dies_in_the_middle_leaves_no_half_answer(
    vllm: Running, chats: Chats
) -> None:
    """The last test that needs vLLM."""
    stream = chats(max_tokens=2000, max_retries=0).stream(LONG)
    next(stream)
    vllm.kill()
    with pytest.raises(ServerError, match="broke the connection|cannot be reached"):
        list(stream)
