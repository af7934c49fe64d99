"""GGUF embedders: llama.cpp's own answers, windows, places, and what it refuses."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xllamacpp
from sentence_transformers import SentenceTransformer

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine import llama_cpp_model
from langchain_gpu.engine.backends import create
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import Embedder, load
from langchain_gpu.engine.llama_cpp import LlamaCppEncoder
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.events import FallbackWarning
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device
from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.llama.errors import LlamaError, ModelLoadError
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.llama.settings import LlamaSettings
from langchain_gpu.llama.shared import shared_server
from tests.unit_tests.gguf_bert import write_gguf
from tests.unit_tests.tiny_models import WINDOW

CARD = Device(kind="cuda", index=1, name="a card", reason="the test says so", dtype="float16")
TEXTS = ["", "The GPU is fast.", "one two\none two", "the memory of the gpu " * 3, "token " * 200]


@pytest.fixture(scope="module")
def folder(tiny: Callable[[str], str]) -> Path:
    return Path(tiny("bert"))


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def config(file: Path, **options: Any) -> EmbedderConfig:
    return EmbedderConfig(
        model=str(file), backend="llama_cpp", device="cpu", options={"n_threads": 1, **options}
    )


def encoder(file: Path, device: Device | None = None, **options: Any) -> LlamaCppEncoder:
    fallback = options.pop("fallback", "cpu")
    return LlamaCppEncoder(
        file, device or select_device("cpu"), options={"n_threads": 1, **options}, fallback=fallback
    )


@pytest.fixture(scope="module")
def embedder(file: Path) -> Embedder:
    return load(config(file))


def test_the_vectors_are_those_of_the_original(embedder: Embedder, folder: Path) -> None:
    rows = embedder.engine.run(TEXTS, EmbedOptions())
    model = SentenceTransformer(str(folder), device="cpu")
    wanted = np.stack([model.encode([text], prompt="")[0] for text in TEXTS])
    assert np.allclose(rows.vectors, wanted, atol=1e-4)
    assert rows.report.truncated == (4,)
    assert rows.report.padded_tokens == rows.report.tokens
    assert embedder.reason == "llama_cpp: asked for"


def test_the_window_is_the_models_own_or_the_smaller_one_asked_for(file: Path) -> None:
    own = encoder(file)
    assert own.window == WINDOW  # of 2048 that it would take
    assert own._open.settings.n_ctx == 256  # and no room for more, but for llama.cpp's own step
    small = encoder(file, n_ctx=16)
    assert small.window == 16
    assert small.tokenize(["gpu " * 40], EmbedOptions()).lengths.tolist() == [16]
    assert small.tokenize(["gpu " * 40], EmbedOptions(on_long="mean")).lengths.tolist() == [
        16,
        16,
        14,
    ]


def test_a_huge_text_is_not_read_to_its_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortcut keeps the window that reading everything would keep."""
    read: list[int] = []
    tokenize = LlamaServer.tokenize

    def counting(self: LlamaServer, text: str, *, special: bool = False) -> list[int]:
        read.append(len(text))
        return tokenize(self, text, special=special)

    ours = encoder(file)
    monkeypatch.setattr(LlamaServer, "tokenize", counting)
    texts = ["gpu cpu memory " * 10_000, " " * 10_000 + "gpu " * 10, "gpu" + " " * 9_000]
    tokens = ours.tokenize(texts, EmbedOptions())
    assert read[0] < 10_000
    assert tokens.truncated.tolist() == [0]
    assert tokens.lengths.tolist() == [WINDOW, 12, 3]
    head = ours.tokenize(["gpu cpu memory " * 20], EmbedOptions())
    assert ours.prepare(tokens, np.array([0])).rows == ours.prepare(head, np.array([0])).rows


def test_several_slots_give_the_same(file: Path, embedder: Embedder) -> None:
    several = load(config(file, n_parallel=3))
    ours = several.engine.run(TEXTS * 3, EmbedOptions()).vectors
    alone = embedder.engine.run(TEXTS, EmbedOptions()).vectors
    assert np.allclose(ours, np.tile(alone, (3, 1)), atol=1e-4)


def test_a_refusal_names_the_texts(embedder: Embedder) -> None:
    encoder: Any = embedder.encoder
    tokens = encoder.tokenize(["a", "b", "c"], EmbedOptions(), start=100)
    part = encoder.prepare(tokens, np.array([2, 0]))
    part.rows[0] += [5] * WINDOW  # as if the window had been missed
    with pytest.raises(LlamaError, match=r"larger than the max context.*the texts 102, 100\)"):
        encoder.forward(part)


