"""Embedders in 8-bit integers on OpenVINO: what they cost is measured, kept and shown."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu.embeddings import GPUEmbeddings
from langchain_gpu.engine import backends
from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.runtimes import calibration, openvino_int8, quantization_loss
from langchain_gpu.engine.runtimes.no_telemetry import without_telemetry

Tiny = Callable[[str], str]
TEXTS = ["the gpu is fast", "a slow cpu", "one", "memory of the model " * 6]


def integers(model: str, **kwargs: Any) -> GPUEmbeddings:
    return GPUEmbeddings(model=model, device="cpu", dtype="int8", **kwargs)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_DRAWN", 16)


class TestEmbedding:
    @pytest.mark.parametrize("backend", ["auto", "openvino"])
    def test_vectors_are_alike_and_the_loss_is_shown(
        self, tiny: Tiny, backend: Any, capfd: pytest.CaptureFixture[str]
    ) -> None:
        embeddings = integers(tiny("bert"), backend=backend)
        ours = embeddings.embed_to_array(TEXTS)
        exact = GPUEmbeddings(model=tiny("bert"), device="cpu", dtype="float32")
        found = (ours * exact.embed_to_array(TEXTS)).sum(axis=1)
        assert found.min() > 0.95
        assert found.min() < 0.9999999, "nothing was quantized"
        assert embeddings._load().encoder.dtype == "int8"
        assert "int8: cosine to float32 at least" in embeddings.backend_reason
        assert "Statistics" not in capfd.readouterr().out, "no progress bars on the user's screen"

    def test_it_is_quantized_once(
        self, tiny: Tiny, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = integers(tiny("bert"))
        vector, reason = first.embed_query("the gpu"), first.backend_reason
        assert list(cache.glob("langchain-gpu/openvino/bert-*-int8-*/loss.json"))

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("quantized again")

        monkeypatch.setattr(openvino_int8, "quantize", refuse)
        again = integers(tiny("bert"))
        assert again.embed_query("the gpu") == vector
        assert again.backend_reason == reason
        with pytest.raises(AssertionError, match="quantized again"):  # other texts, other ranges
            integers(tiny("bert"), calibration_texts=["the gpu"]).embed_query("one")

    def test_a_loss_beyond_sense_is_refused(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(quantization_loss, "LEAST_COSINE", 0.99999999)
        with pytest.raises(NotConvertibleError, match="int8 loses too much of this model: cosine"):
            integers(tiny("bert")).embed_query("one")
        assert not list(tmp_path.glob("**/*-int8-*")), "it must not be cached"

    def test_without_nncf_it_names_the_pip_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nncf", None)
        monkeypatch.setattr(backends, "resolve", lambda *_, **__: pytest.fail("looked for"))
        with pytest.raises(ImportError, match=r'pip install "langchain-gpu\[openvino-int8\]"'):
            integers("org/a").embed_query("one")


class TestSamples:
    def test_drawn_ones_are_the_same_every_time_and_of_all_lengths(self) -> None:
        drawn = calibration.samples([])
        assert drawn == calibration.samples([])
        assert {len(text.split()) for text in drawn} == {3, 8, 20, 60, 150}

    def test_given_ones_come_first_and_alone_when_there_are_enough(self) -> None:
        many = [f"text {number}" for number in range(40)]
        assert calibration.samples(many) == many
        assert calibration.samples(many[:3])[:3] == many[:3]
        assert len(calibration.samples(many[:3])) == 3 + calibration._DRAWN
        assert len(calibration.samples([str(number) for number in range(5000)])) == 512


class TestTelemetry:
    """The vendor's tools report by default; here nothing leaves and nothing is written."""

    def test_a_new_report_is_declined_and_an_old_one_is_dropped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from openvino_telemetry import main

        sent: list[object] = []
        monkeypatch.setattr(main.TelemetrySender, "send", lambda *_: sent.append("sent"))
        main.TelemetrySender().send(None, None)
        assert sent == ["sent"]
        with without_telemetry():
            main.TelemetrySender().send(None, None)
            checker = main.OptInChecker()
            assert checker.check(False, disable_in_ci=True).name == "DECLINED"  # noqa: FBT003
        assert sent == ["sent"]
        main.TelemetrySender().send(None, None)
        assert sent == ["sent", "sent"], "what others do is theirs"

    def test_a_conversion_sends_nothing(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from openvino_telemetry import main
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker

        sent: list[object] = []
        monkeypatch.setattr(main.TelemetrySender, "send", lambda *_: sent.append("sent"))
        # As on a user's machine, where nobody opted out.
        monkeypatch.setattr(OptInChecker, "check", lambda *_, **__: ConsentCheckResult.NO_FILE)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HOME", str(tmp_path))
        vectors = integers(tiny("bert"), backend="openvino").embed_to_array(["one"])
        assert np.isfinite(vectors).all()
        assert not sent
        assert not (tmp_path / "intel").exists(), "no identification is written"

    def test_without_the_reporting_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def missing(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.startswith("openvino_telemetry"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", missing)
        with without_telemetry():
            pass
