"""A plan for a terminal of 80 columns: its arithmetic, and a bar per device."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from langchain_gpu.planner import ComponentPlan, Plan, PoolUse, size

_BAR = 32
_COLORS = ("cyan", "magenta", "green", "blue", "yellow")
_STYLES = {
    "whole": "bold green",
    "spread": "bold green",
    "partial": "bold yellow",
    "cpu": "bold yellow",
    "refused": "bold red",
}


def draw(plan: Plan, result: dict[str, Any]) -> RenderableType:
    """Draw a plan, and what was measured or compared beside it.

    Args:
        plan: The plan.
        result: Its JSON form, with `quantizations` and `verify` where they were asked for.
    """
    parts: list[RenderableType] = []
    for each in plan.components:
        parts += [_head(each), *([_arithmetic(each)] if each.shares else [])]
        parts += [Padding(Text(f"try: {line}", "cyan"), (0, 0, 0, 2)) for line in each.suggestions]
        parts.append(Text(""))
    parts += [_bar(pool, plan) for pool in plan.pools]
    if "quantizations" in result:
        parts += [Text(""), _quantizations(result["quantizations"])]
    for measured in result.get("verify", {}).get("components", ()):
        parts += [Text(""), _measured(measured)]
    return Group(*parts)


def _head(each: ComponentPlan) -> RenderableType:
    head = Text.assemble(
        (each.name, "bold"), f"  {each.role}  ", (each.decision, _STYLES[each.decision])
    )
    facts = [
        f"context {each.context:,} tokens" if each.context else "",
        f"n_gpu_layers {each.n_gpu_layers}" if each.n_gpu_layers is not None else "",
        f"batches of {each.max_batch_tokens:,} tokens" if each.max_batch_tokens else "",
    ]
    said = ", ".join(fact for fact in facts if fact)
    below = Text(each.reason)
    if said:
        below.append(f"\n{said}", "dim")
    return Group(head, Padding(below, (0, 0, 0, 2)))


def _arithmetic(each: ComponentPlan) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=True, show_header=False)
    table.add_column("device", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("formula", style="dim", overflow="fold")
    for share in each.shares:
        name = share.device
        for term in share.terms:
            table.add_row(name, term.what.replace("_", " "), size(term.bytes), term.formula)
            name = ""
    return table


def _bar(pool: PoolUse, plan: Plan) -> Text:
    """One line: what each component takes, what is reserved, what stays free."""
    total = pool.total or pool.free or 0
    text = Text.assemble((f"{pool.device:8}", "bold"))
    if not total:
        return text.append("its memory is not known", "dim")
    taken = (pool.total or 0) - (pool.free or 0) if pool.free is not None else 0
    pieces = [("others", taken, "white")]
    for place, each in enumerate(plan.components):
        pieces.append((each.name, each.kept_on(pool.device), _COLORS[place % len(_COLORS)]))
    drawn = 0
    for name, count, color in pieces:
        width = round(_BAR * count / total)
        width = max(1, width) if count and name != "others" else width
        width = min(width, _BAR - drawn)
        text.append(("▒" if name == "others" else "█") * width, color)
        drawn += width
    text.append("░" * (_BAR - drawn), "dim")
    text.append(f" {size(pool.used)} of {size(total)}")
    if taken:
        text.append(f" ({size(taken)} in use)", "dim")
    return text


def _quantizations(found: list[dict[str, Any]]) -> Table:
    table = Table("quantization", "weights", "would be", box=SIMPLE_HEAD, padding=(0, 1))
    for each in found:
        name = f"{each['name']} (estimated)" if each["estimated"] else each["name"]
        style = _STYLES[each["decision"]]
        table.add_row(name, size(each["weights_bytes"]), Text(each["decision"], style))
    return table


def _measured(found: dict[str, Any]) -> Table:
    table = Table(
        f"{found['name']}, loaded", "predicted", "measured", "off", box=SIMPLE_HEAD, padding=(0, 1)
    )
    for line in found["lines"]:
        predicted, measured = line["predicted_bytes"], line["measured_bytes"]
        off = f"{(predicted - measured) / measured:+.1%}" if measured else ""
        table.add_row(line["what"].replace("_", " "), size(predicted), size(measured), off)
    if found.get("rss_bytes"):
        table.add_row("RSS grew by (not judged)", "", size(found["rss_bytes"]), "")
    return table