def test_running_out_of_memory_is_recognized(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp says so in a dictionary."""
    answer = {"code": 500, "message": "failed to allocate compute buffers", "type": "server_error"}

    def refuse(self: LlamaServer, rows: Any) -> Any:
        raise LlamaError(answer)

    monkeypatch.setattr(LlamaServer, "embed", refuse)
    encoder: Any = embedder.encoder
    tokens = encoder.tokenize(["a"], EmbedOptions())
    with pytest.raises(LlamaError) as caught:
        encoder.forward(encoder.prepare(tokens, np.array([0])))
    assert is_out_of_memory(caught.value)


def test_a_file_that_names_no_pooling(folder: Path, file: Path, tmp_path: Path) -> None:
    bare = write_gguf(folder, tmp_path / "bare.gguf", pooling=None)
    with pytest.raises(LlamaError, match="pooling"):
        encoder(bare)
    with pytest.raises(
        LlamaError, match=r"bare\.gguf does not say how to pool.*\{'pooling': 'mean'\}"
    ):
        GPUEmbeddings(model=str(bare)).embed_query("a")
    chosen = load(config(bare, pooling="mean")).engine.run(TEXTS, EmbedOptions()).vectors
    assert np.allclose(
        chosen, load(config(file)).engine.run(TEXTS, EmbedOptions()).vectors, atol=1e-5
    )
    first = load(config(bare, pooling="cls")).engine.run(TEXTS, EmbedOptions()).vectors
    assert not np.allclose(chosen, first, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"dtype": "float16"}, "has its own dtype"),
        ({"options": {"n_batch": 5}}, "unknown options n_batch; known: n_ctx"),
        ({"options": {"pooling": "max"}}, "pooling 'max' is not one of mean, cls, last"),
    ],
)
def test_what_is_asked_for_in_vain(file: Path, arguments: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        LlamaCppEncoder(file, select_device("cpu"), **arguments)


def test_no_model_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 100)
    with pytest.raises(ModelLoadError, match="x.gguf"):
        load(config(tmp_path / "x.gguf"))


class TestPlaces:
    """Which device; this machine has no card, so the servers here are stand-ins."""

    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[LlamaSettings]:
        """Settings of the servers that were asked for; those on a card get the CPU's."""
        asked: list[LlamaSettings] = []
        real = shared_server

        def start(settings: LlamaSettings) -> LlamaServer:
            asked.append(settings)
            changed: Any = {"n_gpu_layers": 0, "main_gpu": 0}
            from dataclasses import replace

            return real(replace(settings, **changed))

        monkeypatch.setattr(llama_cpp_model, "shared_server", start)
        return asked

    def cards(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        gpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU
        cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
        infos = [{"name": "CPU", "type": cpu}, *({"name": name, "type": gpu} for name in names)]
        monkeypatch.setattr(xllamacpp, "get_device_info", lambda: infos)

    @pytest.mark.parametrize(
        ("names", "main_gpu"),
        [(("CUDA0", "CUDA1"), 1), (("Vulkan0", "CUDA0", "Vulkan1"), 1)],
    )
    def test_layers_go_to_the_card(
        self,
        file: Path,
        started: list[LlamaSettings],
        monkeypatch: pytest.MonkeyPatch,
        names: tuple[str, ...],
        main_gpu: int,
    ) -> None:
        self.cards(monkeypatch, *names)
        ours = encoder(file, CARD)
        assert (started[0].n_gpu_layers, started[0].main_gpu) == (-1, main_gpu)
        assert started[0].n_parallel > 1
        assert str(ours.device) == "cuda:1"
        assert ours.device.reason.endswith("llama.cpp runs the model")
        encoder(file, CARD, n_gpu_layers=3)
        assert started[1].n_gpu_layers == 3

    @pytest.mark.parametrize("names", [(), ("CUDA0",), ("ROCm0", "ROCm1")])
    def test_a_card_that_llama_cpp_does_not_see(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
    ) -> None:
        self.cards(monkeypatch, *names)
        with pytest.raises(DeviceNotFoundError, match="this build of xllamacpp does not see it"):
            encoder(file, CARD, fallback="error")
        with pytest.warns(FallbackWarning, match="embedding runs on cpu, not cuda:1"):
            ours = encoder(file, CARD)
        assert str(ours.device) == "cpu"
        assert "does not see it" in ours.device.reason

    def test_a_card_that_is_too_small(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cards(monkeypatch, "CUDA0", "CUDA1")
        real = shared_server

        def start(settings: LlamaSettings) -> LlamaServer:
            if settings.n_gpu_layers:
                raise ModelLoadError("more memory than is free")
            return real(settings)

        monkeypatch.setattr(llama_cpp_model, "shared_server", start)
        with pytest.raises(DeviceNotFoundError, match="more memory than is free"):
            encoder(file, CARD, fallback="error", n_gpu_layers=20)
        with pytest.warns(FallbackWarning, match="more memory than is free"):
            ours = encoder(file, CARD, n_gpu_layers=20)
        assert ours.forward(ours.prepare(ours.from_ids([[2, 3]]), np.array([0])))().shape == (1, 24)

    def test_layers_without_a_card(self, file: Path) -> None:
        with pytest.raises(DeviceNotFoundError, match="n_gpu_layers=5, but "):
            encoder(file, fallback="error", n_gpu_layers=5)
        with pytest.warns(FallbackWarning, match="n_gpu_layers=5"):
            encoder(file, n_gpu_layers=5)


def test_a_move_to_the_cpu(file: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = encoder(file)
    ours.to(select_device("cpu"))
    part = ours.prepare(ours.from_ids([[2, 3]]), np.array([0]))
    assert ours.forward(part)().shape == (1, 24)


def test_closing_frees_the_server(file: Path) -> None:
    ours = encoder(file, n_ctx=2304)  # settings that nobody shares
    server = weakref.ref(ours._open)
    ours.close()
    gc.collect()
    assert server() is None
    with pytest.raises(RuntimeError, match="closed"):
        _ = ours.window


def test_the_registry_finds_a_gguf_file_in_a_folder(file: Path) -> None:
    ours, reason = create(config(file.parent), select_device("cpu"))
    assert reason == "llama_cpp: asked for"
    assert ours.dimension == 24
    assert ours.prompts == {}
    assert ours.default_prompt_name is None
