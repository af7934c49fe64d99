"""The planner: components and devices in, a plan out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from langchain_gpu.hardware.devices import Device, list_devices
from langchain_gpu.planner.chat import place_chat
from langchain_gpu.planner.components import Chat, Component, Encoder
from langchain_gpu.planner.encoder import place_encoder, place_index
from langchain_gpu.planner.policy import Policy
from langchain_gpu.planner.pools import Pool, make_pools
from langchain_gpu.planner.terms import ComponentPlan, Plan


def plan(
    components: Sequence[Component],
    devices: Sequence[Device] | None = None,
    policy: Policy | None = None,
    *,
    opened: Collection[str] = (),
) -> Plan:
    """Say what goes where, in bytes, before any memory is touched.

    Components are served one after the other, in the policy's order: a chat model keeps the GPU,
    then the reranker, the embedder and the index. What one takes is gone for the next.

    Args:
        components: What is to be placed, each under a name of its own.
        devices: Where; None for this machine, as free as it is now.
        policy: What must be respected; None for the defaults.
        opened: Devices that this process uses already, so that their own overhead is taken.

    Raises:
        ValueError: Two components of one name, no device, or none that knows its memory.
    """
    names = [each.name for each in components]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"two components are called {', '.join(twice)}: give each its own name")
    policy = policy or Policy()
    pools = make_pools(list_devices() if devices is None else devices, policy.reserve)
    for pool in pools:
        pool.opened = pool.device in opened
    gpus = [pool for pool in pools if pool.kind != "cpu"]
    cpu = next((pool for pool in pools if pool.kind == "cpu"), None)
    placed = []
    for component in sorted(components, key=lambda each: policy.rank(each.role)):
        found = _place(component, gpus, cpu, policy)
        for pool in pools:
            if any(share.device == pool.device for share in found.shares):
                pool.take(found.kept_on(pool.device))
        placed.append(found)
    return Plan(components=tuple(placed), pools=tuple(pool.use() for pool in pools))


def _place(
    component: Component, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> ComponentPlan:
    if isinstance(component, Chat):
        return place_chat(component, gpus, cpu, policy)
    if isinstance(component, Encoder):
        return place_encoder(component, gpus, cpu, policy)
    return place_index(component, gpus, cpu)


__all__ = ["plan"]
