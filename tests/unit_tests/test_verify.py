"""A plan held against what runtimes really allocate."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel
from transformers.utils import logging
from xllamacpp import ggml_backend_dev_type

from langchain_gpu.cli import main
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.resolve import ModelNotFoundError, resolve
from langchain_gpu.planner import Chat, Component, ComponentPlan, Encoder, Index, plan
from langchain_gpu.verify import Measured, llama, verify
from langchain_gpu.verify.llama import buffers, what_to_load
from langchain_gpu.verify.llama_child import settings_of
from langchain_gpu.verify.tensors import Tracker, storage_bytes
from tests.unit_tests.conftest import MINILM
from tests.unit_tests.gguf_bert import write_gguf
from tests.unit_tests.planned_models import MIB, machine, uneven
from tests.unit_tests.tiny_chat import build_chat

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
KIB = 1024

# Lines of llama.cpp as it loads: SmolLM2 on a CPU, as it was printed here.
CPU_LOG = """
0.00.310.742 I load_tensors: loading model tensors, this can take a while... (load_mode = mmap)
0.00.319.448 I load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
0.00.325.036 I llama_context:        CPU  output buffer size =     0.19 MiB
0.00.325.260 I llama_kv_cache:        CPU KV buffer size =   180.00 MiB
0.00.518.574 I sched_reserve: reserving ...
0.00.530.376 I sched_reserve:        CPU compute buffer size =    22.64 MiB
0.00.530.438 I sched_reserve: graph: nodes = 939, splits = 1, input objects = 4, input tensors = 9
"""
# The form of its messages on a machine with GPUs; the figures are made up.
CUDA_LOG = """
load_tensors: offloading output layer to GPU
load_tensors:        CUDA0 model buffer size =  2000.00 MiB
load_tensors:        CUDA1 model buffer size =  1900.50 MiB
load_tensors:   CPU_Mapped model buffer size =   281.81 MiB
load_tensors:   CPU_REPACK model buffer size =    10.00 MiB
llama_context:  CUDA_Host  output buffer size =     0.49 MiB
llama_kv_cache:      CUDA0 KV buffer size =   544.00 MiB
llama_kv_cache:      CUDA1 KV buffer size =   480.00 MiB
sched_reserve:      CUDA0 compute buffer size =   669.48 MiB
sched_reserve:      CUDA1 compute buffer size =   258.50 MiB
sched_reserve:  CUDA_Host compute buffer size =    24.01 MiB
"""


def mib(count: float) -> int:
    return round(count * MIB)


def test_buffers_on_a_cpu() -> None:
    assert buffers(CPU_LOG) == {
        "weights": mib(92.10),
        "kv_cache": mib(180),
        "activations": mib(0.19) + mib(22.64),
    }


def test_buffers_on_gpus() -> None:
    found = buffers(CUDA_LOG)
    assert found["weights"] == mib(2000) + mib(1900.5) + mib(281.81) + mib(10)
    assert found["kv_cache"] == mib(1024)
    assert found["activations"] == mib(0.49) + mib(669.48) + mib(258.5) + mib(24.01)


def test_buffers_of_two_files_and_of_two_caches_add_up() -> None:
    log = """
