"""A real model through llama.cpp: streams, slots, formats, limits and cancellation."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from langchain_gpu.events import FallbackWarning, GPUWarning
from langchain_gpu.generators import llama_load as back_end
from langchain_gpu.generators import placement
from langchain_gpu.generators.base import PromptTooLongError, Request
from langchain_gpu.generators.llama_cpp import LlamaCppGenerator
from langchain_gpu.generators.placement import Place
from langchain_gpu.generators.registry import Options
from langchain_gpu.generators.streams import collect
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device
from langchain_gpu.llama.errors import ModelLoadError
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.resolve import resolve
from langchain_gpu.planner import Chat, imagined, plan
from langchain_gpu.planner.drive import DoesNotFitError

pytestmark = pytest.mark.models

COLORS = "Name three colors."
SETTINGS = Options(device="cpu", n_ctx=512, n_parallel=2, n_threads=1)


@pytest.fixture(scope="module")
def path() -> Path:
    return resolve("HuggingFaceTB/SmolLM2-135M-Instruct", kind="gguf").path


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[LlamaCppGenerator]:
    generator = LlamaCppGenerator(path, SETTINGS)
    yield generator
    generator.close()


def ask(text: str, **settings: Any) -> Request:
    chosen = {"temperature": 0.0, "max_tokens": 12, **settings}
    return Request(messages=[{"role": "user", "content": text}], **chosen)


def test_the_stream_says_what_the_whole_answer_says(engine: LlamaCppGenerator) -> None:
    pieces = list(engine.stream(ask(COLORS, max_tokens=30)))
    streamed = collect(pieces)
    (whole,) = engine.generate([ask(COLORS, max_tokens=30)])
    assert streamed.text == whole.text
    assert "Blue" in whole.text
    assert len(pieces) > 3
    assert whole.finish_reason == "stop"
    assert whole.usage.input_tokens == streamed.usage.input_tokens
    assert whole.usage.cached_tokens > 0  # the second time the prompt was known
    assert 0 < whole.timings.time_to_first_token < whole.timings.seconds


def test_the_prompt_is_counted_as_the_model_reads_it(engine: LlamaCppGenerator) -> None:
    request = ask("Hello there.", max_tokens=1)
    (answer,) = engine.generate([request])
    assert engine.count_chat_tokens(request.messages) == answer.usage.input_tokens
    assert len(engine.tokenize("Hello there.")) < answer.usage.input_tokens


def test_more_chats_than_slots_all_get_their_answer(engine: LlamaCppGenerator) -> None:
    requests = [ask(f"Count from {number}.") for number in range(5)]
    answers = engine.generate(requests)
    assert engine.max_batch == 2
    assert [answer.usage.output_tokens for answer in answers] == [12] * 5


def test_max_tokens_and_stop_end_the_answer(engine: LlamaCppGenerator) -> None:
    (short,) = engine.generate([ask("Tell a story.", max_tokens=3)])
    assert (short.finish_reason, short.usage.output_tokens) == ("length", 3)
    (stopped,) = engine.generate([ask(COLORS, stop=("Blue",), max_tokens=30)])
    assert stopped.finish_reason == "stop"
    assert "Red" in stopped.text
    assert "Blue" not in stopped.text


def test_a_system_message_alone_is_answered(engine: LlamaCppGenerator) -> None:
    request = Request(messages=[{"role": "system", "content": "Say hello."}], max_tokens=4)
    assert engine.generate([request])[0].usage.output_tokens > 0


def test_a_full_window_ends_the_answer_as_too_long(path: Path) -> None:
    engine = LlamaCppGenerator(path, replace(SETTINGS, n_ctx=256))  # llama.cpp's smallest
    story = "Tell a story. " * 40  # it leaves the answer little room
    request = ask(story, max_tokens=None, extra={"ignore_eos": True})
    (answer,) = engine.generate([request])
    assert answer.finish_reason == "length"
    assert answer.usage.output_tokens > 1
    assert answer.usage.input_tokens + answer.usage.output_tokens >= 255


def test_more_tokens_than_the_window_are_as_many_as_fit(engine: LlamaCppGenerator) -> None:
    (answer,) = engine.generate([ask(COLORS, max_tokens=10**12)])
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_new_tokens", "stop_token_ids", "bogus"])
def test_an_option_that_llama_cpp_would_ignore_is_named(
    name: str, engine: LlamaCppGenerator
) -> None:
    with pytest.raises(ValueError, match=f"unknown options {name}; known: .*min_p"):
        engine.generate([ask("Hello.", extra={name: 1})])
    with pytest.raises(ValueError, match="'stream_options' is set by the call itself"):
        engine.generate([ask("Hello.", extra={"stream_options": {}})])


@pytest.mark.parametrize("way", ["chat", "plain"])
@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"type": "nonsense"}, "unrecognized type nonsense"), ({"$ref": "#/nope"}, "cannot resolve")],
)
def test_a_schema_that_cannot_be_enforced_is_never_dropped(
    schema: dict[str, Any], reason: str, way: str, engine: LlamaCppGenerator
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = ask("Hello.", response_format=wanted)
    if way == "plain":
        request = replace(request, messages=(), prompt="Hello.")
    with pytest.raises(ValueError, match=f"this schema cannot be enforced: .*{reason}"):
        engine.generate([request])


def test_a_plain_prompt_with_a_schema_is_held_to_it(engine: LlamaCppGenerator) -> None:
    wanted = {"type": "json_object", "schema": {"type": "object", "required": ["name"]}}
    request = Request(prompt="A person:", max_tokens=5, temperature=0, response_format=wanted)
    assert engine.generate([request])[0].text.startswith("{")
    free = replace(request, response_format={"type": "text"})
    assert not engine.generate([free])[0].text.startswith("{")


def test_a_seed_repeats(path: Path) -> None:
    # One slot: what else is in a batch changes the last digits, and so what is drawn.
    engine = LlamaCppGenerator(path, replace(SETTINGS, n_parallel=1))
    request = ask("Tell a story.", temperature=1.5, seed=3, extra={"cache_prompt": False})
    first, second = (engine.generate([request])[0].text for _ in range(2))
    (other,) = engine.generate([replace(request, seed=4)])
    assert first == second != other.text


def test_a_schema_is_enforced(engine: LlamaCppGenerator) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    request = ask("Bob is 31 years old.", response_format=wanted, max_tokens=60)
    (answer,) = engine.generate([request])
    assert json.loads(answer.text) == {"name": "Bob", "age": 31}


def test_an_impossible_schema_is_refused(engine: LlamaCppGenerator) -> None:
    schema = {"json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    request = ask("x", response_format={"type": "json_schema", **schema})
    with pytest.raises((ValueError, RuntimeError), match="nonsense"):
        engine.generate([request])


def test_tools_need_a_template_that_knows_them(engine: LlamaCppGenerator) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with pytest.raises(ValueError, match="cannot describe tools"):
        engine.generate([ask("x", tools=(tool,))])


@pytest.mark.parametrize("how", ["generate", "stream"])
def test_a_prompt_beyond_the_window_is_refused_with_both_numbers(
    how: str, engine: LlamaCppGenerator
) -> None:
    request = ask("word " * 1000)
    with pytest.raises(PromptTooLongError) as caught:
        engine.generate([request]) if how == "generate" else list(engine.stream(request))
    assert ((caught.value.tokens or 0) > 1000, caught.value.window) == (True, 512)


def test_closing_the_stream_frees_the_slot(path: Path) -> None:
    engine = LlamaCppGenerator(path, replace(SETTINGS, n_parallel=1, n_ctx=4096))
    endless = ask("Tell a story.", max_tokens=None, extra={"ignore_eos": True})
    stream = engine.stream(endless)
    next(stream)
    stream.close()
    # The only slot would be taken for 4,000 tokens if the first chat went on.
    (answer,) = engine.generate([ask("Hello.", max_tokens=2, timeout=15)])
    assert answer.usage.output_tokens == 2


def test_a_chat_that_takes_too_long_is_given_up(engine: LlamaCppGenerator) -> None:
    endless = ask("Tell a story.", max_tokens=None, extra={"ignore_eos": True}, timeout=0.3)
    with pytest.raises(TimeoutError, match=r"0\.3 s"):
        engine.generate([endless])


def test_generators_of_one_file_share_the_weights_until_the_last_is_closed(path: Path) -> None:
    options = replace(SETTINGS, n_ctx=300)
    first, second = LlamaCppGenerator(path, options), LlamaCppGenerator(path, options)
    assert first._open is second._open
    first.close()
    with pytest.raises(RuntimeError, match="closed"):
        first.generate([ask("x")])
    assert second.generate([ask("Hello.", max_tokens=1)])


def test_closing_lets_a_running_chat_end(path: Path) -> None:
    engine = LlamaCppGenerator(path, replace(SETTINGS, n_ctx=310))
    stream = engine.stream(ask("Tell a story.", max_tokens=5))
    next(stream)
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join(30)
    assert collect(stream).usage.output_tokens == 5


def test_dtype_is_the_files_own(path: Path) -> None:
    with pytest.raises(ValueError, match="dtype='float16' has no meaning"):
        LlamaCppGenerator(path, replace(SETTINGS, dtype="float16"))


def test_the_cache_has_the_type_that_was_asked_for(path: Path, engine: LlamaCppGenerator) -> None:
    small = LlamaCppGenerator(path, replace(SETTINGS, load={"cache_dtype": "q8_0"}))
    try:
        assert small._open.settings.cache_dtype == "q8_0"
        assert engine._open.settings.cache_dtype == "float16"
        (answer,) = small.generate([ask(COLORS, max_tokens=30)])
        assert "Blue" in answer.text
    finally:
        small.close()


def test_an_unknown_type_of_the_cache_is_refused_with_those_there_are(path: Path) -> None:
    with pytest.raises(ValueError, match="cache_dtype='int8' is not one of float32, .* q8_0"):
        LlamaCppGenerator(path, replace(SETTINGS, load={"cache_dtype": "int8"}))


def no_gpu(wanted: str, _: Any) -> Place:
    problem = None if wanted in ("cpu", "auto") else f"there is no {wanted} here"
    return Place(select_device("cpu"), problem=problem)


def test_a_missing_gpu_follows_the_policy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_end, "place_layers", no_gpu)
    with pytest.warns(FallbackWarning, match="there is no cuda here"):
        engine = LlamaCppGenerator(path, replace(SETTINGS, device="cuda"))
    assert engine.device.kind == "cpu"
    assert engine.device.reason == "there is no cuda here"
    with pytest.raises(DeviceNotFoundError, match="there is no cuda here"):
        LlamaCppGenerator(path, replace(SETTINGS, device="cuda", fallback="error"))


def test_layers_for_a_gpu_that_is_not_here_are_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_end, "place_layers", no_gpu)
    with pytest.warns(FallbackWarning, match="n_gpu_layers=8"):
        LlamaCppGenerator(path, replace(SETTINGS, n_gpu_layers=8))


def test_a_model_too_large_for_the_gpu_goes_to_the_cpu(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Device(kind="cuda", index=0, name="a card", reason="llama.cpp runs on CUDA0")
    start = LlamaServer.__init__

    def full(self: Any, settings: Any) -> None:
        if settings.n_gpu_layers:
            raise ModelLoadError(f"{settings.path}: llama.cpp could not load this file")
        start(self, settings)

    monkeypatch.setattr(back_end, "place_layers", lambda *_: Place(card))
    monkeypatch.setattr(LlamaServer, "__init__", full)
    options = replace(SETTINGS, device="auto", n_ctx=320)
    with pytest.warns(FallbackWarning, match="could not load"):
        engine = LlamaCppGenerator(path, options)
    assert engine.device.kind == "cpu"
    with pytest.raises(ModelLoadError):
        LlamaCppGenerator(path, replace(options, fallback="error"))


class TestPlanned:
    def test_no_memory_holds_it(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        small = Device(kind="cpu", name="small", reason="", memory_total=2**27, memory_free=2**26)
        monkeypatch.setattr(placement, "select_device", lambda _: small)
        with pytest.raises(DoesNotFitError, match="MiB on cpu can be had: .* are missing"):
            LlamaCppGenerator(path, replace(SETTINGS, n_ctx=344))

    def test_the_window_is_cut_where_memory_is_short(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = 2**20 * 210
        short = Device(kind="cpu", name="short", reason="", memory_total=free, memory_free=free)
        monkeypatch.setattr(placement, "select_device", lambda _: short)
        options = replace(SETTINGS, n_ctx=None, n_parallel=2)
        with pytest.warns(FallbackWarning, match="the window of .* runs on 512 tokens, not 4,096"):
            engine = LlamaCppGenerator(path, options)
        assert engine.context_length == 512

    def test_a_smaller_cache_leaves_room_for_a_longer_window(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = 2**20 * 210
        short = Device(kind="cpu", name="short", reason="", memory_total=free, memory_free=free)
        monkeypatch.setattr(placement, "select_device", lambda _: short)
        options = replace(SETTINGS, n_ctx=None, n_parallel=2, load={"cache_dtype": "q4_0"})
        engine = LlamaCppGenerator(path, options)
        assert engine.context_length == 4096
        engine.close()

    def test_a_plan_is_followed(self, path: Path) -> None:
        info = read_info(path)
        planned = plan([Chat(info=info, context=304, sequences=1)], imagined([], 2**34))["chat"]
        engine = LlamaCppGenerator(path, Options(n_parallel=1, plan=planned))
        assert engine.context_length == 512  # llama.cpp rounds up to 256

    def test_a_plan_for_another_machine_is_told(self, path: Path) -> None:
        info = read_info(path)
        planned = plan([Chat(info=info, context=304)], imagined([2**33], 2**34))["chat"]
        with pytest.warns(FallbackWarning, match="n_gpu_layers=31, but"):
            engine = LlamaCppGenerator(path, Options(n_parallel=1, plan=planned))
        assert engine.device.kind == "cpu"

    def test_a_plan_that_was_wrong_is_reported(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gib = 2**30
        free = [8 * gib, 5 * gib]
        events: list[Any] = []
        card = Device(
            kind="cuda",
            index=0,
            name="a card",
            reason="llama.cpp runs on CUDA0",
            memory_total=8 * gib,
            memory_free=8 * gib,
        )

        class GPU:
            name = "GGML_BACKEND_DEVICE_TYPE_GPU"

        def infos() -> list[dict[str, Any]]:
            return [{"type": GPU, "name": "CUDA0", "memory_free": free.pop(0)}]

        monkeypatch.setattr(xllamacpp, "get_device_info", infos)
        monkeypatch.setattr(back_end, "place_layers", lambda *_: Place(card))
        options = replace(SETTINGS, n_ctx=328, listener=events.append)
        with pytest.warns(GPUWarning, match="took 3,072 MiB on cuda:0; .* MiB were planned"):
            engine = LlamaCppGenerator(path, options)
        assert "3.0 GiB taken on cuda:0" in engine.device.reason
        assert [event.measured_bytes for event in events] == [3 * gib]
