"""How much of the CPU is idle now."""

from __future__ import annotations

import os
import time
from pathlib import Path

_LOOK_SECONDS = 0.1


def free_cores(cores: int) -> int:
    """Return how many of this process's `cores` nobody else works on just now, at least 1.

    Where the system does not say (only Linux does), all of them.
    """
    before = _ticks()
    time.sleep(_LOOK_SECONDS)
    after = _ticks()
    if before is None or after is None or after[1] == before[1]:
        return cores
    idle = (after[0] - before[0]) / (after[1] - before[1]) * (os.cpu_count() or 1)
    return max(1, min(cores, round(idle)))


def _ticks() -> tuple[int, int] | None:
    """Idle and total time of all CPUs together, in the kernel's ticks."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(ticks[3:5]), sum(ticks)  # idle and waiting for the disk


__all__ = ["free_cores"]
