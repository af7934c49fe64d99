"""`read_info`: files here, parts, shards, the hub, and what is said when something is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from langchain_gpu.models.headers import list_quantizations, read_info
from langchain_gpu.models.info import HeaderError
from langchain_gpu.models.packages import PACKAGES
from langchain_gpu.models.resolve import ModelNotFoundError
from tests.unit_tests import scripted_hub
from tests.unit_tests.cache_sizes import cache_bytes
from tests.unit_tests.gguf_bert import write_gguf
from tests.unit_tests.scripted_hub import ScriptedHub
from tests.unit_tests.tiny_gguf import decoder, gguf

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
LAYER = {
    "input_layernorm.weight": (64,),
    "mlp.down_proj.weight": (64, 96),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "post_attention_layernorm.weight": (64,),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.v_proj.weight": (32, 64),
}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedHub]:
    root = tmp_path / "hub"
    (root / "org").mkdir(parents=True)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "empty-cache"))
    with scripted_hub.serve(root) as served:
        yield served


def write_llama(folder: Path, *, shards: bool = False, **change: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **change}))
    first = {"model.embed_tokens.weight": (100, 64)}
    first |= {f"model.layers.0.{name}": shape for name, shape in LAYER.items()}
    second = {f"model.layers.1.{name}": shape for name, shape in LAYER.items()}
    second |= {"model.norm.weight": (64,), "lm_head.weight": (100, 64)}

    def save(shapes: Mapping[str, tuple[int, ...]], file: str) -> None:
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        save_file(arrays, folder / file, {"format": "pt"})

    if not shards:
        save(first | second, "model.safetensors")
        return folder
    save(first, SHARDS[0])
    save(second, SHARDS[1])
    index = {"weight_map": dict.fromkeys(first, SHARDS[0]) | dict.fromkeys(second, SHARDS[1])}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_parts(folder: Path, *, parts: int = 3, stem: str = "tiny-Q8_0") -> list[Path]:
    """A GGUF in parts, as llama.cpp's splitter leaves them: the facts stand in the first."""
    folder.mkdir(parents=True, exist_ok=True)
    facts, tensors = decoder(layers=parts, kind=8)
    names = sorted(tensors)
    files = []
    for number in range(parts):
        own = {name: tensors[name] for name in names[number::parts]}
        split = {"split.no": number, "split.count": parts, "split.tensors.count": len(tensors)}
        file = folder / f"{stem}-{number + 1:05d}-of-{parts:05d}.gguf"
        file.write_bytes(gguf({**(facts if number == 0 else {}), **split}, own))
        files.append(file)
    return files