load_tensors:   CPU_Mapped model buffer size =   100.00 MiB
load_tensors:   CPU_Mapped model buffer size =    50.00 MiB
llama_kv_cache_iswa: creating non-SWA KV cache, size = 4096 cells
llama_kv_cache:        CPU KV buffer size =    40.00 MiB
llama_kv_cache_iswa: creating     SWA KV cache, size = 1536 cells
llama_kv_cache:        CPU KV buffer size =    15.00 MiB
llama_memory_recurrent:        CPU RS buffer size =     2.00 MiB
"""
    assert buffers(log) == {"weights": mib(150), "kv_cache": mib(57)}


def test_what_is_reserved_again_counts_once() -> None:
    line = "sched_reserve:        CPU compute buffer size =    {} MiB\n"
    assert buffers(line.format("30.00") + line.format("20.00")) == {"activations": mib(20)}


def test_other_lines_are_no_buffers() -> None:
    assert buffers("") == {}
    assert buffers("ggml_cuda: model buffer size unknown\ncache size = 5.00 MiB") == {}


def test_the_tracker_counts_what_lives_at_a_time() -> None:
    with Tracker() as tracker:
        first = torch.zeros(256, dtype=torch.float32)  # 1 KiB
        second = torch.ones(512, dtype=torch.float32)  # 2 KiB
        assert tracker.peak == 3 * KIB
        view = first.view(16, 16)  # the same storage
        assert tracker.peak == 3 * KIB
        del second
        third = view + 1  # 1 KiB where 2 KiB were
        assert tracker.peak == 3 * KIB
        fourth = torch.cat([third.flatten()] * 4)  # 4 KiB besides the first and the third
    assert tracker.peak == 6 * KIB
    assert fourth.numel() == 1024


def test_the_tracker_leaves_out_what_was_there() -> None:
    weight = torch.zeros(1024)
    with Tracker([weight]) as tracker:
        _ = weight.view(32, 32)
        product = weight * 2
    assert tracker.peak == storage_bytes([product]) == 4 * KIB


def test_a_storage_is_counted_once() -> None:
    one = torch.zeros(256)
    assert storage_bytes([one, one[:10], one.view(16, 16), torch.zeros(1)]) == KIB + 4


def measured(component: Component, *, ram: float = 64) -> tuple[ComponentPlan, Measured]:
    planned = plan([component], machine(ram=ram))[component.name]
    return planned, verify(component, planned)


def off(found: Measured) -> dict[str, float]:
    """How much was predicted for each byte that was measured."""
    return {line.what: line.predicted_bytes / line.measured_bytes for line in found.lines}


@pytest.mark.models
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"context": 1000, "sequences": 2, "cache_dtype": "q8_0"},
        {"context": 4096, "ubatch": 256},
    ],
    ids=str,
)
def test_a_gguf_file_takes_what_was_planned(settings: dict[str, Any]) -> None:
    chat = Chat(info=read_info(SMOLLM), **settings)
    planned, found = measured(chat)
    assert planned.decision == "cpu"
    ratios = off(found)
    assert set(ratios) == {"weights", "kv_cache", "activations"}
    assert ratios["weights"] == pytest.approx(1, abs=0.02)
    assert ratios["kv_cache"] == pytest.approx(1, abs=0.02)
    assert found.predicted_bytes / found.measured_bytes == pytest.approx(1, abs=0.1)
    assert found.predicted_bytes == planned.bytes
    assert found.rss_bytes is not None
    assert found.rss_bytes > 0


@pytest.mark.models
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_minilm_takes_what_was_planned(dtype: str) -> None:
    encoder = Encoder(info=read_info(MINILM), dtype=dtype, max_length=256, max_batch_tokens=4096)
    _, found = measured(encoder)
    ratios = off(found)
    assert ratios["weights"] == pytest.approx(1, abs=0.02)
    assert found.predicted_bytes / found.measured_bytes == pytest.approx(1, abs=0.1)


def save(folder: Path, **shape: Any) -> str:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 2000,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        **shape,
    }
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_llama_of_transformers_takes_what_was_planned(tmp_path: Path, dtype: str) -> None:
    model = save(tmp_path, model_type="llama")
    _, found = measured(Chat(info=read_info(model), context=1024, dtype=dtype))
    ratios = off(found)
    assert ratios["weights"] == pytest.approx(1, abs=0.02)
    assert ratios["kv_cache"] == 1
    assert found.predicted_bytes / found.measured_bytes == pytest.approx(1, abs=0.1)


def test_no_bars_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.enable_progress_bar()
    model = build_chat(tmp_path)
    measured(Chat(info=read_info(model), context=64))
    measured(Encoder(info=read_info(model), max_length=16))
    assert "Loading" not in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["int8", "nf4", "float8"])
def test_packed_weights_are_not_measured(tmp_path: Path, dtype: str) -> None:
    chat = Chat(info=read_info(build_chat(tmp_path)), context=64, dtype=dtype)
    with pytest.raises(ValueError, match=f"chat: {dtype} is not measured here"):
        measured(chat)


def test_tied_weights_are_there_once(tmp_path: Path) -> None:
    model = save(tmp_path, model_type="llama", tie_word_embeddings=True)
    _, found = measured(Chat(info=read_info(model), context=256))
    assert off(found)["weights"] == pytest.approx(1, abs=0.02)


def test_latent_attention_of_transformers(tmp_path: Path) -> None:
    model = save(
        tmp_path,
        model_type="deepseek_v3",
        num_key_value_heads=8,
        kv_lora_rank=64,
        q_lora_rank=None,
        qk_rope_head_dim=16,
        qk_nope_head_dim=32,
        v_head_dim=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
    )
    _, found = measured(Chat(info=read_info(model), context=512))
    ratios = off(found)
    assert ratios["weights"] == pytest.approx(1, abs=0.02)
    assert ratios["kv_cache"] == 1


def test_a_random_bert_takes_what_was_planned(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=1000,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    BertModel(config).save_pretrained(tmp_path)
    info = read_info(str(tmp_path))
    _, found = measured(Encoder(info=info, max_batch_tokens=2048, max_length=128))
    ratios = off(found)
    assert ratios["weights"] == pytest.approx(1, abs=0.02)
    assert ratios["activations"] == pytest.approx(1, abs=0.1)


def test_a_wrong_plan_is_seen(tmp_path: Path) -> None:
    """The comparison is with what was loaded, not with the plan itself."""
    info = read_info(build_chat(tmp_path))
    chat = Chat(info=info, context=64)
    planned = plan([chat], machine(ram=8))["chat"]
    (share,) = planned.shares
    doubled = tuple(replace(term, bytes=2 * term.bytes) for term in share.terms)
    wrong = replace(planned, shares=(replace(share, terms=doubled),))
    right, found = verify(chat, planned), verify(chat, wrong)
    assert found.measured_bytes == right.measured_bytes
    assert found.predicted_bytes == 2 * right.predicted_bytes


def test_what_cannot_be_verified() -> None:
    index = Index(kind="flat", rows=10, dimension=8, bytes=400)
    with pytest.raises(TypeError, match="index is an index: there is nothing to load"):
        verify(index, plan([index], machine(ram=8))["index"])
    chat = Chat(info=uneven())
    refused = plan([chat], machine(ram=0.25))["chat"]
    with pytest.raises(ValueError, match="chat cannot be loaded: needs "):
        verify(chat, refused)
    split = Chat(info=uneven(gguf=False), context=256)
    partial = plan([split], machine(0.8, ram=8))["chat"]
    assert partial.decision == "partial"
    with pytest.raises(ValueError, match="chat lies on cuda:0, cpu: a model of torch is measured"):
        verify(split, partial)
    nowhere = Chat(info=uneven())
    with pytest.raises(ModelNotFoundError, match="uneven"):
        verify(nowhere, plan([nowhere], machine(ram=8))["chat"])


@pytest.mark.models
@pytest.mark.parametrize("longest", [200, 512])
def test_an_encoder_in_a_gguf_file_takes_what_was_planned(tmp_path: Path, longest: int) -> None:
    folder = resolve(MINILM, local_files_only=True).path
    file = write_gguf(folder, tmp_path / "minilm.gguf")
    planned, found = measured(Encoder(info=read_info(file), max_length=longest))
    assert planned.max_batch_tokens == (256 if longest == 200 else 512)
    ratios = off(found)
    assert ratios["weights"] == pytest.approx(1, abs=0.02)
    assert ratios["activations"] == pytest.approx(1, abs=0.02)


@pytest.mark.models
@pytest.mark.parametrize(("hidden", "wide"), [(128, 384), (128, 1024)])
def test_the_room_of_an_encoder_follows_its_shape(tmp_path: Path, hidden: int, wide: int) -> None:
    config = BertConfig(
        hidden_size=hidden, intermediate_size=wide, num_hidden_layers=2, num_attention_heads=4
    )
    BertModel(config).save_pretrained(tmp_path)
    words = resolve(MINILM, local_files_only=True).path / "tokenizer.json"
    shutil.copy(words, tmp_path)
    file = write_gguf(tmp_path, tmp_path / "random.gguf")
    _, found = measured(Encoder(info=read_info(file), max_length=512))
    assert off(found)["activations"] == pytest.approx(1, abs=0.03)


@pytest.mark.models
def test_a_model_that_writes_text_needs_its_logits_as_an_embedder_too() -> None:
    planned, found = measured(Encoder(info=read_info(SMOLLM), max_length=512))
    ratios = off(found)
    assert ratios["weights"] == pytest.approx(1, abs=0.02)
    assert ratios["kv_cache"] == 1
    assert ratios["activations"] == pytest.approx(1, abs=0.02)
    assert planned.bytes_for("activations") > 512 * 4 * 49_152  # of the vocabulary


GPUS = [
    {"name": f"CUDA{at}", "description": "a card", "type": ggml_backend_dev_type(1)}
    | {"memory_total": 80, "memory_free": 70}
    for at in range(2)
]


class TestFollowsThePlan:
    def told(self, component: Chat | Encoder, planned: ComponentPlan) -> Any:
        asked = what_to_load(Path("m.gguf"), component, planned)
        return settings_of(json.loads(json.dumps(asked)), GPUS)

    def test_a_card_that_is_not_the_first(self) -> None:
        chat = Chat(info=uneven(), context=256)
        cards = machine(0.6, 8)  # the first has no room for it
        planned = plan([chat], cards)["chat"]
        assert [share.device for share in planned.shares] == ["cuda:1", "cpu"]
        settings = self.told(chat, planned)
        assert (settings.main_gpu, settings.tensor_split) == (1, ())
        assert settings.n_gpu_layers == planned.n_gpu_layers == 7
        assert (settings.fit, settings.n_ctx) == (False, 256)

    def test_layers_over_two_cards(self) -> None:
        chat = Chat(info=uneven(), context=256, sequences=3, cache_dtype="q8_0", ubatch=64)
        planned = plan([chat], machine(1.0, 1.1))["chat"]
        assert planned.decision == "spread"
        settings = self.told(chat, planned)
        layers = tuple(float(share.layers or 0) for share in planned.shares[:2])
        assert settings.tensor_split == layers
        assert sum(layers) == 6
        assert (settings.n_parallel, settings.cache_dtype, settings.ubatch) == (3, "q8_0", 64)

    def test_an_encoder_is_loaded_as_planned(self) -> None:
        encoder = Encoder(info=replace(uneven(), role="encoder", caches=()), max_length=300)
        planned = plan([encoder], machine(4))["embedder"]
        settings = self.told(encoder, planned)
        assert (settings.embedding, settings.n_ctx, settings.n_parallel) == (True, 512, 8)
        assert settings.n_gpu_layers == 7

    def test_a_card_that_llama_cpp_does_not_see_is_not_replaced(self) -> None:
        chat = Chat(info=uneven(), context=256)
        asked = what_to_load(Path("m.gguf"), chat, plan([chat], machine(8))["chat"])
        with pytest.raises(RuntimeError, match="the plan is for cuda:0: "):
            settings_of(asked, [])


@pytest.mark.models
def test_the_planned_file_is_loaded_and_no_other(tmp_path: Path) -> None:
    path = resolve(SMOLLM, kind="gguf", local_files_only=True).path
    (tmp_path / "m-Q4_1.gguf").symlink_to(path)
    (tmp_path / "m-Q4_K_M.gguf").write_bytes(b"no model")  # what a name alone would mean
    chat = Chat(info=read_info(tmp_path, quantization="Q4_1"), context=256)
    assert off(measured(chat)[1])["weights"] == pytest.approx(1, abs=0.02)


@pytest.mark.models
def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = resolve(SMOLLM, kind="gguf", local_files_only=True).path
    file = tmp_path / "model.gguf"
    shutil.copy(path, file)
    chat = Chat(info=read_info(file), context=256)
    with file.open("r+b") as opened:
        opened.write(b"XXXX")
    with pytest.raises(RuntimeError, match=r"model\.gguf: llama\.cpp could not load it"):
        measured(chat)


@pytest.mark.models
def test_a_load_that_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match=r"gguf: llama\.cpp did not load it in 0\.01 seconds"):
        measured(Chat(info=read_info(SMOLLM), context=256))


@pytest.mark.models
def test_the_command_verifies(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["plan", SMOLLM, MINILM, "--context", "512", "--verify", *arguments])
        assert not caught.value.code
        return capsys.readouterr().out

    found = json.loads(run("--json"))["verify"]
    names = [each["name"] for each in found["components"]]
    assert names == [SMOLLM, MINILM]
    for key in ("predicted_bytes", "measured_bytes"):
        assert found[key] == sum(each[key] for each in found["components"])
        assert all(line[key] > 0 for each in found["components"] for line in each["lines"])
    assert found["predicted_bytes"] / found["measured_bytes"] == pytest.approx(1, abs=0.1)
    text = run()
    assert "RSS grew by (not judged)" in text
    assert "predicted" in text


def test_the_child_is_a_module_that_runs() -> None:
    """What it is told is bad; that it says so shows that it was found."""
    done = subprocess.run(
        [sys.executable, "-m", "langchain_gpu.verify.llama_child", "{}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "KeyError: 'device'" in done.stderr
