"""Where the planner puts things, and in whose favor it decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from langchain_gpu.hardware.devices import Device, list_devices
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.info import ModelInfo
from langchain_gpu.planner import (
    Chat,
    ComponentPlan,
    Encoder,
    Index,
    Policy,
    imagined,
    parse_size,
    plan,
)
from langchain_gpu.planner.pools import make_pools, most_left
from langchain_gpu.planner.suggest import with_bits
from tests.unit_tests.cache_sizes import cache_bytes
from tests.unit_tests.machines import M3_MAX, MACHINES
from tests.unit_tests.planned_models import (
    GIB,
    MIB,
    RERANKER,
    block_bytes,
    from_config,
    machine,
    uneven,
    write_llama_31_8b,
)
from tests.unit_tests.test_hf_config import BGE_M3, LLAMA_3_8B

FREE = Policy(reserve=0)


def weights_on(found: ComponentPlan, device: str) -> int:
    return sum(
        term.bytes
        for share in found.shares
        if share.device == device
        for term in share.terms
        if term.what == "weights"
    )


def gpu_for(chat: Chat, layers: int) -> float:
    """GiB of a GPU in which so many layers, the output and the overhead fit, and hardly more."""
    info, count = chat.info, chat.info.layers
    llama = chat.runs_on == "llama_cpp"
    kept = range(count - layers, count) if llama else range(layers)
    first = block_bytes(info, kept) + (info.output.bytes if llama or layers == count else 0)
    # With transformers what stays on the CPU comes to the GPU to be computed, a layer at a time.
    guest = 0 if llama or layers == count else info.blocks[-1].bytes
    return (first + guest + 512 * MIB + 20 * MIB) / GIB


@pytest.fixture
def llama(tmp_path: Path) -> ModelInfo:
    return read_info(write_llama_31_8b(tmp_path / "Llama-3.1-8B-Q4_K_M.gguf"))


def test_whole_on_one_gpu(llama: ModelInfo) -> None:
    found = plan([Chat(info=llama)], machine(24, 24))["chat"]
    assert (found.decision, found.context, found.n_gpu_layers) == ("whole", 8192, 33)
    assert [(share.device, share.layers) for share in found.shares] == [("cuda:0", 32), ("cpu", 0)]
    assert found.reason.startswith("fits: ")
    assert weights_on(found, "cpu") == llama.embedding.bytes
    assert not found.suggestions


def test_the_first_gpu_that_holds_it_is_taken(llama: ModelInfo) -> None:
    found = plan([Chat(info=llama)], machine(4, 24))["chat"]
    assert (found.decision, found.shares[0].device) == ("whole", "cuda:1")


def test_spread_where_no_one_gpu_holds_it(llama: ModelInfo) -> None:
    found = plan([Chat(info=llama, context=8192)], machine(5, 5))["chat"]
    assert found.decision == "spread"
    first, second, table = found.shares
    assert [share.device for share in found.shares] == ["cuda:0", "cuda:1", "cpu"]
    assert first.layers
    assert second.layers == 32 - first.layers
    # Layers in their order, and the output matrix with the last of them.
    assert weights_on(found, "cuda:0") == block_bytes(llama, range(first.layers))
    behind = block_bytes(llama, range(first.layers, 32)) + llama.output.bytes
    assert weights_on(found, "cuda:1") == behind
    assert all(share.bytes <= 5 * GIB * 0.95 for share in (first, second))
    assert table.layers == 0


@pytest.mark.parametrize("on_gpu", [1, 3, 5])
def test_llama_cpp_keeps_the_table_and_the_first_layers_on_the_cpu(on_gpu: int) -> None:
    chat = Chat(info=uneven(), context=256)
    found = plan([chat], machine(gpu_for(chat, on_gpu), ram=8), FREE)["chat"]
    assert (found.decision, found.n_gpu_layers) == ("partial", on_gpu + 1)
    assert [share.layers for share in found.shares] == [on_gpu, 6 - on_gpu]
    info = chat.info
    last = block_bytes(info, range(6 - on_gpu, 6))
    assert weights_on(found, "cuda:0") == last + info.output.bytes
    first = block_bytes(info, range(6 - on_gpu))
    assert weights_on(found, "cpu") == info.embedding.bytes + first
    assert found.embedding_on_cpu
    word = "stays" if on_gpu == 5 else "stay"
    assert f"{6 - on_gpu} of 6 layers {word} on the CPU" in found.reason


@pytest.mark.parametrize("on_gpu", [6, 5, 2])
def test_transformers_lets_the_table_go_first_and_then_the_last_layers(on_gpu: int) -> None:
    chat = Chat(info=uneven(gguf=False), context=256)
    found = plan([chat], machine(gpu_for(chat, on_gpu), ram=8), FREE)["chat"]
    assert found.decision == "partial"
    assert found.embedding_on_cpu
    assert [share.layers for share in found.shares] == [on_gpu, 6 - on_gpu]
    info = chat.info
    output_here = info.output.bytes if on_gpu == 6 else 0
    assert weights_on(found, "cuda:0") == block_bytes(info, range(on_gpu)) + output_here
    behind = block_bytes(info, range(on_gpu, 6)) + info.output.bytes - output_here
    assert weights_on(found, "cpu") == info.embedding.bytes + behind
    said = {
        6: "the embedding table stays on the CPU",
        5: "1 of 6 layers and the embedding table stay on the CPU",
        2: "4 of 6 layers and the embedding table stay on the CPU",
    }
    assert said[on_gpu] in found.reason


def test_transformers_computes_all_layers_on_the_gpu() -> None:
    chat = Chat(info=uneven(gguf=False), context=256)
    info = chat.info
    found = plan([chat], machine(gpu_for(chat, 3), ram=8), FREE)["chat"]
    card, host = found.shares
    caches = sum(term.bytes for term in card.terms if term.what == "kv_cache")
    assert caches == cache_bytes(info, 256)  # of all six, three of which lie on the CPU
    (room,) = (term for term in card.terms if "comes from the CPU" in term.formula)
    assert room.bytes == info.blocks[5].bytes  # the largest of those
    assert {term.what for term in host.terms} == {"weights"}
    # One byte less, and a layer less is there.
    less = replace(machine(1)[0], memory_total=card.bytes, memory_free=card.bytes)
    cpu = machine(1, ram=8)[1]
    assert plan([chat], [less, cpu], FREE)["chat"].shares[0].layers == 3
    less = replace(less, memory_free=card.bytes - 1)
    assert plan([chat], [less, cpu], FREE)["chat"].shares[0].layers == 2


def test_an_output_matrix_that_is_larger_than_a_layer_needs_its_room() -> None:
    info = uneven(gguf=False, base=10 * MIB)
    found = plan([Chat(info=info, context=256)], machine(0.68, ram=8), FREE)["chat"]
    assert found.decision == "partial"
    (room,) = (t for t in found.shares[0].terms if "comes from the CPU" in t.formula)
    assert room.bytes == info.output.bytes == 60 * MIB


@pytest.mark.parametrize("kind", [Chat, Encoder])
def test_a_gguf_file_brings_its_own_dtype(kind: type[Chat | Encoder]) -> None:
    with pytest.raises(ValueError, match=r"dtype='float16' is for safetensors, .* \(Q8_0\): leave"):
        kind(info=uneven(), dtype="float16")


def test_no_policy_of_parts_no_parts() -> None:
    for gguf in (True, False):
        chat = Chat(info=uneven(gguf=gguf), context=256)
        for on_gpu in (6, 3):
            # With transformers six layers fit without the table: that is a part too.
            device = machine(gpu_for(chat, on_gpu), ram=8)
            found = plan([chat], device, Policy(reserve=0, partial=False))["chat"]
            assert found.decision == ("whole" if gguf and on_gpu == 6 else "cpu")
            if found.decision == "cpu":  # a layer would fit, but alone it may not go
                assert found.reason.startswith("too large for a GPU, undivided: ")


def test_tokens_go_before_layers(llama: ModelInfo) -> None:
    whole = plan([Chat(info=llama, context=8192)], machine(24))["chat"].on("cuda:0")
    devices = machine((whole - 300 * MIB) / GIB, ram=32)
    found = plan([Chat(info=llama)], devices, FREE)["chat"]
    assert found.decision == "whole"
    assert found.context is not None
    assert 2048 <= found.context < 8192
    assert f"with a context of {found.context:,} instead of 8,192 tokens" in found.reason
    # The longest in steps of 256.
    more = Chat(info=llama, context=found.context + 256)
    assert plan([more], devices, FREE)["chat"].decision == "partial"
    # Who asks for tokens gets them.
    asked = plan([Chat(info=llama, context=8192)], devices, FREE)["chat"]
    assert (asked.decision, asked.context) == ("partial", 8192)
    assert any("a context of 4,096 tokens would fit whole" in line for line in asked.suggestions)


def test_no_fewer_tokens_than_the_policy_allows(llama: ModelInfo) -> None:
    whole = plan([Chat(info=llama, context=8192)], machine(24))["chat"].on("cuda:0")
    devices = machine((whole - 300 * MIB) / GIB, ram=32)
    found = plan([Chat(info=llama)], devices, Policy(reserve=0, min_context=8000))["chat"]
    assert (found.decision, found.context) == ("partial", 8192)


def test_on_the_cpu_where_not_one_layer_fits(llama: ModelInfo) -> None:
    found = plan([Chat(info=llama)], machine(0.75, ram=32))["chat"]
    assert (found.decision, found.n_gpu_layers, found.context) == ("cpu", 0, 8192)
    assert found.reason.startswith("not one layer fits on a GPU: ")
    assert plan([Chat(info=llama)], machine(ram=32))["chat"].reason.startswith("there is no GPU: ")


def test_copies_refuse_nothing(llama: ModelInfo) -> None:
    found = plan([Chat(info=llama)], machine(ram=7.5))
    assert found["chat"].decision == "cpu"
    assert found["chat"].bytes > 8 * GIB
    assert found.pools[0].used <= 6.5625 * GIB


def test_refused_with_what_is_missing(llama: ModelInfo) -> None:
    found = plan([Chat(info=llama)], machine(2, ram=2))
    chat = found["chat"]
    assert not found.fits
    assert (chat.decision, chat.shares, chat.context) == ("refused", (), None)
    needed, missing = (
        float(chat.reason.split(before)[1].split(" GiB")[0])
        for before in ("needs ", "can be had: ")
    )
    had = 2 * 0.95 + 2 - 0.25  # 5% of the GPU and an eighth of the RAM are left alone
    assert needed - missing == pytest.approx(had, abs=0.11)
    assert "with a context of 2,048 tokens" in chat.reason
    # What is left where it is refused is the next one's.
    index = Index(kind="flat", rows=1000, dimension=8, bytes=40_000)
    assert plan([Chat(info=llama), index], machine(2, ram=2))["index"].decision == "whole"


def test_a_smaller_quantization_is_suggested(tmp_path: Path) -> None:
    info = from_config(tmp_path, LLAMA_3_8B)
    found = plan([Chat(info=info, context=8192)], machine(8, ram=32))["chat"]
    assert found.decision == "partial"
    line = next(line for line in found.suggestions if "bits a weight" in line)
    assert line.startswith("Q6_K (about 6.57 bits a weight, 6.1 GiB) would fit whole on one GPU")
    # It does.
    smaller = Chat(info=with_bits(info, "Q6_K"), context=8192)
    assert plan([smaller], machine(8, ram=32))["chat"].decision == "whole"
    larger = Chat(info=with_bits(info, "Q8_0"), context=8192)
    assert plan([larger], machine(8, ram=32))["chat"].decision == "partial"


def four(tmp_path: Path, llama: ModelInfo) -> list[Chat | Encoder | Index]:
    return [
        Index(kind="flat", rows=1_000_000, dimension=1024, bytes=4_104_000_000),
        Encoder(info=from_config(tmp_path / "m3", BGE_M3)),
        Encoder(info=from_config(tmp_path / "reranker", RERANKER), role="reranker"),
        Chat(info=llama, context=8192),
    ]


@pytest.mark.parametrize(
    ("gib", "on_gpu"),
    [
        (14, {"chat", "reranker", "embedder", "index"}),
        (10.5, {"chat", "reranker", "embedder"}),
        (8.5, {"chat", "reranker"}),
        (7, {"chat"}),
    ],
)
def test_the_index_leaves_first_and_the_chat_last(
    tmp_path: Path, llama: ModelInfo, gib: float, on_gpu: set[str]
) -> None:
    found = plan(four(tmp_path, llama), machine(gib, ram=32))
    assert [each.name for each in found.components] == ["chat", "reranker", "embedder", "index"]
    assert {each.name for each in found.components if each.decision == "whole"} == on_gpu


def test_another_order_reverses_it(tmp_path: Path, llama: ModelInfo) -> None:
    order = ("index", "embedder", "reranker", "chat")
    found = plan(four(tmp_path, llama), machine(7.5, ram=32), Policy(order=order))
    assert [each.name for each in found.components] == list(order)
    assert found["index"].decision == found["embedder"].decision == "whole"
    assert found["chat"].decision in {"partial", "cpu"}
    some = plan(four(tmp_path, llama), machine(7.5, ram=32), Policy(order=("index",)))
    assert some.components[0].name == "index"


def test_what_one_takes_is_gone_for_the_next() -> None:
    first = Chat(info=uneven(), name="first", context=256)
    second = Chat(info=uneven(), name="second", context=256)
    one = plan([first], machine(24), FREE)["first"].on("cuda:0")
    room = machine((2 * one - 512 * MIB) / GIB)  # the device's own context counts once
    both = plan([first, second], room, FREE)
    assert [each.decision for each in both.components] == ["whole", "whole"]
    assert both.pools[0].used == both.pools[0].free
    assert [each.bytes_for("overhead") for each in both.components] == [512 * MIB, 0]
    less = machine((2 * one - 512 * MIB - 1) / GIB)
    assert plan([first, second], less, FREE)["second"].decision == "partial"


def test_a_reserve_is_left_alone() -> None:
    chat = Chat(info=uneven(), context=256)
    one = plan([chat], machine(24), FREE)["chat"].on("cuda:0")
    for reserve, decision in ((GIB, "whole"), (GIB + 1, "partial")):
        found = plan([chat], machine((one + GIB) / GIB), Policy(reserve=reserve))
        assert found["chat"].decision == decision
        assert found.pools[0].reserve == reserve
    usual = plan([chat], machine(24))
    assert usual.pools[0].reserve == int(24 * GIB * 0.05)
    assert usual.pools[-1].reserve == GIB
    full = replace(machine(80)[0], memory_free=2 * GIB)  # others have taken the rest
    assert plan([chat], [full, machine(80)[-1]]).pools[0].reserve == GIB // 2


def test_an_index_always_has_its_copy_in_the_cpus_memory() -> None:
    index = Index(kind="flat", rows=10**6, dimension=1024, bytes=4 * GIB, temporary=256 * MIB)
    found = plan([index], machine(24, ram=8))["index"]
    assert found.decision == "whole"
    assert (found.on("cuda:0"), found.on("cpu")) == (4 * GIB + 768 * MIB, 4 * GIB)
    refused = plan([index], machine(24, ram=4))["index"]
    assert refused.decision == "refused"
    assert refused.reason == (
        "needs 4.0 GiB on cpu, and 3.5 GiB on cpu can be had: 512 MiB are missing"
    )


def test_a_batch_is_cut_before_an_encoder_leaves(tmp_path: Path) -> None:
    encoder = Encoder(info=from_config(tmp_path, BGE_M3))
    each = 2 * (3 * 1024 + 2 * 4096)
    fixed = 2 * encoder.info.params + 512 * MIB
    table = 2 * encoder.info.embedding.params

    def on(left: int) -> ComponentPlan:
        return plan([encoder], machine(left / GIB, ram=16), FREE)["embedder"]

    assert on(fixed + 16_384 * each).max_batch_tokens == 16_384
    cut = on(fixed + 3000 * each + 1)
    assert (cut.decision, cut.max_batch_tokens) == ("whole", 3000)
    assert "with batches of 3,000 instead of 16,384 tokens" in cut.reason
    aside = on(fixed - table + 2048 * each + 1)
    assert (aside.decision, aside.max_batch_tokens) == ("partial", 2048)
    assert aside.embedding_on_cpu
    assert [share.device for share in aside.shares] == ["cuda:0", "cpu"]
    gone = on(fixed - table + 2047 * each)
    assert (gone.decision, gone.dtype, gone.max_batch_tokens) == ("cpu", "float32", 2048)


def test_an_encoder_is_refused_with_what_is_missing_where_least_is(tmp_path: Path) -> None:
    info = from_config(tmp_path, BGE_M3)
    found = plan([Encoder(info=info)], machine(1, ram=1))["embedder"]
    each = 2 * (3 * 1024 + 2 * 4096)
    needed = 2 * info.params + 512 * MIB + 512 * each
    missing = needed - GIB * 0.95
    assert found.decision == "refused"
    assert f"needs {needed / GIB:.1f} GiB on cuda:0" in found.reason
    assert f"{missing / MIB:.0f} MiB are missing" in found.reason


def apple(gib: float) -> list[Device]:
    """A chip of 64 GiB with so many of them free."""
    gpu = Device(
        kind="mps",
        name="Apple M3 Max",
        reason="",
        memory_total=64 * GIB,
        memory_free=int(gib * GIB),
        dtype="float16",
    )
    return [gpu, replace(gpu, kind="cpu", dtype="float32")]


def test_memory_with_two_names_counts_once(llama: ModelInfo) -> None:
    mps, cpu = make_pools(list_devices(M3_MAX))
    assert most_left([mps, cpu]) == max(mps.left, cpu.left)
    mps.take(10 * GIB)
    assert cpu.left == (44 - 1 - 10) * GIB
    # An index and its mirror are two copies in one memory.
    index = Index(kind="flat", rows=10**6, dimension=1024, bytes=4 * GIB)
    once, twice = (plan([index], apple(gib))["index"] for gib in (8, 8 + 64 * 0.05))
    assert (once.decision, twice.decision) == ("cpu", "whole")
    # A model whose table lies beside it too.
    for gib in range(5, 12):
        found = plan([Chat(info=llama)], apple(gib))
        assert sum(pool.used for pool in found.pools) <= gib * GIB
    needed = plan([Chat(info=llama)], apple(3))["chat"]
    assert needed.decision == "refused"
    assert needed.reason.endswith("GiB are missing")


def test_metal_gets_three_quarters_of_a_chip() -> None:
    mps, cpu = make_pools(apple(64))
    assert (mps.free, cpu.free) == (48 * GIB, 64 * GIB)


@pytest.mark.parametrize("name", MACHINES)
def test_every_simulated_machine_can_be_planned_for(
    tmp_path: Path, llama: ModelInfo, name: str
) -> None:
    devices = list_devices(MACHINES[name])
    found = plan(four(tmp_path, llama), devices)
    assert {pool.device for pool in found.pools} == {str(device) for device in devices}
    assert plan(four(tmp_path, llama), devices) == found


def test_components_are_named_once() -> None:
    chat = Chat(info=uneven())
    with pytest.raises(ValueError, match="two components are called chat: give each its own name"):
        plan([chat, chat], machine(24))
    with pytest.raises(KeyError, match="no component 'embedder' in this plan; it has chat"):
        plan([chat], machine(24))["embedder"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int3"}, "dtype 'int3' is not one of float32, "),
        ({"cache_dtype": "q1"}, "cache_dtype 'q1' is not one of float32, "),
        ({"context": 0}, r"chat: context=0 must be at least 1"),
        ({"sequences": -1}, r"chat: sequences=-1 must be at least 1"),
        ({"ubatch": 0}, r"chat: ubatch=0 must be at least 1"),
    ],
)
def test_a_chat_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Chat(info=uneven()), **change)


def test_an_encoder_writes_no_text(tmp_path: Path) -> None:
    info = from_config(tmp_path, BGE_M3)
    with pytest.raises(ValueError, match="is an encoder: it cannot write text"):
        Chat(info=info)
    with pytest.raises(ValueError, match="embedder: max_length=0 must be at least 1"):
        Encoder(info=info, max_length=0)
    with pytest.raises(ValueError, match="index: bytes=0 must be at least 1"):
        Index(kind="flat", rows=1, dimension=1, bytes=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"order": ("chat", "chat")},
        {"order": ("cat",)},
        {"reserve": -1},
        {"context": 0},
        {"min_context": 0},
        {"batch_tokens": 0},
        {"cpu_batch_tokens": 0},
        {"min_batch_tokens": 0},
    ],
)
def test_a_policy_that_cannot_be(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Policy(**settings)  # type: ignore[arg-type]


def test_devices_that_say_nothing_of_their_memory() -> None:
    unknown = Device(kind="cuda", index=0, name="GPU", reason="")
    with pytest.raises(ValueError, match="no device whose memory is known"):
        plan([Chat(info=uneven())], [unknown])
    with pytest.raises(ValueError, match="no device whose memory is known"):
        plan([Chat(info=uneven())], [])
    found = plan([Chat(info=uneven())], [unknown, *machine(ram=16)])
    assert found["chat"].decision == "cpu"
    assert found.pools[0].used == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("24GiB", 24 * GIB),
        ("24g", 24 * GIB),
        (" 1.5 GiB ", 3 * GIB // 2),
        ("80GB", 80 * 10**9),
        ("512 MiB", 512 * MIB),
        ("1024", 1024),
        ("1k", 1024),
        ("2TiB", 2**41),
    ],
)
def test_memory_sizes_are_parsed(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1e9", "GiB", "5 PiB", "nan", "0.1", "9" * 400, "2000000TiB"]
)
def test_what_is_not_a_memory_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 24GiB"):
        parse_size(text)


def test_an_imagined_machine() -> None:
    assert [str(device) for device in imagined([GIB, GIB])] == ["cuda:0", "cuda:1", "cpu"]
    assert imagined([40 * GIB])[-1].memory_total == 80 * GIB
    assert imagined([])[0].memory_total == 16 * GIB
    with pytest.raises(ValueError, match="the memory of a device must be positive, not 0 bytes"):
        imagined([0])
