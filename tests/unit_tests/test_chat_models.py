"""`ChatGPU` over a tiny model: settings, lifetime, errors, async and cancellation."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import shutil
import threading
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError, OutputParserException
from langchain_core.language_models import FakeListChatModel, ModelProfile
from langchain_core.load import dumps
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import ConfigurableField, RunnableBinding
from langchain_core.tools import tool
from pydantic import BaseModel, SecretStr, ValidationError
from typing_extensions import TypedDict

from langchain_gpu import GPULLM, ChatGPU
from langchain_gpu.generators import hf_template
from langchain_gpu.generators.base import Generator
from langchain_gpu.generators.registry import Choice, Options, create
from langchain_gpu.generators.transformers import TransformersGenerator
from langchain_gpu.language_models import base as loading
from tests.unit_tests.tiny_chat import WINDOW, build_chat

ALIAS: dict[str, Any] = {"model_name": "no/such-model"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def chat(path: str) -> Iterator[ChatGPU]:
    with ChatGPU(model=path, device="cpu", dtype="float32", temperature=0, max_tokens=8) as model:
        yield model


def test_constructing_loads_nothing_and_accepts_any_name() -> None:
    assert ChatGPU(model="no/such-model").model_name == "no/such-model"
    assert ChatGPU(**ALIAS).model == "no/such-model"


def test_agents_are_told_the_window_where_it_is_known() -> None:
    chat = ChatGPU(model="no/such-model", n_ctx=4096)
    middleware = SummarizationMiddleware(chat, trigger=("fraction", 0.8))
    assert middleware._get_profile_limits() == 4096
    mine: ModelProfile = {"max_input_tokens": 100}
    assert ChatGPU(model="no/such-model", n_ctx=4096, profile=mine).profile == mine
    assert ChatGPU(model="no/such-model").profile is None


def test_a_single_stop_string_is_one() -> None:
    given: dict[str, Any] = {"model": "no/such-model", "stop": "END"}
    assert ChatGPU(**given).stop == GPULLM(**given).stop == ["END"]
    with pytest.raises(ValidationError, match="stop"):
        ChatGPU(**{**given, "stop": 5})


def test_a_copy_tells_agents_its_own_window() -> None:
    chat = ChatGPU(model="no/such-model", n_ctx=4096)
    small: ModelProfile = {"max_input_tokens": 512}
    for deep in (False, True):
        assert chat.model_copy(update={"n_ctx": 512}, deep=deep).profile == small
    assert chat.model_copy(update={"n_ctx": None}).profile is None
    assert chat.model_copy().profile == {"max_input_tokens": 4096}
    assert ChatGPU(model="no/such-model").model_copy(update={"n_ctx": 512}).profile == small
    mine: ModelProfile = {"max_input_tokens": 100}
    assert chat.model_copy(update={"n_ctx": 512, "profile": mine}).profile == mine
    own = ChatGPU(model="no/such-model", n_ctx=4096, profile=mine)
    assert own.model_copy(update={"n_ctx": 512}).profile == mine


def test_an_answer_says_what_it_took_and_where(chat: ChatGPU, path: str) -> None:
    answer = chat.invoke("hello")
    assert answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 8
    metadata = answer.response_metadata
    assert metadata["model_name"] == path
    assert metadata["backend"] == "transformers"
    assert metadata["device"] == "cpu"
    assert metadata["finish_reason"] == "length"
    assert metadata["timings"]["seconds"] > 0
    assert chat.devices[0].reason
    assert chat.context_length == WINDOW
    assert chat.backend_reason.startswith("transformers: ")


async def test_every_way_to_ask_gives_the_same_answer(chat: ChatGPU) -> None:
    answer = chat.invoke("hello").content
    assert answer
    streamed = list(chat.stream("hello"))
    assert "".join(chunk.text for chunk in streamed) == answer
    assert sum(chunk.usage_metadata is not None for chunk in streamed) == 1
    assert (await chat.ainvoke("hello")).content == answer
    assert "".join([chunk.text async for chunk in chat.astream("hello")]) == answer
    assert [each.content for each in chat.batch(["hello"] * 3)] == [answer] * 3
    assert [each.content for each in await chat.abatch(["hello"] * 3)] == [answer] * 3
    bound = chat.bind(max_tokens=2)
    assert answer.startswith(str(bound.invoke("hello").content))


def test_streaming_inside_invoke_tells_the_callbacks_every_token(path: str) -> None:
    class Ear(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard = ""

        def on_llm_new_token(self, token: Any, **_: Any) -> None:
            self.heard += token

    ear = Ear()
    with ChatGPU(model=path, device="cpu", temperature=0, max_tokens=8, streaming=True) as model:
        answer = model.invoke("hello", config={"callbacks": [ear]})
    assert ear.heard == answer.content


def test_settings_of_the_call_come_before_those_of_the_model(chat: ChatGPU) -> None:
    answer = chat.invoke("hello", max_tokens=3)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 3
    text = str(chat.invoke("hello").content)
    assert chat.invoke("hello", stop=[text[2:4]]).content == text[: text.find(text[2:4])]


def test_tokens_are_counted_by_the_models_own_tokenizer(chat: ChatGPU) -> None:
    assert chat.get_num_tokens("hello") == len(chat.get_token_ids("hello")) < 5
    messages = [SystemMessage("be brief"), HumanMessage("hello")]
    answer = chat.invoke(messages)
    assert answer.usage_metadata is not None
    assert chat.get_num_tokens_from_messages(messages) == answer.usage_metadata["input_tokens"]
    counting = ChatGPU(model="no/such-model", custom_get_token_ids=lambda text: [1] * len(text))
    assert counting.get_num_tokens("hello") == 5


def engine(chat: ChatGPU) -> TransformersGenerator:
    with chat._hold() as generator:
        assert isinstance(generator, TransformersGenerator)
        return generator


def test_close_frees_the_model_and_the_next_call_loads_it_again(path: str) -> None:
    model = ChatGPU(model=path, device="cpu", max_tokens=2)
    first = engine(model)
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        _ = first.context_length
    assert model.invoke("hello").content is not None
    assert engine(model) is not first
    model.close()
    model.close()


def test_many_threads_load_the_model_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Choice] = []

    def counted(choice: Choice, options: Options) -> Generator:
        loads.append(choice)
        return create(choice, options)

    monkeypatch.setattr(loading, "create", counted)
    with ChatGPU(model=path, device="cpu", max_tokens=2) as model:
        assert len(model.batch(["hello"] * 8)) == 8
    assert len(loads) == 1


def test_a_copy_or_an_unpickled_model_loads_its_own(chat: ChatGPU) -> None:
    chat.invoke("hello")
    for other in (pickle.loads(pickle.dumps(chat)), copy.deepcopy(chat)):  # noqa: S301
        assert other.loaded.keeper.loaded is None
        assert other.model == chat.model


def test_a_copy_with_another_window_loads_its_own(chat: ChatGPU) -> None:
    chat.invoke("hello")
    warmer = chat.model_copy(update={"temperature": 0.5})
    smaller = chat.model_copy(update={"n_ctx": WINDOW // 2})
    assert engine(warmer) is engine(chat)
    assert smaller.context_length == WINDOW // 2
    assert chat.context_length == WINDOW
    smaller.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"timeout": 0}, "timeout"),
        ({"keep_alive": "5 minutes"}, "'5m'"),
        ({"n_ctx": 0}, "n_ctx"),
        ({"backend": "vllm"}, "has no backend 'vllm': say backend='openai' and base_url="),
        ({"backend": "abacus"}, "unknown backend 'abacus'; known: auto, llama_cpp, ollama"),
        ({"fallback": "maybe"}, "fallback"),
        ({"tempreature": 1}, "tempreature"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ChatGPU(**{"model": "m", **settings})


@pytest.mark.parametrize(
    ("messages", "error", "named"),
    [
        ([], ValueError, "list of messages is empty"),
        (None, ValueError, "NoneType"),
        (7, ValueError, "int"),
        ("a\ud800b", ValueError, "message 0"),
        ([("user", [{"type": "image_url", "image_url": "x"}])], ValueError, "URL of an image"),
        ("x" * 1000, ContextOverflowError, f"window holds {WINDOW}"),
    ],
)
async def test_what_cannot_be_answered_is_named(
    messages: Any, error: type[Exception], named: str, chat: ChatGPU
) -> None:
    with pytest.raises(error, match=named):
        chat.invoke(messages)
    with pytest.raises(error, match=named):
        list(chat.stream(messages))
    with pytest.raises(error, match=named):
        await chat.ainvoke(messages)
    with pytest.raises(error, match=named):
        async for _ in chat.astream(messages):
            pass


def test_settings_of_the_call_are_checked_too(chat: ChatGPU) -> None:
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        chat.invoke("hello", max_tokens=0)
    with pytest.raises(ValueError, match="make another one"):
        chat.invoke("hello", model="another")
    assert chat.invoke("hello", model=chat.model).content


def test_a_stop_string_alone_is_not_its_letters(chat: ChatGPU) -> None:
    text = str(chat.invoke("hello").content)
    part = text[2:4]
    alone: Any = part
    assert chat.invoke("hello", stop=alone).content == text[: text.find(part)]
    number: Any = 7
    with pytest.raises(ValueError, match="stop must be a list of texts, not 7"):
        chat.invoke("hello", stop=number)


@pytest.mark.parametrize("seed", [-1, 2**32 - 1, 2**64, -(2**70)])
def test_a_seed_of_any_size_gives_the_same_answer_again(seed: int, chat: ChatGPU) -> None:
    sampled = chat.bind(temperature=2.0, seed=seed)
    assert sampled.invoke("hello").content == sampled.invoke("hello").content
    other = chat.bind(temperature=2.0, seed=seed + 1)
    assert other.invoke("hello").content != sampled.invoke("hello").content


def test_text_that_cannot_be_counted_is_named(chat: ChatGPU) -> None:
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        chat.get_num_tokens("a\ud800")


def test_a_system_message_alone_is_answered(chat: ChatGPU) -> None:
    assert chat.invoke([SystemMessage("be brief")]).content


def test_an_unknown_model_says_what_was_tried() -> None:
    with pytest.raises(ValueError, match="no gguf files found for 'no/such-model'"):
        ChatGPU(model="no/such-model").invoke("hello")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "damaged.gguf"
    file.write_bytes(b"GGUF\x03\0\0\0 and nothing more")
    with pytest.raises(RuntimeError, match=str(file)):
        ChatGPU(model=str(file)).invoke("hello")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"<html>not found</html>"),
        ("tokenizer.json", b"{"),
    ],
)
def test_damaged_files_of_a_folder_are_named(
    path: str, tmp_path: Path, name: str, content: bytes
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(path, folder)
    (folder / name).write_bytes(content)
    with pytest.raises(RuntimeError, match=f"{folder}: .*incomplete or damaged"):
        ChatGPU(model=str(folder), device="cpu").invoke("hello")


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ 1 + messages }}", "unsupported operand"),
    ],
)
def test_a_template_that_refuses_or_escapes_is_an_error(
    tmp_path: Path, template: str, named: str
) -> None:
    with (
        ChatGPU(model=build_chat(tmp_path, template=template), device="cpu") as chat,
        pytest.raises(ValueError, match=f"chat template refuses this chat: .*{named}"),
    ):
        chat.invoke("hello")


_LOOPS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
_CALLS = (
    "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}"
    "{{ twice(60) }}"
)
_SUMS = "{{ ([range(99999) | list] * 99999) | map('sum') | list }}"


@pytest.mark.parametrize("template", [_LOOPS, _CALLS, _SUMS])
@pytest.mark.parametrize("how", ["invoke", "stream"])
def test_a_template_without_an_end_is_stopped_and_named(
    tmp_path: Path, template: str, how: str
) -> None:
    path = build_chat(tmp_path, template=template)
    with ChatGPU(model=path, device="cpu", timeout=0.2) as chat:
        with pytest.raises(TimeoutError, match=f"{path}: the model's chat template does not end"):
            list(getattr(chat, how)("hello"))
        assert not any(each.name == "langchain-gpu-template" for each in threading.enumerate())


def test_a_template_without_an_end_is_stopped_where_the_caller_would_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_template, "_LONGEST", 0.2)
    with ChatGPU(model=build_chat(tmp_path, template=_LOOPS), device="cpu") as chat:
        for ask in (
            lambda: chat.invoke("hello"),
            lambda: chat.get_num_tokens_from_messages([HumanMessage("hello")]),
        ):
            with pytest.raises(TimeoutError, match=r"does not end: .* after 0\.2 s"):
                ask()


def test_an_overflow_can_fall_back_to_another_model(chat: ChatGPU) -> None:
    other = FakeListChatModel(responses=["from the other"])
    both = chat.with_fallbacks([other], exceptions_to_handle=(ContextOverflowError,))
    assert both.invoke("x" * 1000).content == "from the other"


def test_a_call_that_takes_too_long_is_given_up(
    chat: ChatGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(chat, monkeypatch)
    with pytest.raises(TimeoutError):
        chat.invoke("hello", max_tokens=100, timeout=0.1)


def test_a_loop_may_end_while_streams_are_half_read(chat: ChatGPU) -> None:
    errors: list[dict[str, Any]] = []

    async def read_in_part() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        for stream in (chat.astream("hello"), (chat | StrOutputParser()).astream("hello")) * 4:
            async for _piece in stream:
                break

    asyncio.run(read_in_part())
    assert not errors
    assert chat.invoke("hello").content


async def test_canceling_the_task_stops_the_model(
    chat: ChatGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = slow(chat, monkeypatch)
    task = asyncio.create_task(chat.ainvoke("hello", max_tokens=100))
    await asyncio.to_thread(steps.begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await chat.ainvoke("after", max_tokens=1)  # takes its turn when the model is free
    assert steps.taken < 60


class Steps:
    """How far a slow model came."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.taken = 0


