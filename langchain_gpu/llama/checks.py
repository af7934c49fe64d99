"""A check of a GGUF file before llama.cpp reads it."""

from __future__ import annotations

from pathlib import Path

from langchain_gpu.llama.errors import ModelLoadError
from langchain_gpu.models.gguf import MAGIC, VERSIONS, read_head
from langchain_gpu.models.info import HeaderError

# llama.cpp's own limit, and what its 32 bits hold.
_MOST_LAYERS, _MOST_TOKENS = 512, 2**31 - 1


def check_gguf(path: Path) -> None:
    """Look at the first bytes, so that the usual mistakes get a better error than llama.cpp's.

    Raises:
        ModelLoadError: There is no such file, or it is no GGUF file of a known version.
    """
    if not path.is_file():
        raise ModelLoadError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != MAGIC:
        raise ModelLoadError(f"{path}: not a GGUF file (it starts with {head[:4]!r})")
    version = int.from_bytes(head[4:], "little")
    if version not in VERSIONS:
        raise ModelLoadError(f"{path}: GGUF version {version} is not known, only {VERSIONS}")
    _check_counts(path)


def _check_counts(path: Path) -> None:
    """Refuse counts at which llama.cpp ends the whole process instead of refusing the file."""
    try:
        facts = read_head(path).facts
    except (HeaderError, OSError):  # llama.cpp has its own words for it
        return
    for name, most in (("block_count", _MOST_LAYERS), ("context_length", _MOST_TOKENS)):
        count = facts.get(f"{facts.get('general.architecture')}.{name}", 1)
        if isinstance(count, int) and not 0 < count <= most:
            raise ModelLoadError(f"{path}: the file is damaged: its {name} is {count:,}")


__all__ = ["check_gguf"]
