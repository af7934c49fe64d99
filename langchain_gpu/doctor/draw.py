"""A report for a terminal of 80 columns or more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_gpu.doctor.figures import (
    device_facts,
    device_name,
    proof_place,
    proof_result,
    verdict,
)
from langchain_gpu.doctor.needs import PACKAGE
from langchain_gpu.utils.extras import require

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


def render(report: dict[str, Any]) -> RenderableType:
    """Draw a `report` for a terminal of 80 columns or more.

    Raises:
        ImportError: rich is not installed; the message holds the pip line.
    """
    group: type = require("rich.console", extra="cli").Group
    head = _text((f"{PACKAGE} {report['version']}", "bold"), f" on Python {report['python']}\n")
    head.append(report["platform"], style="dim")
    problems = report["problems"]
    bad = [problem for problem in problems if problem["severity"] == "problem"]
    advice = [problem for problem in problems if problem["severity"] == "advice"]
    parts: list[RenderableType] = [head, _draw_devices(report["devices"], problems)]
    if report["proofs"]:
        parts.append(_draw_proofs(report["proofs"]))
    parts.append(_draw_extras(report["extras"], report["versions"]))
    parts += [_draw_problem(problem, "problem", "bold red") for problem in bad]
    parts += [_draw_problem(problem, "advice", "bold yellow") for problem in advice]
    parts.append(_text((verdict(problems), "bold red" if bad else "bold green")))
    drawn: RenderableType = group(*parts)
    return drawn


def _draw_devices(devices: list[dict[str, Any]], problems: list[dict[str, str]]) -> Table:
    below = {f"{problem['what']}: {problem['remedy']}": problem["what"] for problem in problems}
    table = _table("device", "what it is, and why")
    for place, device in enumerate(devices):
        about = _text((device["name"], "bold"))
        about.append("".join(f" · {fact}" for fact in device_facts(device)))
        if device["isa"]:
            about.append(f"\n{' '.join(device['isa'])}", style="dim")
        # Its remedy stands whole in the list of problems.
        about.append(f"\n{below.get(device['reason'], device['reason'])}")
        about.append(f"\n{device['dtype']}: {device['dtype_reason']}", style="dim")
        for note in device["notes"]:
            about.append(f"\n{note}", style="dim")
        name = _text((device_name(device), "bold green" if place == 0 else "bold"))
        table.add_row(name, about)
    return table


def _draw_proofs(proofs: list[dict[str, Any]]) -> Table:
    table = _table("proof", "result", "time")
    table.columns[0].no_wrap = True
    table.columns[2].no_wrap = True
    table.columns[2].justify = "right"
    for proof in proofs:
        style = "green" if proof["passed"] else "bold red"
        result = _text(("" if proof["passed"] else "failed: ", style), proof_result(proof))
        table.add_row(_text((proof_place(proof), style)), result, f"{proof['seconds']:.1f} s")
    return table


def _draw_problem(problem: dict[str, str], word: str, style: str) -> Text:
    # The remedy begins a line of its own: PyTorch's pip lines then fit one line of 80.
    remedy = (f"{problem['remedy']}\n", "bold cyan")
    return _text((f"{word}: ", style), f"{problem['what']}\n", remedy)


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


__all__ = ["render"]
