"""The tables of writing text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.marked import NONE, left_out, table

Found = dict[str, Any]
_TIMES = ("ttft", "itl", "tpot", "e2e")


def section(found: Found) -> str:
    """Return the text of one result of `bench_generate.py`."""
    device, versions, threads = found["device"], found["versions"], found["threads"]
    intro = (
        f"Writing text with `{found['model']}` on {device['cores']} cores of {device['name']}; "
        f"xllamacpp {versions['xllamacpp']}, transformers {versions['transformers']}, "
        f"{_dates(found)}. Rounds of fresh questions, {found['tokens']} tokens an answer, "
        f"{threads} thread{'s' * (threads > 1)} for a model; ratios are medians against the first "
        "row of a table with as many chats in the same round, times p50."
    )
    parts = [intro]
    if "llama_cpp" in found:
        parts += ["llama.cpp:", _streams(found["llama_cpp"], _OWN), _cost(found["own_cost"])]
    for each in found["servers"]:
        parts += [f"{each['name']}, `{each['model']}`:", _streams(each["rows"], _SERVED)]
    if "clients" in found:
        parts += _clients(found["clients"])
    if "transformers" in found:
        lines = [["whole answers", "at once", "tokens/s", "ratio"]]
        parts.append(table([*lines, *(_rates(row) for row in found["transformers"])]))
    return "\n\n".join([*parts, *left_out(found["skipped"])])


_OWN = ["at once", "rounds", "tokens/s", "ratio", "TTFT", "ITL", "TPOT", "E2E"]
_SERVED = [*_OWN, "client CPU a token"]


def _dates(found: Found) -> str:
    days = found.get("dates", {})
    older = [f"{part} {day}" for part, day in days.items() if day != found["date"]]
    note = f" ({', '.join(older)})" if older else ""
    return f"{found['date']}{note}"


def _streams(rows: Sequence[Found], head: Sequence[str]) -> str:
    lines = [["streams", *head]]
    for row in rows:
        cells = _rates(row)
        cells.insert(2, str(row["rounds"]))
        cells += [_ms(row["ms"].get(name)) for name in _TIMES]
        if head is _SERVED:
            cells.append(f"{row['cpu_us_per_token']:,.0f} µs")
        lines.append(cells)
    return table(lines)


def _clients(found: Found) -> list[str]:
    intro = (
        f"Clients beside a server without a model, which sends a first piece "
        f"{found['first_ms']:.0f} ms after it was asked and another every "
        f"{found['pace_ms']:.0f} ms:"
    )
    lines = [["streams", "at once", "first piece late by, p50", "p95", "CPU a token"]]
    for row in found["rows"]:
        late = [f"{row['late_ms'][part]:.1f} ms" for part in ("p50", "p95")]
        cost = f"{row['cpu_us_per_token']:,.0f} µs"
        lines.append([row["name"], str(row["concurrency"]), *late, cost])
    return [intro, table(lines)]


def _rates(row: Found) -> list[str]:
    rate, ratio = f"{row['tokens_per_second']:,.1f}", f"{row['ratio']:.2f}"
    return [row["name"], str(row["concurrency"]), rate, ratio]


def _ms(percentiles: Found | None) -> str:
    return NONE if percentiles is None else f"{percentiles['p50']:,.1f} ms"


def _cost(found: Found) -> str:
    rows = "; ".join(
        f"{row['name']} {row['first_us']:,} µs until the first piece and {row['chunk_us']:.0f} µs "
        f"for each further one"
        for row in found["rows"]
    )
    threads, requests = found["threads"], found["requests"]
    return (
        f"CPU time around llama.cpp, its own not counted, LangChain's included: {rows}. A stream "
        f"starts {threads} thread{'s' * (threads != 1)} and sends {requests} requests beside its "
        f"chat."
    )


__all__ = ["section"]
