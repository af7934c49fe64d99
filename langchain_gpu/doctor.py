"""What is here and what is missing: devices with reasons, problems with remedies, extras, versions.

`report` gathers it as plain data, ready for JSON; `render` draws it for a terminal.
"""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement  # langchain-core brings it

from langchain_gpu import __version__
from langchain_gpu._extras import install_line, require
from langchain_gpu.hardware.devices import Device, dtype_reason, list_devices, problems
from langchain_gpu.hardware.facts import Facts, read_facts

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_PACKAGE = "langchain-gpu"
# Not required by name, and asked for in every bug report.
_ALSO = ("transformers", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True)
class _Need:
    extra: str  # "" for what the package always needs
    name: str
    fits: bool  # the installed version is one the metadata allows
    allowed: str


def report(facts: Facts | None = None) -> dict[str, Any]:
    """Describe this machine and this installation.

    Args:
        facts: A machine to judge; this one where it is None.

    Returns:
        A dict of plain JSON values with the keys `version`, `python`, `platform`, `devices` (best
        first), `problems` (`what` and `remedy`), `extras` (`installed`, `modules` with their
        versions, the `install` line) and `versions` (of distributions, and of NVIDIA's driver).
    """
    facts = facts or read_facts()
    needs = _needs()
    names = sorted({need.name for need in needs}.union(_ALSO))
    versions = {name: found for name in names if (found := _version(name)) is not None}
    if facts.nvidia.driver is not None:
        versions["NVIDIA driver"] = facts.nvidia.driver
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [_device(device) for device in list_devices(facts)],
        "problems": [
            *({"what": problem.what, "remedy": problem.remedy} for problem in problems(facts)),
            *faiss_problems(packages_distributions().get("faiss", [])),
            *_version_problems(needs),
        ],
        "extras": _extras(needs),
        "versions": versions,
    }


def faiss_problems(distributions: list[str]) -> list[dict[str, str]]:
    """Say that more than one of `distributions` brings the module `faiss`.

    Args:
        distributions: Names of the installed distributions that hold a module `faiss`.
    """
    names = sorted(set(distributions))
    if len(names) < 2:  # noqa: PLR2004 (one is right)
        return []
    what = f"{' and '.join(names)} overwrite one another: each is the module `faiss`"
    remedy = f"pip uninstall -y {' '.join(names)}, then install one: {install_line('faiss')}"
    return [{"what": what, "remedy": remedy}]


def render(report: dict[str, Any]) -> RenderableType:
    """Draw a `report` for a terminal of 80 columns or more.

    Raises:
        ImportError: rich is not installed; the message holds the pip line.
    """
    group: type = require("rich.console", extra="cli").Group
    head = _text((f"{_PACKAGE} {report['version']}", "bold"), f" on Python {report['python']}\n")
    head.append(report["platform"], style="dim")
    drawn: RenderableType = group(
        head,
        _draw_devices(report["devices"], report["problems"]),
        *(_draw_problem(problem) for problem in report["problems"]),
        _draw_extras(report["extras"], report["versions"]),
    )
    return drawn


def _device(device: Device) -> dict[str, Any]:
    return {**asdict(device), "isa": list(device.isa), "dtype_reason": dtype_reason(device)}


def _needs() -> list[_Need]:
    """Read what the installed metadata asks for on this platform."""
    try:
        lines = requires(_PACKAGE) or []
    except PackageNotFoundError:  # a source tree that was never installed
        return []
    found = []
    for line in lines:
        need = Requirement(line)
        named = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        extra = named[1] if named else ""
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            here = _version(need.name)
            fits = here is not None and need.specifier.contains(here, prereleases=True)
            found.append(_Need(extra, need.name, fits, str(need.specifier)))
    return found


def _extras(needs: list[_Need]) -> dict[str, dict[str, Any]]:
    extras: dict[str, dict[str, Any]] = {}
    for extra in dict.fromkeys(need.extra for need in needs if need.extra):
        own = [need for need in needs if need.extra == extra]
        extras[extra] = {
            "installed": all(need.fits for need in own),
            "modules": {need.name: _version(need.name) for need in own},
            "install": install_line(extra),
        }
    return extras


def _version_problems(needs: list[_Need]) -> list[dict[str, str]]:
    return [
        {
            "what": f"{need.name} {found} is installed, and {need.allowed} is needed",
            "remedy": install_line(need.extra) if need.extra else f"pip install {_PACKAGE}",
        }
        for need in needs
        if not need.fits and (found := _version(need.name)) is not None
    ]


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _draw_devices(devices: list[dict[str, Any]], problems: list[dict[str, str]]) -> Table:
    below = {f"{problem['what']}: {problem['remedy']}": problem["what"] for problem in problems}
    table = _table("device", "what it is, and why")
    for place, device in enumerate(devices):
        name = device["kind"] if device["index"] is None else f"{device['kind']}:{device['index']}"
        arch = device["capability"]
        size, free = _gib(device["memory_total"]), _gib(device["memory_free"])
        facts = [
            f"compute capability {arch}" if device["kind"] == "cuda" and arch else arch,
            f"{device['cores']} cores" if device["cores"] else "",
            f"{size} ({free} free)" if size and free else size,
        ]
        about = _text((device["name"], "bold"))
        about.append("".join(f" · {fact}" for fact in facts if fact))
        if device["isa"]:
            about.append(f"\n{' '.join(device['isa'])}", style="dim")
        # Its remedy stands whole in the list of problems.
        about.append(f"\n{below.get(device['reason'], device['reason'])}")
        about.append(f"\n{device['dtype']}: {device['dtype_reason']}", style="dim")
        table.add_row(_text((name, "bold green" if place == 0 else "bold")), about)
    return table


def _draw_problem(problem: dict[str, str]) -> Text:
    # The remedy begins a line of its own: PyTorch's pip lines then fit one line of 80.
    return _text(
        ("! ", "bold yellow"), f"{problem['what']}\n", (f"{problem['remedy']}\n", "bold cyan")
    )


def _draw_extras(extras: dict[str, dict[str, Any]], versions: dict[str, str]) -> Table:
    table = _table("extra", "what is installed of it")
    in_extras = {module for extra in extras.values() for module in extra["modules"]}
    base = [f"{name} {found}" for name, found in versions.items() if name not in in_extras]
    table.add_row(_text(("(base)", "green")), _text(", ".join(base)))
    for name, extra in extras.items():
        has = [f"{module} {found}" for module, found in extra["modules"].items() if found]
        about = _text(", ".join(has))
        if not extra["installed"]:
            about.append(f"{'; ' if has else ''}{extra['install']}", style="cyan")
        table.add_row(_text((name, "green" if extra["installed"] else "dim")), about)
    return table


def _text(*parts: str | tuple[str, str]) -> Text:
    text: Text = require("rich.text", extra="cli").Text.assemble(*parts)
    return text


def _table(*columns: str) -> Table:
    box = require("rich.box", extra="cli").SIMPLE_HEAD
    table: Table = require("rich.table", extra="cli").Table(box=box, padding=(0, 1), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _gib(count: int | None) -> str:
    return "" if count is None else f"{count / 2**30:.1f} GiB"


__all__ = ["faiss_problems", "render", "report"]
