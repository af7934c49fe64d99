"""What is particular to the runtime that auto takes on a CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from langchain_gpu.embeddings import GPUEmbeddings
from langchain_gpu.engine.backends import NotConvertibleError, create
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.runtimes import openvino as runtime
from langchain_gpu.engine.runtimes.openvino import OpenVINOEncoder
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device

Tiny = Callable[[str], str]
CPU = select_device("cpu")


def exact(model: str, **kwargs: Any) -> GPUEmbeddings:
    return GPUEmbeddings(model=model, device="cpu", backend="openvino", dtype="float32", **kwargs)


class TestChoice:
    def test_auto_takes_it_and_says_so(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("bert"), device="cpu", dtype="float32")
        assert embeddings.backend_reason == "openvino: the fastest on a CPU, and installed"

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("static", "prepares its texts in its own way"),
            ("bert-without-prompt", "its pooling"),
        ],
    )
    def test_what_it_cannot_run_goes_to_torch(self, tiny: Tiny, name: str, match: str) -> None:
        automatic = GPUEmbeddings(model=tiny(name), device="cpu", dtype="float32")
        assert automatic.backend_reason.startswith("torch: openvino does not take the model")
        with pytest.raises(NotConvertibleError, match=match):
            GPUEmbeddings(model=tiny(name), backend="openvino").embed_query("one")

    def test_without_it_auto_names_the_pip_line(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("langchain_gpu.engine.backends.is_installed", lambda _: False)
        reason = GPUEmbeddings(model=tiny("bert"), device="cpu").backend_reason
        assert 'pip install "langchain-gpu[openvino]"' in reason

    def test_float16_on_a_cpu_goes_to_torch(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("bert"), device="cpu", dtype="float16")
        assert embeddings.backend_reason.startswith("torch: openvino does not compute in float16")
        with pytest.raises(ValueError, match="use bfloat16 or float32"):
            GPUEmbeddings(model=tiny("bert"), backend="openvino", dtype="float16").embed_query("a")


class TestConversion:
    def test_a_model_is_converted_once(
        self, tiny: Tiny, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vector = exact(tiny("bert")).embed_query("the gpu")
        assert list(cache.glob("langchain-gpu/openvino/bert-*/model.xml"))

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("converted again")

        monkeypatch.setattr("openvino.convert_model", refuse)
        assert exact(tiny("bert")).embed_query("the gpu") == vector

    def test_a_cache_that_cannot_be_written_is_no_failure(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        embeddings = exact(tiny("bert"))
        with pytest.warns(RuntimeWarning, match="is not cached"):
            embeddings.embed_query("one")
        embeddings.close()

    def test_a_conversion_that_computes_something_else_is_refused(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if tracing had lost something: the converted module sees its ids reversed."""
        convert = openvino.convert_model

        def lossy(module: torch.nn.Module, **kwargs: Any) -> Any:
            module.register_forward_hook(lambda _module, _inputs, output: output.flip(1))
            try:
                return convert(module, **kwargs)
            finally:
                module._forward_hooks.clear()

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(openvino, "convert_model", lossy)
        with pytest.raises(NotConvertibleError, match="gives different results when traced"):
            exact(tiny("bert")).embed_query("one")
        assert not list(tmp_path.rglob("model.xml")), "it must not be cached"

    def test_a_graph_we_changed_wrongly_is_not_taken_but_the_models_own(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = exact(tiny("bert")).embed_query("the gpu and the cpu")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr("langchain_gpu.engine.runtimes.fusible._UNSEEN", 0.5)
        embeddings = exact(tiny("bert"))
        assert np.allclose(embeddings.embed_query("the gpu and the cpu"), wanted, atol=1e-5)

    def test_a_graph_that_cannot_be_rewritten_is_converted_plainly(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if another release of OpenVINO had other nodes."""
        wanted = exact(tiny("bert")).embed_query("the gpu and the cpu")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

        def fail(_: object) -> None:
            raise RuntimeError("Check 'out.size() == 1' failed")

        monkeypatch.setattr("langchain_gpu.engine.runtimes.openvino_graph.drop_token_types", fail)
        embeddings = exact(tiny("bert"))
        assert np.allclose(embeddings.embed_query("the gpu and the cpu"), wanted, atol=1e-5)

    def test_the_model_keeps_its_attention(self, tiny: Tiny, tmp_path: Path) -> None:
        """What the conversion borrows, it gives back: torch computes as before."""
        from sentence_transformers import SentenceTransformer

        from langchain_gpu.engine.runtimes.fusible import NAME, fusible

        model = SentenceTransformer(tiny("bert"), device="cpu")
        before = model[0].model.config._attn_implementation
        with fusible(model) as changed:
            assert changed
            assert model[0].model.config._attn_implementation == NAME
        assert model[0].model.config._attn_implementation == before


class TestBatches:
    def test_widths_come_in_steps(self, tiny: Tiny) -> None:
        encoder = OpenVINOEncoder(Path(tiny("bert")), CPU, dtype="float32")
        tokens = encoder.tokenize(["gpu", "the gpu is fast"], EmbedOptions())
        features = encoder.prepare(tokens, np.array([1, 0]))
        assert features["input_ids"].shape == (2, encoder.rules.width(int(tokens.lengths.max())))
        assert features["attention_mask"].sum() == tokens.lengths.sum()

    def test_two_batches_on_their_way(self, tiny: Tiny) -> None:
        encoder = OpenVINOEncoder(Path(tiny("bert")), CPU, dtype="float32")
        tokens = encoder.tokenize(["gpu", "the memory", "a b c", "one"], EmbedOptions())
        parts = [np.array([row]) for row in range(4)]
        alone = [encoder.forward(encoder.prepare(tokens, part))() for part in parts]
        first, second = (encoder.forward(encoder.prepare(tokens, part)) for part in parts[:2])
        found = [second(), first()]  # in any order
        third, fourth = (encoder.forward(encoder.prepare(tokens, part)) for part in parts[2:])
        assert np.array_equal(found[1], alone[0]), "rows are copies: later batches leave them alone"
        assert np.array_equal(found[0], alone[1])
        assert np.array_equal(third(), alone[2])
        assert np.array_equal(fourth(), alone[3])

    def test_a_batch_nobody_waits_for_does_no_harm(self, tiny: Tiny) -> None:
        encoder = OpenVINOEncoder(Path(tiny("bert")), CPU, dtype="float32")
        tokens = encoder.tokenize(["gpu"] * 8, EmbedOptions())
        encoder.forward(encoder.prepare(tokens, np.arange(8)))
        vectors = encoder.forward(encoder.prepare(tokens, np.arange(8)))()
        assert np.isfinite(vectors).all()
        encoder.close()


def test_closing_lets_everything_go(tiny: Tiny) -> None:
    encoder = OpenVINOEncoder(Path(tiny("bert")), CPU, dtype="float32")
    tokens = encoder.tokenize(["gpu"], EmbedOptions())
    encoder.forward(encoder.prepare(tokens, np.arange(1)))()
    compiled = weakref.ref(encoder._compiled)
    encoder.close()
    encoder.close()
    assert compiled() is None
    assert encoder._program is None


class Core:
    """A machine with other cards."""

    available_devices: tuple[str, ...] = ("CPU",)


class TestDevices:
    CARD = replace(CPU, kind="xpu", index=0, name="fake", dtype="bfloat16")

    def test_another_maker_is_refused(self, tiny: Tiny) -> None:
        card = Device(kind="cuda", index=0, name="fake", reason="fake")
        with pytest.raises(ValueError, match="a CPU or an Intel GPU, not on cuda:0"):
            create(EmbedderConfig(model=tiny("bert"), backend="openvino"), card)

    @pytest.mark.parametrize(
        ("seen", "index", "name"),
        [
            (("CPU", "GPU"), 0, "GPU.0"),
            (("CPU", "GPU"), None, "GPU.0"),
            (("CPU", "GPU.0", "GPU.1"), 1, "GPU.1"),
        ],
    )
    def test_names_of_intel_gpus(
        self, monkeypatch: pytest.MonkeyPatch, seen: tuple[str, ...], index: int | None, name: str
    ) -> None:
        from langchain_gpu.engine.runtimes.openvino import place

        monkeypatch.setattr(Core, "available_devices", seen)
        monkeypatch.setattr(runtime, "core", Core)
        assert place(replace(self.CARD, index=index)) == name

    def test_an_intel_gpu_without_its_driver(self, tiny: Tiny) -> None:
        with pytest.raises(DeviceNotFoundError, match=r"does not see xpu:0 \(it sees no GPU\)"):
            OpenVINOEncoder(Path(tiny("bert")), self.CARD)

    def test_a_second_gpu_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from langchain_gpu.engine.runtimes.openvino import place

        monkeypatch.setattr(Core, "available_devices", ("CPU", "GPU"))
        monkeypatch.setattr(runtime, "core", Core)
        with pytest.raises(DeviceNotFoundError, match=r"it sees GPU\)"):
            place(replace(self.CARD, index=1))
