"""ONNX Runtime: which provider really runs, which file, and what is refused."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import quantize_dynamic
from sentence_transformers import SentenceTransformer

from langchain_gpu.engine import backends
from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import load
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.engine import Engine
from langchain_gpu.engine.ladder import EngineOutOfMemoryError
from langchain_gpu.engine.runtimes import onnx_conversion, onnx_files, quantization_loss
from langchain_gpu.engine.runtimes.onnx import OnnxEncoder
from langchain_gpu.engine.runtimes.providers import ProviderMissingError
from langchain_gpu.engine.runtimes.tasks import SCORE
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.events import FallbackWarning
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.hardware.memory import is_out_of_memory
from tests.unit_tests.tiny_models import WINDOW

Tiny = Callable[[str], str]

ROOT = Path(__file__).parents[2]
CPU = select_device("cpu")
TEXTS = ["", "The GPU is fast.", "one two\none two", "the memory of the gpu " * 3, "token " * 200]
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
MIGRAPHX, OPENVINO = "MIGraphXExecutionProvider", "OpenVINOExecutionProvider"


def card(kind: Any = "cuda", dtype: str = "bfloat16") -> Device:
    return Device(kind=kind, index=1, name="a card", reason="the test says so", dtype=dtype)


def reference(path: str) -> Vectors:
    model = SentenceTransformer(path, device="cpu")
    vectors: Vectors = np.stack([model.encode([text], prompt="")[0] for text in TEXTS])
    return vectors


def embed(encoder: OnnxEncoder, texts: Sequence[str] = TEXTS) -> Vectors:
    engine: Engine[str] = Engine([encoder], budgets=Budgets(object(), fixed=256))
    return engine.run(texts, EmbedOptions()).vectors


class Providers:
    """Sessions as on a machine with other wheels: they compute on the CPU and say otherwise.

    Attributes:
        available: What the wheel has.
        refused: What does not start all the same.
        asked: Providers and options of every session.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *available: str) -> None:
        self.available = [*available, "CPUExecutionProvider"]
        self.refused: set[str] = set()
        self.asked: list[list[Any]] = []
        self.shapes: list[tuple[int, ...]] = []
        real = onnxruntime.InferenceSession

        def start(file: str, sess_options: Any = None, providers: Sequence[Any] = ()) -> Any:
            session = real(file, sess_options, providers=["CPUExecutionProvider"])
            if list(providers) != ["CPUExecutionProvider"]:
                self.asked.append(list(providers))
            names = [each if isinstance(each, str) else each[0] for each in providers]
            got = [name for name in names if name not in self.refused]
            session.get_providers = lambda: got
            run = session.run

            def spied(outputs: Any, inputs: Any) -> Any:
                self.shapes.append(inputs["input_ids"].shape)
                return run(outputs, inputs)

            session.run = spied
            return session

        monkeypatch.setattr(onnxruntime, "InferenceSession", start)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: self.available)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)


