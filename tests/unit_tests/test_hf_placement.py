"""Models of transformers that are planned before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from langchain_gpu.events import FallbackWarning
from langchain_gpu.generators import hf_model, hf_placement
from langchain_gpu.generators.base import Request
from langchain_gpu.generators.hf_placement import device_map, plan_model
from langchain_gpu.generators.registry import Options
from langchain_gpu.generators.transformers import TransformersGenerator
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.planner import ComponentPlan, Share, Term, single
from langchain_gpu.planner.drive import DoesNotFitError
from tests.unit_tests.tiny_chat import build_chat

MIB = 2**20
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
CONFIGS = [
    LlamaConfig(**SIZES),
    LlamaConfig(**SIZES, tie_word_embeddings=True),
    Qwen3Config(**SIZES),
    Gemma3TextConfig(**SIZES),
    MixtralConfig(**SIZES, num_local_experts=2),
]


def parts(*shares: tuple[str, int], table: bool = False) -> ComponentPlan:
    return ComponentPlan(
        name="chat",
        role="chat",
        model="m",
        decision="partial",
        reason="too large",
        shares=tuple(Share(name, (Term("weights", 9, ""),), count) for name, count in shares),
        context=64,
        embedding_on_cpu=table,
    )


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return Path(build_chat(tmp_path / "chat"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.model_type}-{c.tie_word_embeddings}")
def test_every_weight_has_one_place(config: PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    places = device_map(tmp_path, parts(("cuda:0", 1), ("cuda:1", 2), ("cpu", 1)))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    for name, _ in model.named_parameters(remove_duplicate=False):
        found = [each for each in places if name == each or name.startswith(f"{each}.")]
        assert len(found) == 1, name
    assert [places[f"model.layers.{number}"] for number in range(4)] == [0, 1, 1, "cpu"]
    assert places["model.embed_tokens"] == 0
    assert places["model.norm"] == "cpu"
    assert places["lm_head"] == (0 if config.tie_word_embeddings else "cpu")


def test_devices_have_accelerates_names(tmp_path: Path) -> None:
    CONFIGS[0].save_pretrained(tmp_path)
    for device, name in (("cuda:1", 1), ("rocm:0", 0), ("mps:0", "mps"), ("xpu:1", "xpu:1")):
        assert set(device_map(tmp_path, parts((device, 4))).values()) == {name}


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    CONFIGS[0].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the plan places 3 layers, and .* has 4"):
        device_map(tmp_path, parts(("cuda:0", 3)))


class TestPlan:
    @pytest.fixture
    def on(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def make(free: int, ram: int = 2**34) -> Device:
            cpu = Device(kind="cpu", name="", reason="", memory_total=ram, memory_free=ram)
            monkeypatch.setattr(hf_placement, "free_memory", lambda _: free)
            monkeypatch.setattr(single, "select_device", lambda _: cpu)
            return Device(
                kind="cuda", index=0, name="", reason="", memory_total=free, memory_free=free
            )

        return make

    def test_by_what_is_free(self, chat: Path, on: Any) -> None:
        def decision(free: int, **options: Any) -> str:
            found = plan_model(chat, on(free), "float32", Options(**options))
            assert found is not None
            return found.decision

        assert decision(2048 * MIB) == "whole"
        assert decision(64 * MIB) == "cpu"  # not even the card's own context
        with pytest.raises(DoesNotFitError, match="too large for a GPU, undivided"):
            decision(64 * MIB, fallback="error")
        with pytest.raises(DoesNotFitError, match="cannot be split"):
            plan_model(chat, on(MIB, ram=MIB // 8), "float32", Options())

    def test_what_is_not_planned(self, chat: Path, on: Any) -> None:
        assert plan_model(chat, select_device("cpu"), "float32", Options()) is None
        quantized = Options(load={"quantization_config": {"bits": 4}})
        assert plan_model(chat, on(2**30), "float32", quantized) is None
        (chat / "config.json").write_text("{}")
        assert plan_model(chat, on(2**30), "float32", Options()) is None


def test_a_table_that_stays_behind_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Path(build_chat(tmp_path / "untied"))
    request = Request(messages=[{"role": "user", "content": "hello"}], max_tokens=8, temperature=0)
    whole = TransformersGenerator(chat, Options(device="cpu")).generate([request])
    plan = parts(("cpu", 2), table=True)  # a card's part, on the only device that is here
    with pytest.warns(FallbackWarning, match="a part of m runs on cpu, not cpu: too large"):
        parted = TransformersGenerator(chat, Options(device="cpu", plan=plan))
    assert parted.generate([request])[0].text == whole[0].text


def test_a_model_that_begins_on_the_cpu_gives_back_what_it_took_of_a_card(
    chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its embedding table is there, by the name of which transformers says where a model is."""
    released: list[str] = []
    monkeypatch.setattr(hf_model, "release", lambda device: released.append(device.kind))
    card = Device(kind="cuda", name="card", reason="", index=0, dtype="float32")
    options = Options(device="cuda", load={"device_map": {"": "cpu"}})
    model = hf_model.HFModel(chat, card, 1, options)
    assert model.device.kind == "cpu"
    model.free()
    assert set(released) == {"cpu", "cuda"}
