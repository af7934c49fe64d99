"""Memory pools: of the devices of this machine, or of an imagined one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langchain_gpu.hardware.devices import Device
from langchain_gpu.planner.terms import GIB, KIB, MIB, PoolUse, Share, Term

_UNITS = {"b": 1, "k": KIB, "m": MIB, "g": GIB, "t": 2**40}
_DECIMAL = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
# A process that opens a GPU loads its kernels there before it has computed anything. What drivers
# and libraries take differs by card and version; not measured here.
CONTEXT_BYTES = {"cuda": 512 * MIB, "rocm": 512 * MIB, "xpu": 256 * MIB, "mps": 0, "cpu": 0}
# Metal recommends three quarters of a chip's memory at most.
_METAL_SHARE = 0.75
# llama.cpp leaves the same to the system and to other programs when it fits a model by itself.
_SYSTEM_BYTES = GIB
# Of a GPU's memory; of what is free where others have taken most of it, at most a quarter.
_GPU_RESERVE = 0.05
_MOST_RESERVED = 4
_MOST = 2**60


@dataclass(slots=True)
class Pool:
    """The memory of one device while a plan is made.

    Attributes:
        device: Short name.
        kind: The kind of device.
        name: The maker's name.
        dtype: What `dtype="auto"` computes in there.
        total: Bytes, None where unknown.
        free: Bytes free now, None where unknown: nothing is then planned there.
        reserve: Bytes to leave alone.
        isa: Features of a CPU, as `Device.isa` names them.
        used: Bytes given away so far.
        opened: Whether a component counted the device's own overhead already.
        partner: Another name for the same memory (a chip's GPU and its CPU), or None.
    """

    device: str
    kind: str
    name: str
    dtype: str
    total: int | None
    free: int | None
    reserve: int
    isa: tuple[str, ...] = ()
    used: int = 0
    opened: bool = False
    partner: Pool | None = None

    @property
    def left(self) -> int:
        """Bytes that may still be assigned."""
        if self.free is None:
            return 0
        shared = 0 if self.partner is None else self.partner.used
        return max(0, self.free - self.reserve - self.used - shared)

    def left_beside(self, shares: Iterable[Share]) -> int:
        """Return the bytes left once `shares` of the same memory's other name are given away."""
        if self.partner is None:
            return self.left
        beside = sum(share.kept for share in shares if share.device == self.partner.device)
        return max(0, self.left - beside)

    @property
    def overhead(self) -> tuple[Term, ...]:
        """What the device takes for itself when it is first used: one term, or none."""
        count = 0 if self.opened else CONTEXT_BYTES.get(self.kind, 0)
        return (Term("overhead", count, "the device's own context"),) if count else ()

    def take(self, count: int) -> None:
        """Assign bytes."""
        self.used += count
        self.opened = True

    def use(self) -> PoolUse:
        """Return how much of it the plan uses."""
        return PoolUse(
            device=self.device,
            name=self.name,
            total=self.total,
            free=self.free,
            reserve=self.reserve,
            used=self.used,
        )


def make_pools(devices: Sequence[Device], reserve: int | None = None) -> list[Pool]:
    """Make a pool of every device that computes here, GPUs first, the CPU last.

    Args:
        devices: As `hardware.devices.list_devices` gives them.
        reserve: Bytes to leave alone on every GPU; None for 5% of its memory, or a
            quarter of what is free if that is less.

    Raises:
        ValueError: There is no device, or none that knows its memory, or a negative reserve.
    """
    if reserve is not None and reserve < 0:
        raise ValueError(f"reserve={reserve} bytes must not be negative")
    pools = [_pool(device, reserve) for device in devices if device.kind != "remote"]
    if not pools or all(pool.free is None for pool in pools):
        raise ValueError("there is no device whose memory is known: nothing can be planned")
    pools.sort(key=lambda pool: pool.kind == "cpu")
    last = pools[-1]
    for pool in pools[:-1]:
        if pool.kind == "mps" and last.kind == "cpu":
            pool.partner, last.partner = last, pool
    return pools


def most_left(pools: Iterable[Pool]) -> int:
    """Return the bytes left on all pools together; memory with two names counts once."""
    found, seen = 0, set()
    for pool in sorted(pools, key=lambda each: -each.left):
        if pool.partner is None or pool.partner.device not in seen:
            found += pool.left
        seen.add(pool.device)
    return found


def imagined(gpus: Sequence[int], ram: int | None = None) -> list[Device]:
    """Return the devices of an imagined machine, by the sizes of its memories.

    Args:
        gpus: Bytes of every GPU; all of it counts as free.
        ram: Bytes of the CPU's memory; None for twice that of the GPUs, and 16 GiB at least.

    Raises:
        ValueError: A size that is not positive.
    """
    for count in (*gpus, *(() if ram is None else (ram,))):
        if count <= 0:
            raise ValueError(f"the memory of a device must be positive, not {count} bytes")
    if ram is None:
        ram = max(2 * sum(gpus), 16 * GIB)
    reason = "imagined, to see what would fit"
    cards = [
        Device(
            kind="cuda",
            index=index,
            name=f"GPU with {count / GIB:.0f} GiB",
            reason=reason,
            memory_total=count,
            memory_free=count,
            dtype="bfloat16",
        )
        for index, count in enumerate(gpus)
    ]
    cpu = Device(
        kind="cpu", name="CPU", reason=reason, memory_total=ram, memory_free=ram, isa=("avx2",)
    )
    return [*cards, cpu]


def parse_size(text: str) -> int:
    """Read `"24GiB"`, `"24G"`, `"80GB"`, `"512 MiB"` or plain bytes.

    One letter and the `i` forms are powers of 1,024; `KB`, `MB`, `GB`, `TB` powers of 1,000.

    Raises:
        ValueError: It is none of these, not positive, or more than 1,048,576 TiB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    unit = match[2].lower() if match else ""
    factor = _DECIMAL.get(unit) or _UNITS.get(unit.removesuffix("ib") or "b")
    if match is None or factor is None or not float(match[1]):
        raise ValueError(f"{text!r} is not a memory size; write 24GiB, 512MiB or 80GB")
    if float(match[1]) * factor > _MOST:
        raise ValueError(f"{text!r} is more memory than any machine has; write 24GiB or 80GB")
    count = int(float(match[1]) * factor)
    if not count:
        raise ValueError(f"{text!r} is less than a byte; write 24GiB, 512MiB or 80GB")
    return count


def _pool(device: Device, reserve: int | None) -> Pool:
    total, free = device.memory_total, device.memory_free
    if device.kind == "cpu":
        kept = min(_SYSTEM_BYTES, (total or 0) // 8)
    else:
        usual = int((total or 0) * _GPU_RESERVE)
        if free is not None:
            usual = min(usual, free // _MOST_RESERVED)
        kept = usual if reserve is None else reserve
    if device.kind == "mps" and total is not None and free is not None:
        free = min(free, int(total * _METAL_SHARE))
    return Pool(
        str(device), device.kind, device.name, device.dtype, total, free, kept, isa=device.isa
    )


__all__ = ["CONTEXT_BYTES", "Pool", "imagined", "make_pools", "most_left", "parse_size"]