def slow(chat: ChatGPU, monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    model = engine(chat)._open.model
    forward = model.forward

    @wraps(forward)
    def wait(*args: Any, **kwargs: Any) -> Any:
        steps.begun.set()
        steps.taken += 1
        threading.Event().wait(0.02)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", wait)
    return steps


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Person(BaseModel):
    """Someone."""

    name: str


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("any", "required"),
        (True, "required"),
        ("none", "none"),
        ("add", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ({"type": "tool", "name": "add"}, "add"),
        ({"type": "any"}, "required"),
    ],
)
def test_every_way_to_write_a_tool_choice(given: Any, meant: str, chat: ChatGPU) -> None:
    bound = chat.bind_tools([add], tool_choice=given)
    assert isinstance(bound, RunnableBinding)
    assert bound.kwargs["tool_choice"] == meant
    assert bound.kwargs["tools"][0]["function"]["name"] == "add"


def test_a_tool_choice_that_is_none_is_named(chat: ChatGPU) -> None:
    number: Any = 7
    with pytest.raises(ValueError, match="tool_choice=7 is not known"):
        chat.bind_tools([add], tool_choice=number)
    with pytest.raises(
        ValueError, match=r"tool_choice='subtract' is not one of the tools \['add'\]"
    ):
        chat.bind_tools([add], tool_choice="subtract").invoke("hello")