class TestProviders:
    @pytest.mark.parametrize(
        ("device", "options", "names"),
        [
            (card("cuda"), {}, [CUDA]),
            (card("cuda"), {"provider": "tensorrt"}, [TENSORRT, CUDA]),
            (card("rocm"), {}, [MIGRAPHX]),
            (card("xpu"), {}, [OPENVINO]),
            (CPU, {}, []),
            (CPU, {"provider": "openvino"}, [OPENVINO]),
        ],
    )
    def test_each_device_asks_for_its_own_providers(
        self,
        tiny: Tiny,
        monkeypatch: pytest.MonkeyPatch,
        device: Device,
        options: dict[str, str],
        names: list[str],
    ) -> None:
        there = Providers(monkeypatch, *names)
        encoder = OnnxEncoder(Path(tiny("bert")), device, options=options, fallback="error")
        asked = there.asked[-1] if names else ["CPUExecutionProvider"]
        assert [each if isinstance(each, str) else each[0] for each in asked] == [
            *names,
            "CPUExecutionProvider",
        ]
        assert str(encoder.device) == str(device)
        first = [*names, "CPUExecutionProvider"][0]
        assert encoder.device.reason.endswith(f"ONNX Runtime runs {first}")
        assert encoder.dtype == ("float32" if device.kind == "cpu" else "float16")
        assert np.allclose(embed(encoder), reference(tiny("bert")), atol=1e-2)

    @pytest.mark.parametrize(
        ("kind", "line"),
        [
            ("cuda", "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"),
            ("rocm", "pip install onnxruntime-migraphx"),
            ("xpu", "pip install onnxruntime-openvino"),
            ("mps", "use backend='torch'"),
        ],
    )
    def test_a_wheel_without_it_goes_by_the_policy(self, tiny: Tiny, kind: Any, line: str) -> None:
        """No stand-in: the wheel that is installed here has no such provider."""
        with pytest.raises(ProviderMissingError, match=line):
            OnnxEncoder(Path(tiny("bert")), card(kind), fallback="error")
        with pytest.warns(FallbackWarning, match=f"embedding runs on cpu, not {kind}:1: .*{line}"):
            encoder = OnnxEncoder(Path(tiny("bert")), card(kind))
        assert str(encoder.device) == "cpu"
        assert encoder.dtype == "float32"
        assert np.allclose(embed(encoder), reference(tiny("bert")), atol=1e-5)

    def test_a_reranker_is_called_one(self, tiny_reranker: Tiny) -> None:
        path = Path(tiny_reranker("roberta"))
        with pytest.warns(FallbackWarning, match="reranking runs on cpu, not cuda:1"):
            OnnxEncoder(path, card(), task=SCORE)

    @pytest.mark.parametrize(
        ("kind", "line"),
        [
            ("cpu", 'pip install "langchain-gpu[onnx]"'),
            ("cuda", 'pip install "langchain-gpu[onnx-gpu]"'),
            ("rocm", "pip install onnx onnxruntime-migraphx"),
            ("xpu", "pip install onnx onnxruntime-openvino"),
        ],
    )
    def test_what_is_missing_is_named(
        self, monkeypatch: pytest.MonkeyPatch, kind: Any, line: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ImportError, match=re.escape(line)):
            backends.create(EmbedderConfig(model=".", backend="onnx"), card(kind))
        if "langchain-gpu" not in line:
            assert f"`{line}`" in (ROOT / "docs/install.md").read_text()

    def test_a_silent_cpu_is_no_success(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        """As ONNX Runtime does where CUDA's libraries are missing."""
        there = Providers(monkeypatch, CUDA)
        there.refused = {CUDA}
        with pytest.raises(ProviderMissingError, match=r"could not start CUDA.* took CPU.*cudnn"):
            OnnxEncoder(Path(tiny("bert")), card(), fallback="error")
        with pytest.warns(FallbackWarning, match="not cuda:1: ONNX Runtime could not start"):
            encoder = OnnxEncoder(Path(tiny("bert")), card())
        assert str(encoder.device) == "cpu"

    def test_without_tensorrt_cuda_comes_next(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = Providers(monkeypatch, TENSORRT, CUDA)
        there.refused = {TENSORRT}
        with pytest.warns(
            FallbackWarning, match=r"runs on cuda:1, not cuda:1 \(tensorrt\)"
        ) as all_:
            encoder = OnnxEncoder(Path(tiny("bert")), card(), options={"provider": "tensorrt"})
        assert len(all_) == 1
        assert str(encoder.device) == "cuda:1"
        assert encoder.device.reason.endswith(CUDA)

    def test_a_provider_of_another_device(self, tiny: Tiny) -> None:
        with pytest.raises(ValueError, match="'tensorrt' does not run on cpu; there is: cpu, open"):
            OnnxEncoder(Path(tiny("bert")), CPU, options={"provider": "tensorrt"})

    def test_cuda_options(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        there = Providers(monkeypatch, CUDA)
        encoder = OnnxEncoder(Path(tiny("bert")), card())
        name, options = there.asked[-1][0]
        assert name == CUDA
        assert options["device_id"] == "1"
        assert options["use_tf32"] == "0"
        assert encoder.rules == BatchRules(multiple_of=8)

    @pytest.mark.parametrize(("dtype", "half"), [("auto", "True"), ("float32", "False")])
    def test_tensorrt_options(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, cache: Path, dtype: str, half: str
    ) -> None:
        there = Providers(monkeypatch, TENSORRT, CUDA)
        encoder = OnnxEncoder(
            Path(tiny("bert")),
            card(),
            dtype=dtype,
            options={"provider": "tensorrt"},
            max_tokens=4096,
        )
        name, options = there.asked[-1][0]
        assert name == TENSORRT
        assert options["trt_fp16_enable"] == half
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
        folder = Path(options["trt_engine_cache_path"])
        assert folder.is_dir()
        assert folder.is_relative_to(cache / "langchain-gpu" / "onnx")
        assert encoder.dtype in folder.name, "engines of two dtypes must not meet"
        names = ("input_ids", "attention_mask", "token_type_ids")
        for which, shape in (("min", "1x1"), ("opt", "64x32"), ("max", f"128x{WINDOW}")):
            wanted = ",".join(f"{each}:{shape}" for each in names)
            assert options[f"trt_profile_{which}_shapes"] == wanted
        assert encoder.rules == BatchRules(multiple_of=8, max_items=128)

    def test_every_shape_is_within_the_tensorrt_profile(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = Providers(monkeypatch, TENSORRT, CUDA)
        encoder = OnnxEncoder(
            Path(tiny("bert")), card(), options={"provider": "tensorrt"}, max_tokens=512
        )
        embed(encoder, ["gpu " * (number % 60) for number in range(100)])
        assert max(rows for rows, _ in there.shapes) <= 16
        assert max(width for _, width in there.shapes) <= WINDOW

    def test_migraphx_meets_few_shapes(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        there = Providers(monkeypatch, MIGRAPHX)
        encoder = OnnxEncoder(Path(tiny("bert")), card("rocm"), dtype="float32")
        texts = ["gpu " * (number % 60) for number in range(75)]
        there.shapes.clear()
        vectors = embed(encoder, texts)
        assert set(there.shapes) <= {(1 << power, WINDOW) for power in range(10)}
        plain = OnnxEncoder(Path(tiny("bert")), CPU)
        assert np.allclose(vectors, embed(plain, texts), atol=1e-5)

    def test_a_move_to_the_cpu_computes_in_its_dtype(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no float32 file is there yet
        Providers(monkeypatch, CUDA)
        encoder = OnnxEncoder(Path(tiny("bert")), card(), dtype="float16")
        assert encoder.dtype == "float16"
        encoder.to(CPU)
        assert (str(encoder.device), encoder.dtype) == ("cpu", "float32")
        assert np.allclose(embed(encoder), reference(tiny("bert")), atol=1e-5)


class TestDtypes:
    @pytest.mark.parametrize(
        ("dtype", "device", "problem"),
        [
            ("int8", card(), r"int8 ONNX on cuda:1 is far slower than float32 \(0.08x"),
            ("bfloat16", CPU, "has no bfloat16"),
            ("float16", CPU, "computes float16 in float32 on a CPU"),
            ("int4", CPU, "'int4' is not one of auto, float32, float16, int8"),
        ],
    )
    def test_a_dtype_that_cannot_be_computed_is_refused(
        self, tiny: Tiny, dtype: str, device: Device, problem: str
    ) -> None:
        with pytest.raises(ValueError, match=problem):
            OnnxEncoder(Path(tiny("bert")), device, dtype=dtype)

    def test_int8_is_made_once_and_its_loss_is_told(
        self, tiny: Tiny, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO, "langchain_gpu")
        config = EmbedderConfig(model=tiny("bert"), device="cpu", backend="onnx", dtype="int8")
        first = load(config)
        assert "int8 of bert: cosine to float32 at least" in caplog.text
        assert "int8: cosine to float32 at least" in first.reason
        assert first.encoder.dtype == "int8"
        vectors = first.engine.run(TEXTS, EmbedOptions()).vectors
        assert (vectors * reference(tiny("bert"))).sum(axis=1).min() > 0.98

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("quantized again")

        monkeypatch.setattr(onnx_conversion, "quantize", refuse)
        caplog.clear()
        again = load(config).engine.run(TEXTS, EmbedOptions()).vectors
        assert np.array_equal(again, vectors)
        assert "cosine to float32" in caplog.text

    def test_other_warnings_are_logged_while_a_model_is_quantized(
        self,
        tiny: Tiny,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """ONNX Runtime's advice on the root logger is left out, and nothing else."""
        source = Path(OnnxEncoder(Path(tiny("bert")), CPU, dtype="float32")._file.path)

        def beside(*args: Any, **kwargs: Any) -> None:
            quantize_dynamic(*args, **kwargs)
            logging.getLogger("app").warning("meanwhile")
            logging.getLogger().warning("on the root logger")

        monkeypatch.setattr(onnx_files, "quantize_dynamic", beside)
        caplog.clear()
        onnx_files.quantize(source, tmp_path, exact=True)
        assert caplog.messages == ["meanwhile", "on the root logger"]

    def test_int8_that_ruins_a_model_is_refused(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(quantization_loss, "LEAST_COSINE", 1.1)  # more than any model can give
        with pytest.raises(NotConvertibleError, match="int8 loses too much of this model"):
            OnnxEncoder(Path(tiny("bert")), CPU, dtype="int8")
        assert not list(tmp_path.rglob("*int8*/model.onnx")), "it must not be cached"


class TestFiles:
    @pytest.fixture
    def folder(self, tiny: Tiny, tmp_path: Path) -> Path:
        """A model that brings `onnx/model.onnx`, with token embeddings as the hub's files have."""
        folder = tmp_path / "bert"
        shutil.copytree(tiny("bert"), folder)
        model = onnx.load(OnnxEncoder(folder, CPU, dtype="float32")._file.path)
        names = [node.output[0] for node in model.graph.node if "layer.1" in node.name]
        tokens = onnx.helper.make_tensor_value_info(names[-1], onnx.TensorProto.FLOAT, [None] * 3)
        del model.graph.output[:]
        model.graph.output.append(tokens)
        (folder / "onnx").mkdir()
        onnx.save(model, folder / "onnx" / "model.onnx")
        return folder

    def refuse(self, *_: object, **__: object) -> None:
        raise AssertionError("exported")

    def test_the_models_own_is_taken_and_pooled(
        self, folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnx_conversion, "export", self.refuse)
        encoder = OnnxEncoder(folder, CPU)
        assert np.allclose(embed(encoder), reference(tiny("bert")), atol=1e-5)
        named = OnnxEncoder(folder, CPU, options={"file_name": "model.onnx"})
        assert named.dtype == "float32"
        assert np.array_equal(embed(named), embed(encoder))

    def test_one_in_half_precision_is_no_float32(self, folder: Path, tiny: Tiny) -> None:
        file = folder / "onnx" / "model.onnx"
        onnx_files.halve(file, file.parent)
        named = OnnxEncoder(folder, CPU, options={"file_name": "model.onnx"})
        assert named.dtype == "float16"
        encoder = OnnxEncoder(folder, CPU, dtype="float32")
        assert encoder.dtype == "float32"
        assert np.allclose(embed(encoder), reference(tiny("bert")), atol=1e-5)

    def test_export_passes_it_over(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_conversion, "export", self.refuse)
        with pytest.raises(AssertionError, match="exported"):
            OnnxEncoder(folder, CPU, options={"export": True})

    def test_one_of_another_model_is_refused(self, folder: Path) -> None:
        file = folder / "onnx" / "model.onnx"
        model = onnx.load(file)
        for tensor in model.graph.initializer:
            if len(tensor.dims) > 1:
                tensor.raw_data = tensor.raw_data[::-1][:4] + tensor.raw_data[4:-4] + b"\0\0\0\x40"
                tensor.raw_data = np.roll(np.frombuffer(tensor.raw_data, np.float32), 1).tobytes()
        onnx.save(model, file)
        with pytest.raises(NotConvertibleError, match=r"model.onnx: .*does not compute.*export"):
            OnnxEncoder(folder, CPU)

    def test_a_name_that_is_not_there(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"no ONNX file 'x.onnx'; there are: onnx/model.onnx"):
            OnnxEncoder(folder, CPU, options={"file_name": "x.onnx"})
        with pytest.raises(ValueError, match="model.onnx holds float32, not int8"):
            OnnxEncoder(folder, CPU, dtype="int8", options={"file_name": "model.onnx"})

    def test_a_model_is_exported_once(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        vectors = embed(OnnxEncoder(Path(tiny("roberta-cls")), CPU))
        monkeypatch.setattr(onnx_conversion, "export", self.refuse)
        assert np.array_equal(embed(OnnxEncoder(Path(tiny("roberta-cls")), CPU)), vectors)
        assert np.allclose(vectors, reference(tiny("roberta-cls")), atol=1e-5)

    def test_a_cache_that_cannot_be_written_is_no_failure(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.warns(RuntimeWarning, match="is not cached"):
            encoder = OnnxEncoder(Path(tiny("bert")), CPU)
        assert np.allclose(embed(encoder), reference(tiny("bert")), atol=1e-5)
        kept = Path(encoder._scratch[0].name)
        assert kept.is_dir()
        encoder.close()
        assert not kept.exists()

    def test_an_export_that_computes_something_else_is_refused(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        export = onnx_files.export

        def lossy(*arguments: Any, **options: Any) -> list[Vectors]:
            return [each[:, ::-1] for each in export(*arguments, **options)]

        monkeypatch.setattr(onnx_conversion, "export", lossy)
        with pytest.raises(NotConvertibleError, match="does not compute what the model does"):
            OnnxEncoder(Path(tiny("bert")), CPU)
        assert not list(tmp_path.rglob("model.onnx")), "it must not be cached"

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("static", "prepares its texts in its own way"),
            ("bert-without-prompt", "leaves prompts out of its pooling"),
        ],
    )
    def test_what_cannot_be_one_file(self, tiny: Tiny, name: str, problem: str) -> None:
        with pytest.raises(NotConvertibleError, match=problem):
            OnnxEncoder(Path(tiny(name)), CPU)


def real_out_of_memory() -> Exception:
    """What ONNX Runtime raises for a tensor of an exbibyte."""
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [1])
    filled = onnx.helper.make_tensor_value_info("filled", onnx.TensorProto.FLOAT, [None])
    node = onnx.helper.make_node("ConstantOfShape", ["shape"], ["filled"])
    graph = onnx.helper.make_graph([node], "huge", [shape], [filled])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    try:
        session.run(None, {"shape": np.array([1 << 58])})
    except Exception as error:  # noqa: BLE001 - what it is, is the question
        return error
    raise AssertionError("it had the memory")


class TestMemory:
    def test_what_it_raises_is_recognized(self) -> None:
        error = real_out_of_memory()
        assert type(error).__module__.startswith("onnxruntime")
        assert is_out_of_memory(error), error

    def test_the_ladder_splits_the_batch(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = OnnxEncoder(Path(tiny("bert")), CPU)
        error, run = real_out_of_memory(), encoder._session.run
        failed = 0

        def small(outputs: Any, inputs: Any) -> Any:
            nonlocal failed
            if inputs["input_ids"].size > 70:
                failed += 1
                raise error
            return run(outputs, inputs)

        monkeypatch.setattr(encoder._session, "run", small)
        assert np.allclose(embed(encoder), reference(tiny("bert")), atol=1e-5)
        assert failed
        monkeypatch.setattr(encoder._session, "run", lambda *_: (_ for _ in ()).throw(error))
        with pytest.raises(EngineOutOfMemoryError, match="item 0"):
            embed(encoder, ["gpu"])


def test_the_threads_are_the_devices_cores(tiny: Tiny) -> None:
    encoder = OnnxEncoder(Path(tiny("bert")), CPU)
    assert encoder._session.get_session_options().intra_op_num_threads == CPU.cores


class TestProofOfScores:
    """A single score has no direction; what counts is by how much it differs."""

    WANTED = np.array([[0.0004], [-3.0], [7.5]], np.float32)

    def prove(self, off: float, dtype: str) -> None:
        onnx_files.prove(lambda _: self.WANTED + np.float32(off), [{}], [self.WANTED], dtype)

    @pytest.mark.parametrize(("off", "dtype"), [(5e-4, "float32"), (0.02, "float16")])
    def test_rounding_is_none_even_beside_zero(self, off: float, dtype: str) -> None:
        self.prove(off, dtype)

    @pytest.mark.parametrize(("off", "dtype"), [(0.02, "float32"), (0.5, "float16")])
    def test_another_score_is_refused(self, off: float, dtype: str) -> None:
        with pytest.raises(NotConvertibleError, match="does not compute what the model does"):
            self.prove(off, dtype)