@pytest.mark.models
def test_the_header_of_smollm2_is_read_to_the_byte() -> None:
    model = read_info("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert (model.format, model.architecture, model.role) == ("gguf", "llama", "decoder")
    assert (model.params, model.dtype, model.layers) == (134_515_008, "Q4_1", 30)
    assert (model.hidden, model.heads, model.intermediate) == (576, 9, 1536)
    assert (model.vocab, model.context_length, model.tied) == (49152, 8192, True)
    assert cache_bytes(model, 1) == 30 * 2 * 3 * 64 * 2
    assert list(model.files.values()) == [98_362_432]
    # What is no tensor is the head: words, merges and the chat template.
    assert 0 < 98_362_432 - model.weight_bytes < 2_000_000


@pytest.mark.models
def test_minilm_from_its_weights_and_from_its_configuration(tmp_path: Path) -> None:
    package = PACKAGES["sentence-transformers/all-MiniLM-L6-v2", "safetensors"][0]
    folder = package.locate()
    assert folder is not None
    model = read_info(folder)
    assert (model.format, model.architecture, model.role) == ("safetensors", "BertModel", "encoder")
    assert (model.params, model.layers, model.vocab) == (22_713_216, 6, 30522)
    assert (model.dtype, model.context_length, model.caches) == ("float32", 512, ())
    assert model.weight_bytes == 4 * 22_713_216 + 8 * 512  # and the position ids
    shutil.copy(folder / "config.json", tmp_path)
    alone = read_info(tmp_path)
    assert alone.format == "config"
    assert alone.params == model.params
    assert [block.bytes for block in alone.blocks] == [block.bytes for block in model.blocks]
    assert "bytes are arithmetic" in alone.source


def test_the_tiny_bert_in_both_formats(tiny: Callable[[str], str], tmp_path: Path) -> None:
    folder = Path(tiny("bert"))
    ours = read_info(folder)
    theirs = read_info(write_gguf(folder, tmp_path / "bert.gguf"))
    assert (ours.role, theirs.role) == ("encoder", "encoder")
    assert ours.params == theirs.params
    assert [block.params for block in ours.blocks] == [block.params for block in theirs.blocks]
    for name in ("layers", "hidden", "heads", "intermediate", "vocab", "context_length"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("shards", [False, True])
def test_weights_are_grouped(tmp_path: Path, *, shards: bool) -> None:
    model = read_info(write_llama(tmp_path / "m", shards=shards))
    layer = sum(int(np.prod(shape)) for shape in LAYER.values())
    assert [block.params for block in model.blocks] == [layer, layer]
    assert model.embedding.params == 6400
    assert model.output.params == 6464
    assert model.weight_bytes == 4 * model.params
    assert model.blocks[0].by_type == {"float32": 4 * layer}
    assert list(model.files) == (list(SHARDS) if shards else ["model.safetensors"])
    (tmp_path / "m" / "model.safetensors").unlink(missing_ok=True)
    for shard in SHARDS:
        (tmp_path / "m" / shard).unlink(missing_ok=True)
    (tmp_path / "m" / "model.safetensors.index.json").unlink(missing_ok=True)
    assert read_info(tmp_path / "m").params == model.params


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m", shards=True)
    (folder / SHARDS[1]).unlink()
    with pytest.raises(HeaderError, match=f"lacks 1 of 2 weight files, {SHARDS[1]} among them"):
        read_info(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(HeaderError, match="the weights have none for layer 1: files are missing"):
        read_info(folder)


def test_shards_without_an_index(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m", shards=True)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(HeaderError, match="2 safetensors and no model.safetensors.index.json"):
        read_info(folder)


def test_packed_weights_count_as_what_they_stand_for(tmp_path: Path) -> None:
    folder = write_llama(
        tmp_path / "m",
        num_hidden_layers=1,
        quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32},
    )
    save_file(
        {
            "model.embed_tokens.weight": np.zeros((100, 64), np.float16),
            "model.layers.0.mlp.up_proj.qweight": np.zeros((8, 96), np.int32),
            "model.layers.0.mlp.up_proj.qzeros": np.zeros((2, 12), np.int32),
            "model.layers.0.mlp.up_proj.scales": np.zeros((2, 96), np.float16),
            "model.layers.0.mlp.up_proj.g_idx": np.zeros(64, np.int32),
        },
        folder / "model.safetensors",
    )
    model = read_info(folder)
    assert model.dtype == "gptq-4bit"
    assert model.blocks[0].params == 64 * 96
    assert model.blocks[0].bytes == 4 * (8 * 96 + 24 + 64) + 2 * 192


def test_parts_of_a_gguf_from_any_of_them(tmp_path: Path) -> None:
    files = write_parts(tmp_path)
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(gguf(*decoder(layers=3)))
    expected = read_info(whole)
    for file in files:
        model = read_info(file)
        assert (model.blocks, model.embedding) == (expected.blocks, expected.embedding)
        assert model.files == {one.name: one.stat().st_size for one in files}


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    files = write_parts(tmp_path)
    renamed = tmp_path / "renamed.gguf"
    shutil.copy(files[0], renamed)
    with pytest.raises(HeaderError, match="renamed.gguf is one of 3 parts by its key"):
        read_info(renamed)
    shutil.copy(files[0], files[1])
    with pytest.raises(HeaderError, match="'.*' is in an earlier part too"):
        read_info(files[0])
    files[1].unlink()
    with pytest.raises(HeaderError, match=f"lacks 1 of 3 weight files, {files[1].name} among them"):
        read_info(files[2])


def gguf_info(tmp_path: Path, architecture: str, *, layers: int = 6, **facts: Any) -> Any:
    path = tmp_path / "m.gguf"
    named = {key.replace("__", "."): value for key, value in facts.items()}
    path.write_bytes(gguf(*decoder(architecture, named, layers=layers)))
    return read_info(path)


def test_windows_of_a_gguf(tmp_path: Path) -> None:
    def near(architecture: str, **facts: Any) -> list[int | None]:
        model = gguf_info(tmp_path, architecture, attention__sliding_window=128, **facts)
        return [cache.window for cache in model.caches]

    assert near("gemma3") == [128] * 5 + [None]
    assert near("gpt-oss") == [128, None] * 3
    assert near("llama") == [None] * 6
    pattern = [True, False, False, True, True, False]
    told = near("new", attention__sliding_window_pattern=pattern)
    assert told == [128, None, None, 128, 128, None]
    assert near("new", attention__sliding_window_pattern=3) == [128, 128, None] * 2
    with pytest.raises(HeaderError, match="sliding_window_pattern has 2 items"):
        near("new", attention__sliding_window_pattern=[True, False])


def test_caches_of_a_gguf(tmp_path: Path) -> None:
    def caches(architecture: str = "llama", **facts: Any) -> set[tuple[int, int]]:
        model = gguf_info(tmp_path, architecture, layers=2, **facts)
        return {(cache.keys, cache.values) for cache in model.caches}

    assert caches() == {(32, 32)}  # two heads of 16
    assert caches(attention__key_length=32, attention__value_length=8) == {(64, 16)}
    assert caches(attention__head_count_kv=[0, 4]) == {(0, 0), (64, 64)}
    assert caches(full_attention_interval=2) == {(0, 0), (32, 32)}
    latent = {
        "attention__head_count_kv": 1,
        "attention__key_length": 576,
        "attention__value_length": 512,
        "attention__kv_lora_rank": 512,
    }
    assert caches("deepseek2", **latent, attention__key_length_mla=192) == {(576, 0)}
    old = {**latent, "attention__head_count_kv": 4, "attention__key_length": 192}
    assert caches("deepseek2", **old) == {(4 * 192, 4 * 512)}
    assert caches("bert") == set()
    assert caches("qwen3", attention__causal=False) == set()


def test_experts_of_a_gguf(tmp_path: Path) -> None:
    facts = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 48}
    model = gguf_info(tmp_path, "qwen3moe", **facts)
    assert (model.experts, model.intermediate) == ((8, 2), 48)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"general.architecture": ""}, "m.gguf has no key 'general.architecture'"),
        ({"block_count": 7}, "names 7 layers, but holds no tensors of layer 6"),
        ({"block_count": 2**31}, "2,147,483,648 layers; 10,000 is the limit"),
        ({"embedding_length": "wide"}, "'llama.embedding_length' is 'wide', no whole number"),
        ({"attention.head_count": 0}, "m.gguf has no key 'llama.attention.head_count'"),
        ({"attention.head_count_kv": [1]}, "'llama.attention.head_count_kv' has 1 items"),
        ({"expert_count": 8}, "m.gguf has no key 'llama.expert_used_count'"),
    ],
)
def test_what_a_gguf_lacks_is_named(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(*decoder("llama", facts, layers=6)))
    with pytest.raises(HeaderError, match=message):
        read_info(tmp_path / "m.gguf")