def test_structured_output_refuses_what_it_does_not_know(chat: ChatGPU) -> None:
    with pytest.raises(
        ValueError, match="unknown method 'magic'; known: function_calling, json_mode, json_schema"
    ):
        chat.with_structured_output(Person, method="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a schema"):
        chat.with_structured_output()
    with pytest.raises(ValueError, match="bogus"):
        chat.with_structured_output(Person, bogus=1)


class Node(BaseModel):
    """A part that holds parts of its own kind."""

    kids: list[Node] = []


def test_a_recursive_schema_keeps_its_references(chat: ChatGPU) -> None:
    bound = chat.bind_tools([Node], tool_choice="Node")
    assert isinstance(bound, RunnableBinding)
    parameters = bound.kwargs["tools"][0]["function"]["parameters"]
    assert parameters["properties"]["kids"]["items"] == {"$ref": "#/$defs/Node"}
    assert parameters["type"] == "object"
    longer = chat.model_copy(update={"max_tokens": 60})
    answer = longer.with_structured_output(Node, include_raw=True)
    text = answer.invoke("hello")["raw"].content
    assert set(re.findall(r'"(\w*)"', text)) <= {"kids"}  # anything else was allowed inside


class Many(TypedDict):
    """Numbers."""

    numbers: list[int]


