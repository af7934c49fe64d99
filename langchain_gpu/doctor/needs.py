"""Requirements in the installed metadata, and which of them are installed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement  # langchain-core brings it

from langchain_gpu.hardware.traps import Problem, advise
from langchain_gpu.utils.extras import install_line

PACKAGE = "langchain-gpu"
# Not required by name, and asked for in every bug report.
_ALSO = ("transformers", "tokenizers", "safetensors")
# What runs models in this process; OpenVINO and ONNX Runtime convert those of torch.
_ENGINES = ("torch", "xllamacpp")
# Extras through which hardware is used; "" is what the package always needs.
_COMPUTE = re.compile(r"|local|faiss.*|llama-cpp|onnx.*|openvino.*")


@dataclass(frozen=True, slots=True)
class Need:
    """One line of the metadata that holds on this platform.

    Attributes:
        extra: "" for what the package always needs.
        name: Of the distribution.
        found: Its installed version, None where it is not here.
        fits: Whether that is one the metadata allows.
        allowed: The versions that are.
    """

    extra: str
    name: str
    found: str | None
    fits: bool
    allowed: str


def read_needs() -> list[Need]:
    """Read what the installed metadata asks for on this platform."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:  # a source tree that was never installed
        return []
    needs = []
    for line in lines:
        need = Requirement(line)
        named = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        extra = named[1] if named else ""
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            here = find_version(need.name)
            fits = here is not None and need.specifier.contains(here, prereleases=True)
            needs.append(Need(extra, need.name, here, fits, str(need.specifier)))
    return needs


def extras_of(needs: list[Need]) -> dict[str, dict[str, Any]]:
    """Return extra -> `installed`, `modules` with their versions, and the `install` line."""
    extras: dict[str, dict[str, Any]] = {}
    for extra in dict.fromkeys(need.extra for need in needs if need.extra):
        own = [need for need in needs if need.extra == extra]
        extras[extra] = {
            "installed": all(need.fits for need in own),
            "modules": {need.name: need.found for need in own},
            "install": install_line(extra),
        }
    return extras


def versions_of(needs: list[Need]) -> dict[str, str]:
    """Return the versions of what is needed and of what a bug report wants to know."""
    names = sorted({need.name for need in needs}.union(_ALSO))
    return {name: found for name in names if (found := find_version(name)) is not None}


def version_problems(needs: list[Need]) -> list[Problem]:
    """Tell what is installed in a version that the metadata does not allow."""
    found: dict[str, Problem] = {}
    for need in needs:
        if need.fits or need.found is None or need.name in found:
            continue
        found[need.name] = Problem(
            "cpu",
            f"{need.name} {need.found} is installed, and {need.allowed} is needed",
            install_line(need.extra) if need.extra else f"pip install {PACKAGE}",
            severity="problem" if _COMPUTE.fullmatch(need.extra) else "advice",
        )
    return list(found.values())


def engine_advice(needs: list[Need]) -> list[Problem]:
    """Tell what to install on a CPU where nothing is installed that runs a model."""
    engines = [need for need in needs if need.name in _ENGINES]
    if not engines or any(need.found is not None for need in engines):
        return []
    what = (
        "no model can run here yet, only behind a server: neither torch nor llama.cpp (the extra "
        "llama-cpp, for GGUF files) is installed"
    )
    return [advise("cpu", what, install_line("local,openvino,faiss"))]


def find_version(distribution: str) -> str | None:
    """Return an installed version, None where it is not here."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


__all__ = [
    "PACKAGE",
    "Need",
    "engine_advice",
    "extras_of",
    "find_version",
    "read_needs",
    "version_problems",
    "versions_of",
]
