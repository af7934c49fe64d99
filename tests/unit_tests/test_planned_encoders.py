"""Encoders that are planned before they are loaded, and a table that stays with the CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from langchain_gpu import GPUEmbeddings, GPURerank
from langchain_gpu.engine import backends, embedder, planned
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.runtimes.torch import TorchEncoder
from langchain_gpu.events import FallbackWarning, FellBack, GPUWarning, PlanMissed
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.models.headers import read_info
from langchain_gpu.planner import ComponentPlan, Encoder, Share, Term, imagined, plan, single
from langchain_gpu.planner.drive import DoesNotFitError
from langchain_gpu.torch_models.host_table import HostTable, keep_on_cpu
from langchain_gpu.torch_models.move import move_model

TEXTS = ["a short one", "and some more words", "", "x"]
MIB = 2**20
Tiny = Callable[[str], str]


def card(free: int) -> Device:
    return Device(kind="cuda", index=0, name="card", reason="", memory_total=free, memory_free=free)


def partial_plan(model: str, tokens: int = 64) -> ComponentPlan:
    """A plan whose table is on the CPU and whose rest is there too: no GPU is here."""
    return ComponentPlan(
        name="embedder",
        role="embedder",
        model=model,
        decision="partial",
        reason="the embedding table stays on the CPU",
        shares=(Share("cuda:0", (Term("weights", 1000, "all"),), 2),),
        max_batch_tokens=tokens,
        embedding_on_cpu=True,
    )


class TestTable:
    @pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert", "qwen3-last-token"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_vectors_are_the_same_to_the_bit(self, tiny: Tiny, kind: str, dtype: str) -> None:
        cpu = select_device("cpu")
        whole = TorchEncoder(Path(tiny(kind)), cpu, dtype=dtype)
        parted = TorchEncoder(
            Path(tiny(kind)), cpu, dtype=dtype, options={"embedding_device": "cpu"}
        )
        rows = np.arange(len(TEXTS))
        results = []
        for encoder in (whole, parted):
            tokens = encoder.tokenize(TEXTS, encoder._task.options)
            results.append(encoder.forward(encoder.prepare(tokens, rows))())
        assert np.array_equal(results[0], results[1])

    def test_only_the_table_stays_when_the_model_moves(self, tiny: Tiny) -> None:
        encoder = TorchEncoder(
            Path(tiny("bert")), select_device("cpu"), options={"embedding_device": "cpu"}
        )
        model = encoder._model[0].model
        held = model.get_input_embeddings()
        assert isinstance(held, HostTable)
        encoder._model.to("meta")  # a device that holds nothing, as another one would hold the rest
        assert {p.device.type for p in encoder._model.parameters()} == {"meta"}
        assert held.weight.device.type == "cpu"
        assert not any(p is held.weight for p in encoder._model.parameters())
        rows = held(torch.zeros((2, 3), dtype=torch.long))
        assert rows.shape == (2, 3, model.config.hidden_size)

    def test_it_follows_the_dtype(self, tiny: Tiny) -> None:
        encoder = TorchEncoder(
            Path(tiny("bert")),
            select_device("cpu"),
            dtype="bfloat16",
            options={"embedding_device": "cpu"},
        )
        assert encoder._model[0].model.get_input_embeddings().weight.dtype == torch.bfloat16

    def test_it_follows_whoever_moves_the_model(self) -> None:
        """A chat model that leaves a card computes in what the CPU prefers."""
        sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 9}
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        config = GPT2Config(**sizes, **ends, tie_word_embeddings=False)
        model = GPT2LMHeadModel(config).half().eval()
        held = keep_on_cpu(model)
        move_model(model, "cpu", torch.float32)
        assert held.weight.dtype == torch.float32
        assert model(torch.tensor([[1, 2]])).logits.dtype == torch.float32
        model.to("meta")
        assert held.weight.device.type == "cpu"

    def test_what_cannot_stay_behind_is_told(self, tiny: Tiny) -> None:
        with pytest.raises(ValueError, match="Linear has no table of token embeddings"):
            keep_on_cpu(torch.nn.Linear(2, 2))
        with pytest.raises(ValueError, match="embedding_device 'disk' is not 'cpu'"):
            TorchEncoder(
                Path(tiny("bert")), select_device("cpu"), options={"embedding_device": "disk"}
            )


class TestOwnPlan:
    @pytest.fixture
    def on(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Device]:
        """A card with so many bytes free."""

        def make(free: int) -> Device:
            monkeypatch.setattr(planned, "free_memory", lambda _: free)
            return card(free)

        return make

    def test_a_cpu_a_server_and_other_formats_have_none(self, tiny: Tiny) -> None:
        config = EmbedderConfig(model=tiny("bert"))
        assert planned.plan_encoder(config, select_device("cpu")) is None
        for changed in (replace(config, backend="onnx"), replace(config, model="m.gguf")):
            assert planned.plan_encoder(changed, card(MIB)) is None

    def test_with_enough_memory_a_batch_has_the_default_size(
        self, tiny: Tiny, on: Callable[[int], Device]
    ) -> None:
        found = planned.plan_encoder(EmbedderConfig(model=tiny("bert")), on(4096 * MIB))
        assert found is not None
        assert (found.decision, found.max_batch_tokens) == ("whole", 16384)

    def test_a_model_without_a_config_of_its_own_has_none(
        self, tiny: Tiny, on: Callable[[int], Device]
    ) -> None:
        config = EmbedderConfig(model=tiny("static"))
        assert not (Path(config.model) / "config.json").exists()
        assert planned.plan_encoder(config, on(4096 * MIB)) is None

    def test_nothing_is_fetched_for_what_is_not_installed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
        monkeypatch.setattr(planned, "resolve", lambda *_, **__: pytest.fail("looked for"))
        with pytest.raises(ImportError, match=r"langchain-gpu\[local\]"):
            planned.plan_encoder(EmbedderConfig(model="org/a"), card(MIB))

    def test_too_little_goes_to_the_cpu_with_the_numbers(
        self, tiny: Tiny, on: Callable[[int], Device], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedder, "select_device", lambda _: select_device("cpu"))
        device = on(16 * MIB)  # less than the card's own context takes
        config = EmbedderConfig(model=tiny("bert"), backend="torch")
        monkeypatch.setattr(embedder, "_devices", lambda *_: [device])
        events: list[Any] = []
        why = (
            r"the model does not fit: needs 512 MiB on cuda:0, and 15\.2 MiB on cuda:0 can be had: "
            r"497 MiB are missing; on the CPU: .* on cpu"
        )
        with pytest.warns(FallbackWarning, match=why):
            loaded = embedder.load(config, events.append)
        assert [each.kind for each in loaded.engine.devices] == ["cpu"]
        assert isinstance(events[0], FellBack)
        loaded.close()
        with pytest.raises(DoesNotFitError):
            embedder.load(replace(config, fallback="error"))

    def test_the_context_of_an_open_device_is_not_counted_again(
        self, tiny: Tiny, on: Callable[[int], Device], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, device = EmbedderConfig(model=tiny("bert")), on(256 * MIB)
        closed = planned.plan_encoder(config, device)
        monkeypatch.setattr(single, "has_context", lambda _: True)
        opened = planned.plan_encoder(config, device)
        assert closed is not None
        assert opened is not None
        assert (closed.decision, opened.decision) == ("cpu", "whole")


class TestGivenPlan:
    @pytest.fixture
    def at_card(self, monkeypatch: pytest.MonkeyPatch) -> list[EmbedderConfig]:
        """A card whose work is done by the CPU, and what the back end was asked for."""
        asked: list[EmbedderConfig] = []
        create = backends.create

        def on_cpu(config: EmbedderConfig, device: Device) -> Any:
            asked.append(config)
            return create(config, select_device("cpu"))

        monkeypatch.setattr(backends, "create", on_cpu)
        monkeypatch.setattr(embedder, "select_device", _named)
        return asked

    def test_its_device_its_table_and_its_budget(
        self, tiny: Tiny, at_card: list[EmbedderConfig]
    ) -> None:
        model = tiny("bert")
        embeddings = GPUEmbeddings(model=model, plan=partial_plan(model))
        with pytest.warns(FallbackWarning, match="the embedding table of .* runs on cpu"):
            vectors = embeddings.embed_to_array(TEXTS)
        assert at_card[0].options["embedding_device"] == "cpu"
        whole = GPUEmbeddings(model=model, backend="torch", device="cpu").embed_to_array(TEXTS)
        assert np.array_equal(vectors, whole)

    def test_a_whole_plan_is_asked_for_the_part(self, tiny: Tiny) -> None:
        model = tiny("bert")
        info = read_info(model)
        both = plan(
            [Encoder(info=info, max_batch_tokens=64), Encoder(info=info, role="reranker")],
            imagined([], 2**33),
        )
        embeddings = GPUEmbeddings(model=model, plan=both, device="cpu", backend="torch")
        sizes: list[int] = []
        embeddings.on_event = lambda event: sizes.append(event.padded_tokens)
        embeddings.embed_documents(["some words here"] * 40)
        assert max(sizes) <= 64 < sum(sizes)
        half = replace(both["embedder"], dtype="bfloat16")
        assert GPUEmbeddings(model=model, plan=half)._config().dtype == "bfloat16"
        assert GPUEmbeddings(model=model, plan=half, dtype="float32")._config().dtype == "float32"
        assert GPURerank(model=model, plan=both)._config().plan is both["reranker"]
        one = plan([Encoder(info=info, role="reranker")], imagined([], 2**33))
        with pytest.raises(ValueError, match="the plan has 0 components with the role 'embedder'"):
            GPUEmbeddings(model=model, plan=one).embed_query("x")

    def test_a_plan_that_was_wrong_is_reported(
        self, tiny: Tiny, at_card: list[EmbedderConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = [3000 * MIB, 1000 * MIB]
        monkeypatch.setattr(embedder, "free_memory", lambda _: free.pop(0))
        model = tiny("bert")
        events: list[Any] = []
        planned_part = replace(partial_plan(model), embedding_on_cpu=False, decision="whole")
        embeddings = GPUEmbeddings(model=model, plan=planned_part, on_event=events.append)
        with pytest.warns(GPUWarning, match="took 2,000 MiB on cuda:0; 0 MiB were planned"):
            embeddings.embed_query("x")
        missed = [each for each in events if isinstance(each, PlanMissed)]
        assert [each.measured_bytes for each in missed] == [2000 * MIB]


def _named(name: str | list[str]) -> Any:
    return card(8192 * MIB) if "cuda" in name else select_device("cpu")