def test_json_that_was_cut_is_not_completed_in_silence(chat: ChatGPU) -> None:
    short = chat.model_copy(update={"max_tokens": 14})
    for schema in (Many, Person):
        cut = short.with_structured_output(schema)
        with pytest.raises(OutputParserException, match="cut before its JSON was whole.*max_token"):
            cut.invoke("hello")
        with pytest.raises(OutputParserException, match="cut before"):
            list(cut.stream("hello"))
        raw = short.with_structured_output(schema, include_raw=True).invoke("hello")
        assert raw["parsed"] is None
        assert "cut before" in str(raw["parsing_error"])


@pytest.mark.parametrize("kind", [ChatGPU, GPULLM])
def test_secrets_are_not_shown(kind: type[ChatGPU | GPULLM]) -> None:
    secret = kind(
        model="m",
        api_key=SecretStr("sk-hidden-1"),
        base_url="http://me:hidden-2@far.example/v1",
        load_kwargs={"default_headers": {"X-Any": "hidden-3"}, "compile": True},
        model_kwargs={"extra_headers": {"A": "hidden-4"}, "extra_body": {"api_key": "hidden-5"}},
    )
    said = [repr(secret), str(secret), dumps(secret), repr(secret._identifying_params)]
    assert not [text for text in said if "hidden" in text]
    assert "far.example" in said[0]
    assert "X-Any" in said[0]
    with pytest.raises(ValueError, match="must not hold a user or password") as raised:
        secret.invoke("hello")
    assert "hidden" not in str(raised.value)


