"""What holds of every plan, whatever is planned on whatever machine."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from langchain_gpu.hardware.devices import Device
from langchain_gpu.models.info import ModelInfo
from langchain_gpu.planner import Chat, Component, Encoder, Index, Plan, Policy, plan
from langchain_gpu.planner.policy import ROLES
from langchain_gpu.planner.pools import CONTEXT_BYTES
from langchain_gpu.planner.terms import Share
from tests.unit_tests.planned_models import MIB, uneven

RANK = ("whole", "spread", "partial", "cpu", "refused")

infos = st.builds(
    uneven,
    layers=st.integers(1, 9),
    gguf=st.booleans(),
    tied=st.booleans(),
    base=st.sampled_from([MIB // 2, 20 * MIB, 200 * MIB]),
    keys=st.sampled_from([0, 64, 2048]),
    kind=st.sampled_from(["BF16", "Q4_K"]),
)
chats = st.builds(
    Chat,
    info=infos,
    context=st.none() | st.integers(1, 20_000),
    sequences=st.integers(1, 3),
)


def encoder_of(info: ModelInfo) -> ModelInfo:
    return replace(info, role="encoder", caches=())


encoders = st.builds(
    Encoder,
    info=infos.map(encoder_of),
    role=st.sampled_from(["embedder", "reranker"]),
    max_batch_tokens=st.none() | st.integers(1, 40_000),
    max_length=st.integers(1, 9000),
)
indexes = st.builds(
    Index,
    kind=st.just("flat"),
    rows=st.just(1000),
    dimension=st.just(8),
    bytes=st.integers(1, 3000 * MIB),
    temporary=st.sampled_from([0, 256 * MIB]),
)
# A chip's GPU and its CPU share their memory: there is one of each then.
amounts = st.integers(0, 4096).map(lambda count: count * MIB)


@st.composite
def machines(draw: st.DrawFn) -> list[Device]:
    cpu = Device(
        kind="cpu",
        name="CPU",
        reason="",
        memory_total=8192 * MIB,
        memory_free=draw(amounts),
        isa=draw(st.sampled_from([(), ("avx2",)])),
    )
    if draw(st.integers(0, 4)) == 0:
        gpu = replace(cpu, kind="mps", isa=(), dtype="float16")
        return [gpu, cpu]
    gpus = [
        Device(
            kind=draw(st.sampled_from(["cuda", "rocm", "xpu"])),
            index=index,
            name="GPU",
            reason="",
            memory_total=4096 * MIB,
            memory_free=free,
            dtype="bfloat16",
        )
        for index, free in enumerate(draw(st.lists(amounts, max_size=3)))
    ]
    return [*gpus, cpu]


@st.composite
def rooms(draw: st.DrawFn) -> tuple[list[Component], list[Device], Policy]:
    some = draw(st.lists(chats | encoders | indexes, min_size=1, max_size=4))
    named = [replace(each, name=f"{each.role} {number}") for number, each in enumerate(some)]
    policy = Policy(
        order=tuple(draw(st.permutations(ROLES))),
        reserve=draw(st.none() | amounts),
        partial=draw(st.booleans()),
    )
    return named, draw(machines()), policy


def weights_of(shares: tuple[Share, ...]) -> int:
    return sum(
        term.bytes
        for share in shares
        for term in share.terms
        if term.what == "weights" and not term.formula.startswith("copies")
    )


def summed(found: Plan) -> dict[str, int]:
    return {
        pool.device: sum(each.kept_on(pool.device) for each in found.components)
        for pool in found.pools
    }


@given(rooms())
def test_no_memory_is_given_away_twice(room: tuple[list[Component], list[Device], Policy]) -> None:
    components, devices, policy = room
    if all(device.memory_free is None for device in devices):
        return
    found = plan(components, devices, policy)
    assert summed(found) == {pool.device: pool.used for pool in found.pools}
    for pool in found.pools:
        assert pool.free is not None
        assert pool.used == 0 or pool.used <= pool.free - pool.reserve
    if any(device.kind == "mps" for device in devices):
        assert sum(pool.used for pool in found.pools) <= max(pool.free or 0 for pool in found.pools)
    assert plan(components, devices, policy) == found  # the same twice


@given(rooms())
def test_every_layer_lies_in_one_place(
    room: tuple[list[Component], list[Device], Policy],
) -> None:
    components, devices, policy = room
    found = plan(components, devices, policy)
    opened: dict[str, int] = {}
    for component in components:
        each = found[component.name]
        for share in each.shares:
            own = sum(term.bytes for term in share.terms if "own context" in term.formula)
            opened[share.device] = opened.get(share.device, 0) + own
            assert all(term.bytes >= 0 for term in share.terms)
        if each.decision == "refused":
            assert not each.shares
            assert "missing" in each.reason or "cannot be split" in each.reason
            assert "-" not in each.reason.split("missing")[0].rsplit(":", 1)[-1]
            continue
        assert len({share.device for share in each.shares}) == len(each.shares)
        if isinstance(component, Index):
            assert each.on("cpu") == component.bytes
            continue
        assert sum(share.layers or 0 for share in each.shares) == component.info.layers
        if isinstance(component, Chat):
            table = component.info.embedding.bytes if component.info.tied else 0
            twice = table if len(each.shares) > 1 else 0
            assert weights_of(each.shares) in {
                component.info.weight_bytes,
                component.info.weight_bytes + twice,
            }
        if not policy.partial:
            assert each.decision != "partial"
        assert (each.decision == "cpu") == ({share.device for share in each.shares} == {"cpu"})
    kinds = {str(device): device.kind for device in devices}
    for device, count in opened.items():
        assert count in {0, CONTEXT_BYTES[kinds[device]]}  # once, whoever came first


@given(chats | encoders | indexes, machines(), st.lists(amounts, min_size=4, max_size=4))
def test_more_memory_is_never_worse(
    component: Component, devices: list[Device], more: list[int]
) -> None:
    policy = Policy(reserve=0)
    before = plan([component], devices, policy)[component.name]
    larger = [
        replace(device, memory_free=(device.memory_free or 0) + count)
        for device, count in zip(devices, more, strict=False)
    ]
    if any(device.kind == "mps" for device in devices):
        larger = [replace(device, memory_free=larger[0].memory_free) for device in devices]
    after = plan([component], larger, policy)[component.name]
    assert RANK.index(after.decision) <= RANK.index(before.decision)
    if after.decision == before.decision and component.role == "chat":
        assert (after.context or 0) >= (before.context or 0)
        assert (after.n_gpu_layers or 0) >= (before.n_gpu_layers or 0)