ODD = st.booleans() | st.integers(0, 2**32 - 1) | st.floats(width=32) | st.text(max_size=3)
FACTS, TENSORS = decoder("gemma3", {"attention.sliding_window": 64, "split.count": 1}, layers=6)


@settings(max_examples=200, deadline=20_000)
@given(
    st.dictionaries(st.sampled_from(sorted(FACTS)), ODD | st.lists(st.integers(0, 9)), max_size=2),
    st.dictionaries(
        st.sampled_from(sorted(TENSORS)),
        st.tuples(st.sampled_from([0, 8]), st.lists(st.just(32), max_size=4).map(tuple)),
    ),
)
def test_any_value_of_a_gguf_is_read_or_named(
    facts: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...]]]
) -> None:
    data = gguf({**FACTS, **facts}, {**TENSORS, **tensors})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "odd.gguf"
        path.write_bytes(data)
        try:
            assert cache_bytes(read_info(path), 10) >= 0
        except HeaderError as error:
            assert "odd.gguf" in str(error)  # noqa: PT017


def test_a_folder_of_quantizations(tmp_path: Path) -> None:
    for stem, kind in (("tiny-Q4_K_M", 2), ("tiny-Q8_0", 8), ("tiny.f16", 1), ("odd", 0)):
        (tmp_path / f"{stem}.gguf").write_bytes(gguf(*decoder(kind=kind)))
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"GGUF")
    parts = write_parts(tmp_path / "BF16", stem="tiny-BF16")
    sizes = {file.stem: file.stat().st_size for file in tmp_path.glob("*.gguf")}
    listed = dict(list_quantizations(tmp_path))
    assert listed == {
        "Q4_K_M": sizes["tiny-Q4_K_M"],
        "Q8_0": sizes["tiny-Q8_0"],
        "f16": sizes["tiny.f16"],
        "odd": sizes["odd"],
        "BF16": sum(file.stat().st_size for file in parts),
    }
    assert list(listed.values()) == sorted(listed.values())
    assert read_info(tmp_path).files.keys() == {"tiny-Q4_K_M.gguf"}
    assert read_info(tmp_path, quantization="q8_0").files.keys() == {"tiny-Q8_0.gguf"}
    assert len(read_info(tmp_path, quantization="BF16").files) == 3
    for name, size in listed.items():  # F16 stands in BF16 too
        assert sum(read_info(tmp_path, quantization=name).files.values()) == size
    assert list_quantizations(tmp_path / "tiny-Q8_0.gguf") == [("Q8_0", sizes["tiny-Q8_0"])]
    with pytest.raises(ModelNotFoundError, match="no .gguf file holds 'Q2_K' in its name"):
        read_info(tmp_path, quantization="Q2_K")