def test_what_changes_answers_is_part_of_the_key_of_a_cache() -> None:
    base = ChatGPU(model="m")
    for other in (
        {"dtype": "bfloat16"},
        {"base_url": "http://a.example"},
        {"load_kwargs": {"revision": "x"}},
        {"model_kwargs": {"max_length": 3, "stop_token": "a"}},
        {"temperature": 0.5},
    ):
        assert base._identifying_params != ChatGPU(model="m", **other)._identifying_params
    assert base._identifying_params == ChatGPU(model="m", n_threads=2)._identifying_params


async def test_stop_strings_of_the_model_are_part_of_the_key_of_a_cache(chat: ChatGPU) -> None:
    text = str(chat.invoke("hello").content)
    shared = InMemoryCache()
    cut = chat.model_copy(update={"cache": shared, "stop": [text[2:4]]})
    whole = chat.model_copy(update={"cache": shared})
    assert cut.invoke("hello").content == text[: text.find(text[2:4])]
    assert whole.invoke("hello").content == (await whole.ainvoke("hello")).content == text
    again = cut.model_copy(update={"stop": [text[2:4]]})
    assert again._get_llm_string() == cut._get_llm_string() != whole._get_llm_string()


def test_configurable_fields_load_no_model_of_their_own(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Choice] = []

    def counted(choice: Choice, options: Options) -> Generator:
        loads.append(choice)
        return create(choice, options)

    monkeypatch.setattr(loading, "create", counted)
    with ChatGPU(model=path, device="cpu", temperature=0) as model:
        any_length = model.configurable_fields(max_tokens=ConfigurableField(id="length"))
        for length in (1, 2, 3):
            answer = any_length.with_config(configurable={"length": length}).invoke("hello")
            assert answer.usage_metadata is not None
            assert answer.usage_metadata["output_tokens"] == length
        model.invoke("hello", max_tokens=1)
        assert len(loads) == 1
        any_window = model.configurable_fields(n_ctx=ConfigurableField(id="window"))
        assert any_window.with_config(configurable={"window": 64}).invoke("hello", max_tokens=1)
        assert len(loads) == 2  # another window is another engine
        assert model.context_length == WINDOW


def test_a_chunk_is_a_message_chunk(chat: ChatGPU) -> None:
    assert chunk_type(chat) is AIMessageChunk


def chunk_type(chat: ChatGPU) -> type:
    return type(next(iter(chat.stream("hello"))))
