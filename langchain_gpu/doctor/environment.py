"""Facts about software and system, as plain data; judged in `wheels` and `system`."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from langchain_gpu.doctor.ollama import Ollama, read_ollama
from langchain_gpu.hardware.cpu import ROOT, read_meminfo

# Each module comes in several distributions, which overwrite one another.
MODULES = ("faiss", "onnxruntime")
_MOST_ENTRIES = 1000  # of the current folder that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the doctor looks at beside the hardware.

    Attributes:
        wheels: Module -> (distribution -> version) for each of `MODULES`.
        cores_seen: Cores of the machine, whatever of them this process may use.
        load: Processes that want a core, averaged over a minute; None where unknown.
        shared_memory: Bytes of `/dev/shm`, None where there is none.
        swap_used: Bytes of swap in use, None where unknown.
        hub_cache: Where the Hugging Face hub's files are kept.
        hub_free: Bytes free there, None where unknown.
        ollama: A local Ollama, None where none answered or none was asked.
        pickled: Folders here that hold a FAISS store of langchain-community.
    """

    wheels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cores_seen: int | None = None
    load: float | None = None
    shared_memory: int | None = None
    swap_used: int | None = None
    hub_cache: str = ""
    hub_free: int | None = None
    ollama: Ollama | None = None
    pickled: tuple[str, ...] = ()


def read_environment(*, ollama: bool = True, root: Path = ROOT) -> Environment:
    """Look at this machine.

    Args:
        ollama: Ask a local Ollama what it has loaded.
        root: Where `proc` and `dev` lie.
    """
    cache = hub_cache(os.environ)
    return Environment(
        wheels=wheels_of(*MODULES),
        cores_seen=os.cpu_count(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        shared_memory=_size(root / "dev/shm") if sys.platform == "linux" else None,
        swap_used=swap_used(root),
        hub_cache=str(cache),
        hub_free=_free(cache),
        ollama=read_ollama() if ollama else None,
        pickled=find_pickled(Path()),
    )


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Return where the Hugging Face hub keeps its files, by the hub's own rules."""
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{base}/huggingface"
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(cache)).expanduser()


def swap_used(root: Path = ROOT) -> int | None:
    """Return the bytes of swap in use, None where the kernel does not say."""
    found = read_meminfo(root)
    total, free = found.get("SwapTotal"), found.get("SwapFree")
    return None if total is None or free is None else total - free


def find_pickled(folder: Path) -> tuple[str, ...]:
    """Return the folders, `folder` and those directly in it, with a store of langchain-community.

    Such a store is a `NAME.faiss` beside a `NAME.pkl`. Nothing is opened.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            inside = [
                Path(entry.path)
                for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False)
                if entry.is_dir(follow_symlinks=False)
            ]
        for place in (folder, *sorted(inside)):
            with contextlib.suppress(OSError):
                if any(file.with_suffix(".pkl").is_file() for file in place.glob("*.faiss")):
                    found.append(str(place))
    except OSError:
        return ()
    return tuple(found)


def wheels_of(*modules: str) -> dict[str, dict[str, str]]:
    """Return module -> (distribution -> version): what is installed that brings each of them."""
    found: dict[str, dict[str, str]] = {module: {} for module in modules}
    by_module = packages_distributions()  # reads every RECORD: once is enough
    for module in modules:
        for name in sorted(set(by_module.get(module, []))):
            with contextlib.suppress(PackageNotFoundError):  # leftovers of an uninstalled wheel
                found[module][name] = version(name)
    return found


def _free(folder: Path) -> int | None:
    """Return the bytes free where `folder` is, or will be."""
    for place in (folder, *folder.parents):
        if place.exists():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None


def _size(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).total
    except OSError:
        return None


__all__ = [
    "MODULES",
    "Environment",
    "find_pickled",
    "hub_cache",
    "read_environment",
    "swap_used",
    "wheels_of",
]
