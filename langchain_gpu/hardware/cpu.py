"""The processor: its name, its features, and what of it this process may really use.

A container sees every core and all memory of its host and may use only a part: the scheduler's
affinity mask and the cgroup's limits (version 1 and 2) are counted.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_gpu.utils.extras import is_installed

ROOT = Path("/")

# What the kernel or sysctl calls a feature -> our name for it (see `Device.isa`).
_LINUX_FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "sve": "sve",
    "bf16": "bf16",
}
_SYSCTL_FLAGS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_BF16": "bf16",
}
_SYSCTL_NAME = "machdep.cpu.brand_string"


@dataclass(frozen=True, slots=True, kw_only=True)
class CPU:
    """A processor as this process may use it.

    Attributes:
        name: The maker's name.
        isa: Features that matter here; the names stand at `Device.isa`.
        cores: Cores the process may use, at least 1.
        memory_total: Bytes of memory the process may use, None where unknown.
        memory_free: Bytes available without swapping, None where unknown.
    """

    name: str
    isa: tuple[str, ...] = ()
    cores: int = 1
    memory_total: int | None = None
    memory_free: int | None = None


def read_cpu(root: Path = ROOT, *, system: str = sys.platform) -> CPU:
    """Read the processor of this machine.

    Args:
        root: Where `proc` and `sys` lie.
        system: `sys.platform` of the machine; decides where to look.
    """
    if system == "linux":
        name, isa = _parse_cpuinfo(_text(root / "proc/cpuinfo"))
    elif system == "darwin":
        name, isa = parse_sysctl(_ask_sysctl())
    else:  # no features without a third-party library: the plain path is always right
        name, isa = "", ()
    total, free = read_memory(root, system=system)
    return CPU(
        name=name or platform.processor() or f"{platform.machine()} CPU",
        isa=isa,
        cores=count_cores(root),
        memory_total=total,
        memory_free=free,
    )


def count_cores(root: Path = ROOT) -> int:
    """Count the cores the process may use: affinity, then the cgroup's quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for folder in _cgroups(root, "cpu"):
        quota, period = _quota(folder)
        if quota is not None and period:
            cores = min(cores, quota // period)
    return max(cores, 1)


def read_memory(root: Path = ROOT, *, system: str = sys.platform) -> tuple[int | None, int | None]:
    """Return (total, free) bytes of memory the process may use, the cgroup's limits counted.

    Page cache that the kernel gives back on demand counts as free, as in `MemAvailable`.
    """
    if system != "linux":
        return _memory_elsewhere()
    machine = read_meminfo(root)
    totals = [machine["MemTotal"]] if "MemTotal" in machine else []
    frees = [machine["MemAvailable"]] if "MemAvailable" in machine else []
    for folder in _cgroups(root, "memory"):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        if limit is None:
            continue
        totals.append(limit)
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if used is not None:
            frees.append(max(limit - max(used - _reclaimable(folder), 0), 0))
    return min(totals, default=None), min(frees, default=None)


def read_meminfo(root: Path = ROOT) -> dict[str, int]:
    """Return what Linux says of the machine's memory, in bytes; nothing on other systems."""
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * 1024
        for words in lines
        if len(words) > 1 and words[1].isdecimal()
    }


def process_memory() -> int:
    """Return the bytes of memory that this process holds now, 0 where the system does not say.

    Pages of a mapped file count once they were touched.
    """
    pages = _text(Path("/proc/self/statm")).split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def parse_sysctl(text: str) -> tuple[str, tuple[str, ...]]:
    """Read (name, features) out of `name: value` lines of macOS' `sysctl`."""
    values = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    isa = tuple(ours for theirs, ours in _SYSCTL_FLAGS.items() if values.get(theirs) == "1")
    return values.get(_SYSCTL_NAME, ""), isa


def _parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    first: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    # x86 calls the line "flags", Arm "Features"; Arm kernels seldom give a model name.
    flags = set(f"{first.get('flags', '')} {first.get('Features', '')}".split())
    isa = tuple(ours for theirs, ours in _LINUX_FLAGS.items() if theirs in flags)
    return first.get("model name") or first.get("Model", ""), isa


def _ask_sysctl() -> str:
    try:
        # Names this Mac does not know go to stderr; the rest is answered.
        command = ["/usr/sbin/sysctl", _SYSCTL_NAME, *_SYSCTL_FLAGS]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603 (constant words)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout


def _memory_elsewhere() -> tuple[int | None, int | None]:
    if is_installed("psutil"):
        import psutil

        memory: Any = psutil.virtual_memory()
        return int(memory.total), int(memory.available)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None, None


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the cgroup folders, own first and up to the root, that may limit `controller`.

    A limit anywhere on the way up holds. A container often sees its host's path in
    `/proc/self/cgroup` and its own group mounted at the top: paths that are not there are harmless.
    """
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base = mount  # version 2
        elif controller in controllers.split(","):
            base = mount / controllers if (mount / controllers).is_dir() else mount / controller
        else:
            continue
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        for depth in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:depth])


def _quota(folder: Path) -> tuple[int | None, int | None]:
    """Return (quota, period) in microseconds; the quota is None where there is no limit."""
    words = _text(folder / "cpu.max").split()
    if len(words) == 2:  # noqa: PLR2004 ("max 100000" or "150000 100000")
        quota = _as_limit(words[0])
        period = _as_limit(words[1])
    else:
        quota = _number(folder / "cpu.cfs_quota_us")
        period = _number(folder / "cpu.cfs_period_us")
    return quota, period


def _reclaimable(folder: Path) -> int:
    """Bytes of page cache the kernel can drop at once (version 1 prefixes the sum of children)."""
    stat = dict(
        parts
        for line in _text(folder / "memory.stat").splitlines()
        if len(parts := line.split()) == 2  # noqa: PLR2004 (name, value)
    )
    return _as_limit(stat.get("total_inactive_file", stat.get("inactive_file", ""))) or 0


def _number(*paths: Path) -> int | None:
    """Return the first limit found in `paths`, None where there is none."""
    return next((n for path in paths if (n := _as_limit(_text(path).strip())) is not None), None)


def _as_limit(word: str) -> int | None:
    """Return a limit; `max`, `-1`, an empty word and anything unreadable mean there is none."""
    return int(word) if word.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


__all__ = [
    "CPU",
    "ROOT",
    "count_cores",
    "parse_sysctl",
    "process_memory",
    "read_cpu",
    "read_meminfo",
    "read_memory",
]
