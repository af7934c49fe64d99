"""AMD cards, read from sysfs in the order in which HIP counts them.

The library amdsmi lists cards in another order, so it is asked for the one thing the kernel does
not know: the name on the box.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from langchain_gpu.hardware.gpu import GPU, ROOT, drm_cards
from langchain_gpu.utils.extras import is_installed

_VENDOR = 0x1002


@dataclass(frozen=True, slots=True, kw_only=True)
class Amd:
    """What the amdgpu driver says.

    Attributes:
        gpus: Every card in the order HIP counts, whatever `*_VISIBLE_DEVICES` hides.
        compute: Whether the kernel offers `/dev/kfd`, through which ROCm computes.
        allowed: Whether this user may open `/dev/kfd`.
    """

    gpus: tuple[GPU, ...] = ()
    compute: bool = True
    allowed: bool = True


def read_amd(root: Path = ROOT) -> Amd:
    """Read what is here.

    Args:
        root: Where `sys` and `dev` lie.
    """
    nodes = [_properties(node) for node in _nodes(root)]
    cards = [node for node in nodes if node.get("gfx_target_version")]  # CPUs are nodes too
    if not cards:
        seen = tuple(GPU(name="AMD GPU") for _ in drm_cards(_VENDOR, root))
        return Amd(gpus=seen, compute=not seen)
    names = _market_names()
    kfd = root / "dev/kfd"
    return Amd(
        gpus=tuple(_read_gpu(node, names, root) for node in cards),
        compute=kfd.exists(),
        allowed=os.access(kfd, os.R_OK | os.W_OK),
    )


def _read_gpu(node: dict[str, int], names: dict[str, str], root: Path) -> GPU:
    version = node["gfx_target_version"]  # 90010 is 9.0.10, written gfx90a
    arch = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
    place = node.get("location_id", 0)
    address = (
        f"{node.get('domain', 0):04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"
    )
    card = root / f"sys/class/drm/renderD{node.get('drm_render_minor', 0)}/device"
    total = _number(card / "mem_info_vram_total")
    used = _number(card / "mem_info_vram_used")
    return GPU(
        name=names.get(address) or f"AMD GPU ({arch})",
        uuid=f"GPU-{node.get('unique_id', 0):016x}",
        capability=arch,
        memory_total=total,
        memory_free=None if total is None or used is None else total - used,
    )


def _market_names() -> dict[str, str]:
    """Return PCI address -> name for the cards amdsmi knows; nothing where it is not here."""
    names: dict[str, str] = {}
    if not is_installed("amdsmi"):
        return names
    # A name is never worth a failure: amdsmi raises its own errors, and KeyError or OSError already
    # while it is imported beside a driver of another version. It is left open, as torch uses it.
    with contextlib.suppress(Exception):
        import amdsmi

        amdsmi.amdsmi_init()
        for handle in amdsmi.amdsmi_get_processor_handles():
            address = amdsmi.amdsmi_get_gpu_device_bdf(handle).lower()
            names[address] = amdsmi.amdsmi_get_gpu_asic_info(handle)["market_name"]
    return names


def _nodes(root: Path) -> list[Path]:
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("[0-9]*")
    return sorted(nodes, key=lambda node: int(node.name))


def _properties(node: Path) -> dict[str, int]:
    """Read `name value` lines; a card that this container may not see cannot be read at all."""
    try:
        lines = (line.split() for line in (node / "properties").read_text().splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) > 1}
    except (OSError, ValueError):
        return {}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


__all__ = ["Amd", "read_amd"]
