"""Compiles and loads what a CPU build of torch lacks to handle tensors of a card."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("guard.cpp")


def missing() -> str:
    """Say why no card can be simulated here; empty where it can."""
    if torch.version.cuda or torch.version.hip:
        return "torch is built for cards: its own guard looks for a driver"
    if shutil.which("g++") is None:
        return "there is no g++ to compile the guard of the simulated card"
    return ""


def compile_guard(folder: Path) -> Path:
    """Compile the guard into `folder`, and return the library."""
    home, library = Path(torch.__file__).parent, folder / "guard.so"
    flags = [f"-I{home / 'include'}", f"-L{home / 'lib'}", "-lc10", f"-Wl,-rpath,{home / 'lib'}"]
    command = ["g++", "-shared", "-fPIC", "-std=c++20", str(_SOURCE), "-o", str(library), *flags]
    subprocess.run(command, check=True, timeout=240)  # noqa: S603
    return library


def load_guard(library: Path) -> None:
    """Register the guard; once per process."""
    ctypes.CDLL(str(library))
