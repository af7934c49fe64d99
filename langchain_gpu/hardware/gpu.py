"""A graphics card as its driver describes it, and the filter of `*_VISIBLE_DEVICES`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path("/")
Kind = Literal["cuda", "rocm", "xpu", "mps", "cpu", "remote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """A card, before anybody asked whether torch can use it.

    Attributes:
        name: The maker's name.
        uuid: The name `*_VISIBLE_DEVICES` may use for it, for example `GPU-8932f937-...`.
        capability: Compute capability (`"9.0"`) or architecture (`"gfx1100"`), None where unknown.
        memory_total: Bytes, None where unknown.
        memory_free: Bytes, None where unknown.
        instances: The MIG instances it is cut into; CUDA then sees these and not the card.
    """

    name: str
    uuid: str = ""
    capability: str | None = None
    memory_total: int | None = None
    memory_free: int | None = None
    instances: tuple[GPU, ...] = ()


def visible(gpus: Sequence[GPU], value: str | None) -> tuple[GPU, ...]:
    """Return the cards a runtime shows, in its order, so that position is the device index.

    These are the rules of CUDA, which ROCm follows: indices or unique beginnings of UUIDs; an
    unknown entry ends the list; a repeated one empties it; a set but empty value shows nothing.

    Args:
        gpus: Every card, in the driver's order.
        value: Content of the variable, None where it is not set.
    """
    if value is None:
        return tuple(_at(gpus, (index, 0)) for index in range(len(gpus)))
    shown: dict[tuple[int, int], GPU] = {}
    for word in value.split(","):
        place = _find(word.strip(), gpus)
        if place is None:
            break
        if place in shown:
            return ()
        shown[place] = _at(gpus, place)
    return tuple(shown.values())


def visible_nvidia(gpus: Sequence[GPU], environ: Mapping[str, str]) -> tuple[GPU, ...]:
    """Return the cards as CUDA counts them."""
    return visible(gpus, environ.get("CUDA_VISIBLE_DEVICES"))


def visible_amd(gpus: Sequence[GPU], environ: Mapping[str, str]) -> tuple[GPU, ...]:
    """Return the cards as HIP counts them: its variable chooses among what ROCR's leaves."""
    left = visible(gpus, environ.get("ROCR_VISIBLE_DEVICES"))
    hip = environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))
    return visible(left, hip)


def drm_cards(vendor: int, root: Path = ROOT) -> list[str]:
    """Return the PCI ids (`"8086:56a0"`) of the display cards of `vendor` that Linux knows."""
    found = []
    # `card0-HDMI-A-1` and the like are connectors of a card, not cards.
    for card in sorted((root / "sys/class/drm").glob("card[0-9]*")):
        ids = [_hex(card / "device" / file) for file in ("vendor", "device")]
        if "-" not in card.name and ids[0] == vendor:
            found.append(f"{vendor:04x}:{ids[1] or 0:04x}")
    return found


def _find(word: str, gpus: Sequence[GPU]) -> tuple[int, int] | None:
    """Return (card, MIG instance) that an entry names, None where it names none."""
    if word.startswith("MIG-"):
        instances = ((i, j) for i, gpu in enumerate(gpus) for j in range(len(gpu.instances)))
        return _only(place for place in instances if _named(_at(gpus, place), word))
    if word.startswith("GPU-"):
        return _only((index, 0) for index, gpu in enumerate(gpus) if _named(gpu, word))
    # CUDA reads the number an entry begins with: "1x" is 1, "x" and "-1" are not a card.
    number = re.match(r"\+?(\d+)", word)
    return (int(number[1]), 0) if number and int(number[1]) < len(gpus) else None


def _at(gpus: Sequence[GPU], place: tuple[int, int]) -> GPU:
    """A card cut by MIG shows its first instance only, unless instances are named one by one."""
    gpu = gpus[place[0]]
    return gpu.instances[place[1]] if gpu.instances else gpu


def _named(gpu: GPU, word: str) -> bool:
    return gpu.uuid.lower().startswith(word.lower())


def _only(places: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the single element; an ambiguous beginning of a UUID names no card."""
    found = list(places)
    return found[0] if len(found) == 1 else None


def _hex(path: Path) -> int | None:
    try:
        return int(path.read_text(), 16)
    except (OSError, ValueError):
        return None


__all__ = ["GPU", "ROOT", "Kind", "drm_cards", "visible", "visible_amd", "visible_nvidia"]
