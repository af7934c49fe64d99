"""How transformers models are loaded: options, what is refused, and GGUF files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils
from transformers.utils import logging

from langchain_gpu import GPULLM, ChatGPU
from langchain_gpu.generators.registry import Options
from langchain_gpu.generators.transformers import TransformersGenerator
from langchain_gpu.models.resolve import resolve
from tests.unit_tests.tiny_chat import build_chat

SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "temperature": 0, "max_tokens": 4}
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_chat(tmp_path_factory.mktemp("chat")))


@pytest.fixture
def copied(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "model"))


def test_it_draws_no_bars_and_leaves_those_of_others(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.enable_progress_bar()
    ChatGPU(model=str(path), **SETTINGS).invoke("hello")
    assert "Loading" not in capsys.readouterr().err
    assert logging.is_progress_bar_enabled()


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin.*a pickle can run any code"):
        ChatGPU(model=str(copied), **SETTINGS).invoke("hello")


@pytest.mark.parametrize(
    ("method", "package"),
    [("gptq", "gptqmodel"), ("awq", "gptqmodel"), ("bitsandbytes", "bitsandbytes")],
)
def test_a_quantized_checkpoint_names_the_package_it_needs(
    copied: Path, method: str, package: str
) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportError, match=f"pip install {package}"):
        ChatGPU(model=str(copied), **SETTINGS).invoke("hello")


@pytest.mark.parametrize(
    ("load", "named"),
    [
        ({"weights_only": False}, "weights_only"),
        ({"use_safetensors": False}, "use_safetensors"),
        ({"trust_remote_code": True}, "40-digit commit"),
        ({"trust_remote_code": True, "revision": "main"}, "40-digit commit"),
    ],
)
def test_options_that_are_not_safe_are_refused(
    path: Path, load: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        ChatGPU(model=str(path), load_kwargs=load, **SETTINGS).invoke("hello")


def test_a_fault_of_the_device_is_not_blamed_on_the_files(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", broken)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        ChatGPU(model=str(path), **SETTINGS).invoke("hello")


def test_an_embedder_writes_no_text(tiny: Callable[[str], str]) -> None:
    """Its missing head would be random numbers."""
    with pytest.raises(ValueError, match="does not write text: its files hold BertModel, without"):
        GPULLM(model=tiny("bert"), **SETTINGS).invoke("hello")


@pytest.mark.parametrize("wrong", ["missing", "shape"])
def test_weights_that_are_not_there_are_named(
    copied: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights = load_file(copied / "model.safetensors")
    name = next(each for each in sorted(weights) if each.endswith("down_proj.weight"))
    taken = weights.pop(name)
    if wrong == "shape":
        weights[name] = taken[:-1].contiguous()
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"model lacks 1 of the weights of \w+.*\({name}\)"):
        ChatGPU(model=str(copied), **SETTINGS).invoke("hello")
    assert not [record for record in caplog.records if record.name.startswith("transformers")]


def test_options_reach_the_loader(path: Path) -> None:
    plain = ChatGPU(model=str(path), **SETTINGS)
    answer = plain.invoke("hello").content
    eager = ChatGPU(model=str(path), load_kwargs={"attn_implementation": "eager"}, **SETTINGS)
    assert eager.invoke("hello").content == answer
    with eager._hold() as generator:
        assert isinstance(generator, TransformersGenerator)
        assert generator._open.model.config._attn_implementation == "eager"
    fixed = ChatGPU(model=str(path), load_kwargs={"cache_implementation": "static"}, **SETTINGS)
    assert fixed.invoke("hello").content == answer
    for chat in (plain, eager, fixed):
        chat.close()


def test_a_device_map_is_left_to_transformers(path: Path) -> None:
    pytest.importorskip("accelerate")
    options = Options(device="cpu", dtype="float32", load={"device_map": {"": "cpu"}})
    generator = TransformersGenerator(path, options)
    assert generator.device.kind == "cpu"
    generator.close()


@pytest.mark.models
def test_a_gguf_file_goes_through_transformers_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("gguf")
    drawn = modeling_gguf_pytorch_utils.tqdm
    file = resolve(SMOLLM2, kind="gguf").path
    settings = {"device": "cpu", "dtype": "bfloat16", "temperature": 0, "max_tokens": 2}
    with GPULLM(model=str(file), backend="transformers", **settings) as llm:
        assert "transformers: " in llm.backend_reason
        assert llm.invoke("The capital of France is").startswith(" Paris")
    assert "GGUF" not in capsys.readouterr().err, "no bar is drawn while it is unpacked"
    assert modeling_gguf_pytorch_utils.tqdm is drawn, "others draw theirs"