def test_quantizations_that_only_folders_tell_apart(tmp_path: Path) -> None:
    for folder, kind in (("Q8_0", 8), ("other", 0), ("more", 1)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gguf").write_bytes(gguf(*decoder(kind=kind)))
    listed = dict(list_quantizations(tmp_path))
    assert list(listed) == ["Q8_0", "more/model", "other/model"]
    for name, size in listed.items():
        assert sum(read_info(tmp_path, quantization=name).files.values()) == size


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="holds no config.json and no .gguf: not a model"):
        read_info(tmp_path)
    with pytest.raises(ModelNotFoundError, match="holds no .gguf models"):
        list_quantizations(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="for safetensors name the folder"):
        read_info(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(HeaderError, match="model.safetensors has no header that can be read"):
        read_info(tmp_path)
    (tmp_path / "config.json").write_bytes(b"{" + b" " * (11 << 20))
    with pytest.raises(HeaderError, match="config.json has 11,534,337 bytes; 10,485,760 is"):
        read_info(tmp_path)


def test_the_hub_sends_headers_only(hub: ScriptedHub, tmp_path: Path) -> None:
    repo = write_llama(tmp_path / "hub" / "org" / "llama", shards=True, vocab_size=100)
    save_file(
        {"model.embed_tokens.weight": np.zeros((60_000, 64), np.float32)}
        | {f"model.layers.0.{name}": np.zeros(shape, np.float32) for name, shape in LAYER.items()},
        repo / SHARDS[0],
    )
    model = read_info("org/llama", token="hf_secret")  # noqa: S106
    here = read_info(repo)
    assert (model.blocks, model.embedding, model.output) == (
        here.blocks,
        here.embedding,
        here.output,
    )
    assert model.files == here.files
    assert model.source == "headers of 2 safetensors of the hub's org/llama"
    assert hub.sent < 4 << 20 < sum(model.files.values())
    assert hub.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in repr(model)


def test_a_gguf_on_the_hub(hub: ScriptedHub, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "org" / "tiny-GGUF"
    parts = write_parts(folder / "Q8_0")
    (folder / "tiny-Q4_K_M.gguf").write_bytes(gguf(*decoder(kind=2)) + bytes(20 << 20))
    model = read_info("org/tiny-GGUF")
    assert model.files.keys() == {"tiny-Q4_K_M.gguf"}
    assert hub.sent < 5 << 20
    assert len(read_info("org/tiny-GGUF:Q8_0").files) == 3
    assert len(read_info("org/tiny-GGUF", quantization="Q8_0", revision="v1.0").files) == 3
    assert any("/resolve/v1.0/" in path for path in hub.asked)
    assert list_quantizations("org/tiny-GGUF") == [
        ("Q8_0", sum(part.stat().st_size for part in parts)),
        ("Q4_K_M", (folder / "tiny-Q4_K_M.gguf").stat().st_size),
    ]


def test_what_the_hub_lacks_or_refuses(hub: ScriptedHub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="cannot be read: RepositoryNotFoundError: ") as e:
        read_info("org/none")
    assert "local cache org/none" in str(e.value)
    write_llama(tmp_path / "hub" / "org" / "closed")
    with pytest.raises(
        ModelNotFoundError, match="GatedRepoError: ask for access at huggingface.co"
    ):
        read_info("org/closed", token="hf_secret")  # noqa: S106
    write_llama(tmp_path / "hub" / "org" / "llama")
    with pytest.raises(ModelNotFoundError, match="at v9 cannot be read: RevisionNotFoundError"):
        read_info("org/llama", revision="v9")
    with pytest.raises(ModelNotFoundError, match="no .gguf file holds 'Q4_K_M' in its name"):
        read_info("org/llama", quantization="Q4_K_M")
    for name in ("", "a b/c", "one/two/three/four"):
        with pytest.raises(ModelNotFoundError):
            read_info(name)
    hub.broken = "500"
    with pytest.raises(ModelNotFoundError, match="cannot be read: HfHubHTTPError"):
        read_info("org/llama")
    hub.broken = "down"
    with pytest.raises(ModelNotFoundError, match="cannot be read: ConnectError: Name or service"):
        list_quantizations("org/llama")


def test_a_bare_name_is_one_of_sentence_transformers(hub: ScriptedHub, tmp_path: Path) -> None:
    write_llama(tmp_path / "hub" / "sentence-transformers" / "bare")
    assert read_info("bare").source.endswith("the hub's sentence-transformers/bare")


@pytest.mark.parametrize("name", ["nothing.gguf", "nothing:Q4_K_M"])
def test_a_gguf_without_an_owner_is_no_name_of_the_hub(hub: ScriptedHub, name: str) -> None:
    with pytest.raises(
        ModelNotFoundError, match="'nothing.*' is neither a local path nor a hub name"
    ):
        read_info(name)


@pytest.mark.parametrize("name", ["./typo", "/none/typo.gguf", "models/7b/typo.gguf", "~/typo"])
def test_a_path_that_is_not_there_is_no_name_of_the_hub(hub: ScriptedHub, name: str) -> None:
    expected = (
        f"{name!r} is neither a local path nor a hub name; the hub's names are namespace/name"
    )
    with pytest.raises(ModelNotFoundError, match=f"^{re.escape(expected)}\nOn this machine: "):
        read_info(name)
    with pytest.raises(ModelNotFoundError, match=f"^{re.escape(expected)}$"):
        list_quantizations(name)
    assert hub.asked == []


def test_the_form_of_names_is_said_once() -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        read_info("a b")
    assert str(raised.value).count("namespace/name") == 1


def test_offline_the_hub_is_not_asked() -> None:
    with pytest.raises(ModelNotFoundError, match="^the hub's org/none was not asked: HF_HUB_OFFLI"):
        read_info("org/none")


def test_a_name_is_looked_for_here_first(
    hub: ScriptedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "models--org--llama"
    commit = "a" * 40
    write_llama(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "cache"))
    assert "the folder" in read_info("org/llama").source
    assert hub.asked == []


def test_damage_on_the_hub_is_named(hub: ScriptedHub, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "hub" / "org" / "llama")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-4])
    with pytest.raises(HeaderError, match="model.safetensors: its tensors end at byte"):
        read_info("org/llama")
