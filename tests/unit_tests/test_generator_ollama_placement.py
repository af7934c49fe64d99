"""Where Ollama puts a model: loading, fetching, what is on the GPU, the window, unloading."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import pytest

from langchain_gpu import ChatGPU
from langchain_gpu.events import Event, FallbackWarning, FellBack
from langchain_gpu.hardware.devices import DeviceNotFoundError
from langchain_gpu.servers.errors import BadAnswerError, RefusedError, ServerTimeoutError
from tests.unit_tests.scripted_ollama import FakeOllama, an_ollama, done, line, ollama_server
from tests.unit_tests.scripted_server import Reply, Scripted

fake, server = an_ollama, ollama_server


def chat(**settings: Any) -> ChatGPU:
    fixed = {"model": "m", "backend": "ollama", "base_url": "http://ollama.test"}
    return ChatGPU(**{**fixed, **settings})


def loads(server: Scripted) -> list[Any]:
    return [body for body in server.of("/api/chat") if not body["messages"]]


@pytest.mark.parametrize(
    ("on_gpu", "words"),
    [
        (0, "all 0.00 GB on its CPU"),
        (430, "43% of 0.00 GB on its GPU, the rest on its CPU"),
        (1000, "all 0.00 GB on its GPU"),
    ],
)
def test_the_device_says_how_much_is_on_the_gpu(
    on_gpu: int, words: str, fake: FakeOllama, server: Scripted
) -> None:
    fake.on_gpu = on_gpu
    (device,) = chat().devices  # nothing was asked for, so nothing is amiss
    assert (device.kind, device.name) == ("remote", "ollama.test")
    assert words in device.reason


Case = tuple[dict[str, Any], int, bool]
ASKED_AND_FOUND: list[Case] = [
    # What was asked for, bytes of 1000 on the GPU, and whether that is less.
    ({"device": "cuda"}, 0, True),
    ({"device": "rocm"}, 600, True),
    ({"device": "cuda"}, 1000, False),
    ({"n_gpu_layers": -1}, 0, True),
    ({"n_gpu_layers": -1}, 300, False),  # as many as fit
    ({"n_gpu_layers": 2}, 0, True),
    ({"n_gpu_layers": 2}, 400, False),  # 2 of 3 layers and the output
    ({"n_gpu_layers": 2}, 100, True),
    ({"n_gpu_layers": 99}, 700, True),
    ({"n_gpu_layers": 99}, 1000, False),
    ({"n_gpu_layers": 0}, 0, False),
    ({"device": "cpu"}, 0, False),
    ({}, 0, False),
]


@pytest.mark.parametrize("case", ASKED_AND_FOUND)
def test_less_than_was_asked_for_is_told_once(
    case: Case, fake: FakeOllama, server: Scripted
) -> None:
    asked, fake.on_gpu, less = case
    # Every answer says that it was loaded again, so every answer makes the object look.
    fake.chat = lambda _: Reply(parts=[line("x"), done(load_duration=10**9)])
    events: list[Event] = []
    model = chat(on_event=events.append, **asked)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.invoke("x")
        model.invoke("x")
    told = [each for each in caught if issubclass(each.category, FallbackWarning)]
    assert len(told) == len([event for event in events if isinstance(event, FellBack)]) == less
    if less:
        assert "was asked for, and Ollama keeps" in str(told[0].message)


@pytest.mark.parametrize("case", ASKED_AND_FOUND)
def test_the_policy_error_raises_and_leaves_nothing_loaded(
    case: Case, fake: FakeOllama, server: Scripted
) -> None:
    asked, fake.on_gpu, less = case
    model = chat(fallback="error", **asked)
    if not less:
        assert model.invoke("x").content == "Hello."
        return
    with pytest.raises(DeviceNotFoundError, match="fallback='error'.*was asked for"):
        model.invoke("x")
    assert not fake.loaded


def test_a_model_that_comes_back_elsewhere_is_noticed(fake: FakeOllama, server: Scripted) -> None:
    fake.on_gpu = 1000
    fake.chat = lambda _: Reply(parts=[line("x"), done(load_duration=10**9)])
    model = chat(device="cuda")
    assert "all 0.00 GB on its GPU" in model.devices[0].reason
    fake.on_gpu = 0
    with pytest.warns(FallbackWarning, match="on its CPU"):
        model.invoke("x")
    assert "on its CPU" in model.devices[0].reason


def test_what_was_asked_for_is_what_it_is_loaded_with(fake: FakeOllama, server: Scripted) -> None:
    options = {"n_ctx": 512, "n_threads": 1, "load_kwargs": {"num_batch": 64}, "device": "cpu"}
    chat(**options).invoke("x")
    wanted = {"num_ctx": 512, "num_thread": 1, "num_batch": 64, "num_gpu": 0}
    assert [body["options"] for body in server.of("/api/chat")] == [wanted, wanted]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
        ({"device": "gpu"}, "Ollama chooses"),
        ({"device": "cpu", "n_gpu_layers": 3}, "contradict"),
        ({"dtype": "float16"}, "no meaning for the back end 'ollama'"),
        ({"load_kwargs": {"mmap": True}}, r"are pull, timeout, .*not \['mmap'\]"),
    ],
)
def test_what_ollama_cannot_do_is_refused(
    settings: dict[str, Any], words: str, server: Scripted
) -> None:
    with pytest.raises(ValueError, match=words):
        chat(**settings).invoke("x")
    assert not server.asked


def test_the_window(fake: FakeOllama, server: Scripted) -> None:
    assert chat().context_length == 4096  # the server says it
    fake.window = None  # one that is too old
    assert chat(n_ctx=512).context_length == 512
    assert chat(n_ctx=100_000).context_length == 8192  # the model has no more
    fake.parameters = 'stop    "x"\nnum_ctx                 2048\n'
    assert chat().context_length == 2048
    fake.parameters = ""
    model = chat()
    model.invoke("x")
    assert model.context_length == server.of("/api/chat")[-1]["options"]["num_ctx"] == 4096


def test_only_what_this_object_loaded_is_unloaded(fake: FakeOllama, server: Scripted) -> None:
    fake.loaded = {"m:latest"}
    model = chat()
    model.invoke("x")
    model.close()
    assert fake.loaded == {"m:latest"}  # somebody else's
    fake.loaded = set()
    with chat() as model:
        model.invoke("x")
        assert fake.loaded == {"m:latest"}
    assert fake.loaded == set()
    model.close()


@pytest.mark.parametrize("keep", [0, "0", "0s", 0.0])
def test_not_keeping_a_model_still_loads_it_first(
    keep: float | str, fake: FakeOllama, server: Scripted
) -> None:
    chat(keep_alive=keep).invoke("x")
    assert "keep_alive" not in loads(server)[0]
    assert server.of("/api/chat")[-1]["keep_alive"] == keep


@pytest.mark.parametrize("keep", [90, "5m", -1, 0.5])
def test_keep_alive_holds_from_the_start(keep: float | str, server: Scripted) -> None:
    chat(keep_alive=keep).invoke("x")
    assert [body["keep_alive"] for body in server.of("/api/chat")] == [keep, keep]


def test_loading_has_its_own_time(
    fake: FakeOllama, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(asked: Any) -> Reply:
        reply = fake(asked)
        loading = asked.path == "/api/chat" and not asked.body["messages"]
        return Reply(reply.body, reply.status, delay=1.0, parts=reply.parts) if loading else reply

    server.script = slow
    assert chat(timeout=0.6).invoke("x").content == "Hello."
    with pytest.raises(ServerTimeoutError, match=r"answer /api/chat within 0\.3 seconds"):
        chat(load_kwargs={"timeout": 0.3}).invoke("x")


def progress(*lines: dict[str, Any]) -> list[bytes]:
    return [json.dumps(each).encode() + b"\n" for each in lines]


def test_a_missing_model_is_fetched_on_request(
    fake: FakeOllama, server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    layer = {"status": "pulling abc", "digest": "sha256:abc", "total": 10**9}
    steps = [{**layer, "completed": 10**7 * part} for part in range(101)]
    fake.pulls = lambda: Reply(
        parts=progress({"status": "pulling manifest"}, *steps, {"status": "success"})
    )
    caplog.set_level(logging.INFO, "langchain_gpu")
    assert chat(model="other", load_kwargs={"pull": True}).invoke("x").content == "Hello."
    said = [record.getMessage() for record in caplog.records if "fetches" in record.getMessage()]
    assert any("50% of 1.00 GB" in words for words in said)
    assert 10 <= len(said) <= 15  # and not every line


def test_a_download_that_fails_is_an_error(fake: FakeOllama, server: Scripted) -> None:
    ended = progress({"status": "pulling manifest"})
    fake.pulls = lambda: Reply(parts=ended)
    with pytest.raises(BadAnswerError, match="broke off while it fetched other"):
        chat(model="other", load_kwargs={"pull": True}).invoke("x")
    fake.models.clear()
    refused = progress({"error": "pull model manifest: file does not exist"})
    fake.pulls = lambda: Reply(parts=refused)
    with pytest.raises(Exception, match="file does not exist"):
        chat(model="other", load_kwargs={"pull": True}, max_retries=0).invoke("x")


def test_a_download_may_take_long_but_not_be_silent(fake: FakeOllama, server: Scripted) -> None:
    steps: list[bytes | float] = []
    for part in range(6):
        steps += [*progress({"status": f"part {part}"}), 0.2]
    fake.pulls = lambda: Reply(parts=[*steps, *progress({"status": "success"})])
    settings = {"load_kwargs": {"pull": True, "timeout": 0.7}}
    assert chat(model="other", **settings).invoke("x").content == "Hello."
    fake.models.clear()
    fake.pulls = lambda: Reply(parts=[*progress({"status": "part 0"}), 20.0])
    with pytest.raises(
        ServerTimeoutError, match=r"nothing for 0\.7 seconds while it fetched other"
    ):
        chat(model="other", **settings).invoke("x")


def test_an_answer_stays_whole_when_its_place_cannot_be_seen(
    fake: FakeOllama, server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    fake.chat = lambda _: Reply(parts=[line("x"), done(load_duration=10**9)])
    model = chat(max_retries=0)
    _ = model.devices

    def blind(asked: Any) -> Reply:
        return Reply(status=500, body={"error": "x"}) if asked.path == "/api/ps" else fake(asked)

    server.script = blind
    assert model.invoke("x").content == "x"
    assert "cannot see where m runs now" in caplog.text


def test_nothing_is_fetched_unasked(fake: FakeOllama, server: Scripted) -> None:
    fake.pulls = lambda: Reply(parts=progress({"status": "success"}))
    with pytest.raises(RefusedError, match="load_kwargs"):
        chat(model="other").invoke("x")
    assert not server.of("/api/pull")


def test_a_model_too_large_for_its_memory(fake: FakeOllama, server: Scripted) -> None:
    words = "model requires more system memory (90.0 GiB) than is available (20.0 GiB)"

    def refuse(asked: Any) -> Reply:
        too_large = asked.path == "/api/chat"
        return Reply(status=500, body={"error": words}) if too_large else fake(asked)

    server.script = refuse
    with pytest.raises(RuntimeError, match="90.0 GiB"):
        chat(max_retries=1).invoke("x")
