"""A tiny model with random weights through transformers: streams, batches, stops and fallbacks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch

from langchain_gpu.events import FallbackWarning, FellBack
from langchain_gpu.generators import placement
from langchain_gpu.generators.base import Delta, Deltas, PromptTooLongError, Request
from langchain_gpu.generators.pump import pulled_async
from langchain_gpu.generators.registry import Options
from langchain_gpu.generators.rows import Row
from langchain_gpu.generators.streams import Stage, Timer, collect
from langchain_gpu.generators.transformers import TransformersGenerator
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device
from langchain_gpu.utils import backoff
from tests.unit_tests.tiny_chat import WINDOW, build_chat

EXACT = Options(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_chat(tmp_path_factory.mktemp("chat")))


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[TransformersGenerator]:
    generator = TransformersGenerator(path, EXACT)
    yield generator
    generator.close()


def ask(text: str, **settings: Any) -> Request:
    chosen = {"temperature": 0.0, "max_tokens": 12, **settings}
    return Request(messages=[{"role": "user", "content": text}], **chosen)


def test_the_stream_says_what_the_whole_answer_says(engine: TransformersGenerator) -> None:
    (whole,) = engine.generate([ask("hello")])
    streamed = collect(engine.stream(ask("hello")))
    assert replace(streamed, timings=whole.timings) == whole
    assert whole.text
    assert whole.usage.output_tokens == 12
    assert whole.usage.input_tokens == engine.count_chat_tokens(ask("hello").messages)
    assert whole.finish_reason == "length"


def test_a_batch_says_what_each_chat_says_alone(engine: TransformersGenerator) -> None:
    requests = [ask(text) for text in ("hello", "a much longer hello world", "x")]
    together = [answer.text for answer in engine.generate(requests)]
    alone = [engine.generate([request])[0].text for request in requests]
    assert together == alone


def test_chats_of_any_settings_share_forwards_and_say_what_they_say_alone(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [
        ask("a"),
        ask("b", max_tokens=3),
        ask("d", temperature=1.0, seed=1),
        ask("d", temperature=0.7, top_p=0.9, seed=2, extra={"top_k": 40}),
        ask("e", extra={"repetition_penalty": 1.3}),
        ask("f", extra={"no_repeat_ngram_size": 2, "suppress_tokens": [5]}),
    ]
    alone = [engine.generate([request])[0].text for request in requests]
    heights: list[int] = []
    forward = engine._open.model.forward

    @wraps(forward)
    def counted(*args: Any, **kwargs: Any) -> Any:
        heights.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._open.model, "forward", counted)
    answers = engine.generate(requests)
    assert [answer.text for answer in answers] == alone
    assert set(heights) == {6}
    assert len(heights) == 12
    tokens = [answer.usage.output_tokens for answer in answers if answer.usage]
    assert tokens == [12, 3, 12, 12, 12, 12]


def test_the_rules_of_a_chat_are_kept(engine: TransformersGenerator) -> None:
    plain = engine.generate([ask("hello", max_tokens=30)])[0]
    rows = [engine._row(ask("hello"))]
    engine._open.rows.submit(rows)
    rows[0].wait()
    barred = engine._row(ask("hello", extra={"suppress_tokens": rows[0].tokens[:2]}))
    engine._open.rows.submit([barred])
    barred.wait()
    assert not set(rows[0].tokens[:2]) & set(barred.tokens)
    greedy = engine.generate([ask("hello", temperature=1.0, extra={"top_k": 1}, max_tokens=30)])[0]
    assert greedy.text == plain.text
    with pytest.raises(ValueError, match="top_p"):
        engine.generate([ask("hello", extra={"num_beams": 4})])
    with pytest.raises(ValueError, match="top_k"):
        engine.generate([ask("hello", temperature=1.0, extra={"top_k": -3})])


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"repetition_penalty": "a"}, "repetition_penalty must be a number, not 'a'"),
        ({"no_repeat_ngram_size": "a"}, "no_repeat_ngram_size must be a whole number"),
        ({"min_new_tokens": "a"}, "min_new_tokens must be a whole number, not 'a'"),
        ({"suppress_tokens": "a"}, "suppress_tokens must be a list of token ids, not 'a'"),
        ({"suppress_tokens": [1, "a"]}, r"suppress_tokens\[1\] must be a whole number, not 'a'"),
        ({"suppress_tokens": [-1]}, r"suppress_tokens\[0\] must not be negative, not -1"),
        ({"suppress_tokens": [10**9]}, r"suppress_tokens names token 1000000000, .* has \d+"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    engine: TransformersGenerator, extra: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        engine.generate([ask("hello", extra=extra)])


def test_log_probabilities_are_the_models_own(engine: TransformersGenerator) -> None:
    wanted = {"logprobs": True, "top_logprobs": 3}
    (answer,) = engine.generate([ask("hello", max_tokens=4, extra=wanted)])
    assert len(answer.logprobs) == 4
    prompt = engine._chat(ask("hello").messages)
    with torch.inference_mode():
        scores = engine._open.model(torch.tensor([prompt])).logits[0, -1].float()
    best = torch.log_softmax(scores, -1).topk(3)
    first = answer.logprobs[0]
    assert first["logprob"] == pytest.approx(best.values[0].item(), abs=1e-5)
    shown = [each["logprob"] for each in first["top_logprobs"]]
    assert shown == pytest.approx(best.values.tolist(), abs=1e-5)
    assert [each["token"] for each in first["top_logprobs"]] == [
        engine._open.tokenizer.decode([token], skip_special_tokens=True)
        for token in best.indices.tolist()
    ]
    streamed = collect(engine.stream(ask("hello", max_tokens=4, extra=wanted)))
    assert [each["token"] for each in streamed.logprobs] == [
        each["token"] for each in answer.logprobs
    ]
    with pytest.raises(ValueError, match="top_logprobs needs logprobs"):
        engine.generate([ask("hello", extra={"top_logprobs": 3})])
    with pytest.raises(ValueError, match="between 0 and 20, not 21"):
        engine.generate([ask("hello", extra={"logprobs": True, "top_logprobs": 21})])


def test_a_stop_string_ends_the_answer_and_is_left_out(engine: TransformersGenerator) -> None:
    (free,) = engine.generate([ask("hello")])
    stop = free.text[3:5]
    (stopped,) = engine.generate([ask("hello", stop=(stop,))])
    assert stopped.text == free.text[: free.text.find(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.usage.output_tokens < free.usage.output_tokens
    assert collect(engine.stream(ask("hello", stop=(stop,)))).text == stopped.text


def test_a_seed_repeats_and_leaves_torchs_state_alone(engine: TransformersGenerator) -> None:
    before = torch.get_rng_state()
    first, second, other = (
        engine.generate([ask("hello", temperature=1.0, seed=seed)])[0].text for seed in (1, 1, 2)
    )
    assert first == second != other
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_limit_the_answer_ends_with_the_window(engine: TransformersGenerator) -> None:
    (answer,) = engine.generate([ask("hello", max_tokens=None)])
    assert answer.usage.input_tokens + answer.usage.output_tokens == WINDOW == engine.context_length
    assert answer.finish_reason == "length"


def test_a_prompt_beyond_the_window_is_refused_with_both_numbers(
    engine: TransformersGenerator,
) -> None:
    with pytest.raises(PromptTooLongError) as caught:
        engine.generate([ask("x" * 500)])
    assert ((caught.value.tokens or 0) > 500, caught.value.window) == (True, WINDOW)


def test_n_ctx_lowers_the_window(path: Path) -> None:
    assert TransformersGenerator(path, replace(EXACT, n_ctx=50)).context_length == 50
    assert TransformersGenerator(path, replace(EXACT, n_ctx=5000)).context_length == WINDOW


def test_closing_the_stream_stops_the_model(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = slow_steps(engine, monkeypatch)
    stream = engine.stream(ask("hello", max_tokens=None))
    next(stream)
    stream.close()
    engine.generate([ask("after", max_tokens=1)])  # takes its turn when the model is free
    assert len(steps) < 60


def test_a_slow_model_runs_into_the_time_out(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_steps(engine, monkeypatch)
    with pytest.raises(TimeoutError):
        collect(engine.stream(ask("hello", max_tokens=None, timeout=0.1)))
    with pytest.raises(TimeoutError):
        engine.generate([ask("hello", max_tokens=None, timeout=0.1)])


async def read(deltas: Deltas) -> str:
    return "".join([delta.text async for delta in pulled_async(deltas)])


def wait(check: Callable[[], object]) -> None:
    for _ in range(3000):
        if check():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


async def until(check: Callable[[], object]) -> None:
    await asyncio.to_thread(wait, check)


async def canceled(task: asyncio.Task[str]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_canceled_task_stops_an_answer_that_shows_nothing(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = slow_steps(engine, monkeypatch)
    with monkeypatch.context() as silent:
        # As calls of tools are held back.
        silent.setattr(engine._open.tokenizer, "decode", lambda *_, **__: "")
        task = asyncio.create_task(read(engine.stream(ask("hello", max_tokens=None))))
        await until(lambda: steps)
        await canceled(task)
    await asyncio.to_thread(engine.generate, [ask("after", max_tokens=1)])
    assert len(steps) < 60


async def test_a_chat_that_is_canceled_in_the_queue_is_never_begun(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = slow_steps(engine, monkeypatch)
    rows = engine._open.rows
    batches: list[int] = []
    run = rows._run

    def counted(these: Sequence[Row]) -> None:
        batches.append(len(these))
        run(these)

    monkeypatch.setattr(rows, "_run", counted)
    first = asyncio.create_task(read(engine.stream(ask("hello", max_tokens=40))))
    await until(lambda: steps)
    second = asyncio.create_task(read(engine.stream(ask("hello", max_tokens=40))))
    await until(lambda: rows._waiting)
    await canceled(second)
    assert await first
    await asyncio.to_thread(engine.generate, [ask("after", max_tokens=1)])
    assert batches == [1, 1]


async def test_tasks_that_read_have_no_threads(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = slow_steps(engine, monkeypatch)
    before = threading.enumerate()
    tasks = [asyncio.create_task(read(engine.stream(ask("hello")))) for _ in range(8)]
    await until(lambda: steps)
    names = [thread.name for thread in threading.enumerate() if thread not in before]
    assert "langchain-gpu-stream" not in names
    assert len(set(await asyncio.gather(*tasks))) == 1


def test_an_answer_that_cannot_be_read_leaves_the_others_alone(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reader(request: Request, row: Row) -> Stage:
        def broken(delta: Delta) -> Delta:
            raise ValueError("no such form")

        return broken if request.messages[0]["content"] == "x" else Timer()

    (whole,) = engine.generate([ask("hello")])
    monkeypatch.setattr(engine._formats, "reader", reader)
    with ThreadPoolExecutor(2) as pool, engine.expect(2, 2):
        bad = pool.submit(collect, engine.stream(ask("x")))
        good = pool.submit(collect, engine.stream(ask("hello")))
    with pytest.raises(ValueError, match="no such form"):
        bad.result()
    assert good.result().text == whole.text


def slow_steps(engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []
    model = engine._open.model
    forward = model.forward

    @wraps(forward)
    def slow(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        threading.Event().wait(0.02)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", slow)
    return steps


def test_options_of_other_engines_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="n_gpu_layers"):
        TransformersGenerator(path, replace(EXACT, n_gpu_layers=3))
    with pytest.raises(ValueError, match="int8"):
        TransformersGenerator(path, replace(EXACT, dtype="int8"))


def test_an_unknown_sampling_option_is_refused(engine: TransformersGenerator) -> None:
    with pytest.raises(ValueError, match="bogus"):
        engine.generate([ask("hello", extra={"bogus": 1})])


def test_a_base_model_goes_on_with_prompts_and_refuses_chats(tmp_path: Path) -> None:
    generator = TransformersGenerator(Path(build_chat(tmp_path, template=None)), EXACT)
    (answer,) = generator.generate([Request(prompt="hello", temperature=0, max_tokens=3)])
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (1, 3)
    with pytest.raises(ValueError, match="GPULLM"):
        generator.generate([ask("hello")])
    with pytest.raises(ValueError, match="prompt is empty"):
        generator.generate([Request(prompt="")])
    generator.close()


def test_a_closed_engine_says_so(path: Path) -> None:
    generator = TransformersGenerator(path, EXACT)
    generator.close()
    with pytest.raises(RuntimeError, match="closed"):
        generator.generate([ask("hello")])


def test_a_missing_device_follows_the_policy(path: Path) -> None:
    missing = next(name for name in ("xpu", "mps") if not is_here(name))
    events: list[FellBack] = []
    with pytest.warns(FallbackWarning, match=missing):
        generator = TransformersGenerator(
            path,
            Options(device=missing, listener=events.append),  # type: ignore[arg-type]
        )
    assert generator.device.kind == "cpu"
    assert [(event.source, event.target) for event in events] == [(missing, "cpu")]
    with pytest.raises(DeviceNotFoundError):
        TransformersGenerator(path, Options(device=missing, fallback="error"))


def is_here(name: str) -> bool:
    try:
        select_device(name)
    except DeviceNotFoundError:
        return False
    return True


class Card(Device):
    """A GPU that is not here: torch finds it on the CPU."""

    @property
    def torch_name(self) -> str:
        return "cpu"


CARD = Card(kind="mps", index=0, name="a small card", reason="it is asked for", dtype="float32")


@pytest.fixture
def small_card(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[TransformersGenerator, list[int]]]]:
    """A generator on a card that holds `rows` rows of fewer than `tokens` tokens."""

    built: list[TransformersGenerator] = []

    def build(rows: int, tokens: int, fallback: Any = "cpu") -> Any:
        monkeypatch.setattr(
            placement, "select_device", lambda name: CARD if name == "mps" else select_device(name)
        )
        monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 1 << 40)
        monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 0)
        options = Options(device="mps", dtype="float32", fallback=fallback)
        generator = TransformersGenerator(path, options)
        built.append(generator)
        model = generator._open.model
        forward = model.forward
        sizes: list[int] = []

        @wraps(forward)
        def limited(*args: Any, **kwargs: Any) -> Any:
            height, width = kwargs["input_ids"].shape
            width += kwargs["past_key_values"].get_seq_length()
            sizes.append(height)
            if generator.device.kind != "cpu" and (height > rows or width >= tokens):
                raise torch.OutOfMemoryError("MPS backend out of memory")
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", limited)
        return generator, sizes

    yield build
    for generator in built:
        generator.close()


REQUESTS = [ask(text) for text in ("hello", "a longer hello", "x", "yes", "no")]


def test_a_batch_that_does_not_fit_is_split(
    engine: TransformersGenerator, small_card: Callable[..., Any]
) -> None:
    generator, sizes = small_card(rows=2, tokens=1000)
    assert texts(generator) == texts(engine)
    assert generator.device.kind == "mps"
    assert max(sizes) == 5
    assert {1, 2} <= set(sizes)


def test_the_next_batch_is_as_small_as_the_last_had_to_become(
    engine: TransformersGenerator, small_card: Callable[..., Any]
) -> None:
    generator, sizes = small_card(rows=2, tokens=1000)
    texts(generator)
    sizes.clear()
    assert texts(generator) == texts(engine)
    assert max(sizes) == 2  # nothing was tried that had failed before


def test_batches_grow_again_when_there_is_memory_again(
    engine: TransformersGenerator,
    small_card: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "INITIAL_WAIT", 1)
    generator, sizes = small_card(rows=3, tokens=1000)
    texts(generator)
    model = generator._open.model
    monkeypatch.setattr(model, "forward", counted(model.forward.__wrapped__, sizes))
    for _ in range(8):
        texts(generator)
    sizes.clear()
    assert texts(generator) == texts(engine)
    assert max(sizes) == len(REQUESTS)


def counted(forward: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    """A model whose memory suffices."""

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    return call


def test_memory_that_ends_in_mid_answer_moves_to_the_cpu_and_goes_on(
    engine: TransformersGenerator, small_card: Callable[..., Any]
) -> None:
    whole = collect(engine.stream(ask("hello")))
    room = whole.usage.input_tokens + 5
    generator, _ = small_card(rows=8, tokens=room)
    with pytest.warns(FallbackWarning, match="out of memory"):
        moved = collect(generator.stream(ask("hello")))
    assert replace(moved, timings=whole.timings) == whole
    assert generator.device.kind == "cpu"
    assert "out of memory" in generator.device.reason


def test_the_card_is_given_back_once_the_model_has_left_it(
    small_card: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, _ = small_card(rows=1, tokens=1)
    steps: list[str] = []
    model = generator._open.model
    move = model.to

    def to(place: Any) -> Any:
        steps.append(f"moved to {place}")
        return move(place)

    monkeypatch.setattr(model, "to", to)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: steps.append("emptied"))
    with pytest.warns(FallbackWarning, match="out of memory"):
        generator.generate(REQUESTS[:1])
    assert steps[-2:] == ["moved to cpu", "emptied"]


def test_with_fallback_error_it_is_raised(small_card: Callable[..., Any]) -> None:
    generator, _ = small_card(rows=1, tokens=1, fallback="error")
    with pytest.raises(torch.OutOfMemoryError):
        collect(generator.stream(ask("hello")))


def texts(generator: TransformersGenerator) -> list[str]:
    return [answer.text for answer in generator.generate(REQUESTS)]
