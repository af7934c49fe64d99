"""The tables of README and docs/speed.md, made from the files in benchmarks/results.

python -m benchmarks.tables     puts them there
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import generate_tables, gpu_tables, search_tables, start_tables
from benchmarks.marked import NONE, left_out, number, percent, table
from benchmarks.summary import summary

ROOT = Path(__file__).parents[1]
_SECTION = re.compile(r"(?<=^## Speed\n\n).*?(?=^`make bench`)", re.MULTILINE | re.DOTALL)
_PAGE = re.compile(r"(?<=^<!-- Made by `python -m benchmarks.tables`. -->\n\n).*", _SECTION.flags)
_CLAIM = re.compile(r"(?<=than `HuggingFaceEmbeddings`:\n  ).*?(?=: \[speed\])")
_PADDING = re.compile(r"(?<=padding added ).*?(?=, which rounds widths)")
Found = dict[str, Any]


def readme_speed(results: Path) -> str:
    """Return the text of README's section on speed: embedding, and the rest in a line each."""
    others = (_records(results, name) for name in ("start", "rerank", "search", "generate"))
    return "\n".join([*_embedding(_whole(results, "embed")), summary(*others)]).rstrip() + "\n"


def claim(results: Path) -> str:
    """Return the least and the most of what `GPUEmbeddings` gained on CPUs, for README's start."""
    gained = []
    for found in _whole(results, "embed-cpu"):
        ratios = _figures(found, "GPUEmbeddings", "ratio")
        amx = any(each.startswith("amx") for each in found["device"]["isa"])
        maker = re.split(r"\W", found["device"]["name"])[0]
        cpu = f"{maker} {'with' if amx else 'without'} AMX"
        gained.append(f"{min(ratios):.1f} to {max(ratios):.1f} times as fast on {cpu}")
    return ", ".join(gained)


def padding(results: Path) -> str:
    """Return the least and the most of what padding added on a CPU, for README's text."""
    texts = []
    for runtime, name in (("torch", "GPUEmbeddings, torch"), ("OpenVINO", "GPUEmbeddings")):
        added = [
            100 * (each - 1)
            for found in _whole(results, "embed-cpu")
            for each in _figures(found, name, "padding")
        ]
        texts.append(f"{min(added):.0f}–{max(added):.0f}% with {runtime}")  # noqa: RUF001
    return ", and ".join(texts)


def _figures(found: Found, name: str, figure: str) -> list[float]:
    """Return a figure of one contestant, for each workload of a record."""
    return [
        row[figure]
        for workload in found["workloads"]
        for row in workload["rows"]
        if row["name"] == name
    ]


def speed_page(results: Path) -> str:
    """Return all tables, for docs/speed.md."""
    sections = ["## Embedding\n", *_embedding(_records(results, "embed"))]
    for name, title, section in (
        ("start", "Starting", start_tables.section),
        ("rerank", "Reranking", rerank),
        ("search", "Search", search_tables.section),
        ("generate", "Writing text", generate_tables.section),
    ):
        found = _records(results, name)
        sections += [f"## {title}\n"] * bool(found) + [f"{section(each)}\n" for each in found]
    return "\n".join(sections)


def _records(results: Path, name: str) -> list[Found]:
    # By the name without its ending: a run with fewer instructions comes after the whole one.
    found = sorted(results.glob(f"{name}-*.json"), key=lambda path: path.stem)
    return [json.loads(path.read_text()) for path in found]


def _whole(results: Path, name: str) -> list[Found]:
    """Return the records of runs that could use all instructions of their machine."""
    return [each for each in _records(results, name) if not each["device"].get("isa_limit")]


def _embedding(found: Sequence[Found]) -> list[str]:
    sections = [
        gpu_tables.section(each) if each["benchmark"] == "embed-gpu" else _cpu(each)
        for each in found
    ]
    if not any(each["benchmark"] == "embed-gpu" for each in found):
        sections.append("On a GPU: not measured yet (`make bench-gpu`).\n")
    return sections


def plain(workload: Found) -> str:
    """Return the table of one workload for a terminal."""
    head = (
        f"\n{workload['name']}: {workload['texts']} texts of {workload['tokens_per_text']} tokens\n"
        f"{'':34}{'docs/s':>9}{'tok/s':>10}{'ratio':>8}{'padding':>9}{'of peak':>9}"
        f"{'min cosine':>12}"
    )
    lines = [
        f"{row['name']:34}{row['documents_per_second']:>9,.0f}{row['tokens_per_second']:>10,}"
        f"{row['ratio']:>7.2f}x{number(row['padding'], '.2f'):>9}"
        f"{percent(row['peak_share']):>9}{row['min_cosine']:>12.5f}"
        for row in workload["rows"]
    ]
    return "\n".join([head, *lines])


def plain_contestants(record: Found) -> str:
    """Return what belongs to a contestant and no workload, for a terminal."""
    lines = [f"\n{'':34}{'query p50':>10}{'p95':>8}{'p99':>8}{'memory':>10}"]
    for each in record["contestants"]:
        spent = each["query_ms"] or {}
        cells = [number(spent.get(name), ".2f") for name in ("p50", "p95", "p99")]
        lines.append(
            f"{each['name']:34}{cells[0]:>10}{cells[1]:>8}{cells[2]:>8}{_memory(each):>10}"
        )
    more = record["import_cpu_seconds"]
    lines.append(
        f"import: {more['base']} s of CPU for the base, {more['more']} s more for the class"
    )
    return "\n".join(lines)


def _cpu(found: Found) -> str:
    """Return the section of a file that `bench_embed.py` wrote."""
    device, versions, workloads = found["device"], found["versions"], found["workloads"]
    kinds = "; ".join(_texts(each) for each in workloads)
    intro = (
        f"`{found['model'].split('/')[-1]}` on {_place(device)}; torch {versions['torch']}, "
        f"sentence-transformers {versions['sentence-transformers']}, {found['date']}. "
        f"{found['rounds']} rounds of fresh texts: {kinds}. Numbers are documents/s as ratios, "
        "medians against the first row in the same round."
    )
    parts = [intro, _ratios(found)]
    if (rates := _rates(found)) is not None:
        parts.append(rates)
    parts += left_out(found.get("skipped", ()))
    if (scaling := found.get("scaling")) is not None:
        few, most = scaling["texts"]
        parts.append(
            f"With {most:,} short texts instead of {few:,}: {scaling['ratio']:.2f} of the "
            f"documents/s; `stream` held {_peaks(scaling['stream_peak_memory'])} at most."
        )
    parts.append(
        f"Importing the class takes {found['import_cpu_seconds']['more']} s of CPU more than "
        "numpy, pydantic and LangChain's base class."
    )
    return "\n\n".join(parts) + "\n"


def _ratios(found: Found) -> str:
    """Return who is how fast, on which texts."""
    workloads = found["workloads"]
    by_name = [{row["name"]: row for row in each["rows"]} for each in workloads]
    measured = any(each["peak_memory"] for each in found["contestants"])
    head = ["", *(each["name"] for each in workloads), "least cosine to float32", "a query, p50"]
    lines = [head + ["peak memory"] * measured]
    for each in found["contestants"]:
        rows = [rows[each["name"]] for rows in by_name]
        least = min(row["min_cosine"] for row in rows)
        query = (each["query_ms"] or {}).get("p50")
        cells = [each["name"], *(f"{row['ratio']:.2f}" for row in rows), f"{least:.4f}"]
        cells += [NONE if query is None else f"{query} ms"]
        lines.append(cells + [_memory(each)] * measured)
    return table(lines)


def _rates(found: Found) -> str | None:
    """Return what our default came to on each workload, in figures."""
    lines = [["`GPUEmbeddings`", "documents/s", "tokens/s", "padding", "of the matrix peak"]]
    for each in found["workloads"]:
        row = next((row for row in each["rows"] if row["name"] == "GPUEmbeddings"), None)
        if row is None or row.get("tokens_per_second") is None:
            return None
        cells = [each["name"], f"{row['documents_per_second']:,.0f}"]
        cells += [f"{row['tokens_per_second']:,}", number(row["padding"], ".2f")]
        lines.append([*cells, percent(row["peak_share"])])
    return table(lines)


def rerank(found: Found) -> str:
    """Return the section of a file that `bench_rerank.py` wrote."""
    versions, quality = found["versions"], found.get("quality")
    intro = (
        f"Reranking with `{found['model']}` on {_place(found['device'])}; torch "
        f"{versions['torch']}, sentence-transformers {versions['sentence-transformers']}, "
        f"{found['date']}. {found['rounds']} rounds of fresh pairs, {found['queries']} queries "
        f"with {found['documents']} documents each, {found['tokens_per_pair']:.0f} tokens a pair; "
        "ratios are medians against the first row in the same round. A query with 100 documents: "
        f"{found['calls']} calls."
    )
    texts = [intro]
    head = ["", "pairs/s", "ratio", "rank agreement", "1 x 100, p50", "p95", "p99"]
    lines = [head + ["nDCG@10"] * (quality is not None)]
    spent = {row["name"]: row for row in found["latency_ms"]}
    gained = {row["name"]: row["ndcg10"] for row in quality["rows"]} if quality else {}
    for row in found["throughput"]:
        cells = [row["name"], f"{row['pairs_per_second']:,.0f}", f"{row['ratio']:.2f}"]
        cells.append(f"{row['spearman']:.4f}")
        times = spent.get(row["name"], {})
        cells += [
            NONE if name not in times else f"{times[name]:,.1f} ms"
            for name in ("p50", "p95", "p99")
        ]
        lines.append(cells + [number(gained.get(row["name"]), ".3f")] * (quality is not None))
    texts.append(table(lines))
    if quality is not None:
        texts.append(
            f"nDCG@10 on {quality['data']}, {quality['queries']} queries, the "
            f"{quality['candidates']} nearest by {quality['retriever']}: {quality['before']:.3f} "
            f"before reranking."
        )
    return "\n\n".join([*texts, *left_out(found["skipped"])])


def _place(device: Found) -> str:
    if device["kind"] != "cpu":
        return str(device["name"])
    limit = device.get("isa_limit")
    kept = f", of which no more than {limit} may be used" if limit else ""
    return f"{device['cores']} cores of {device['name']} ({', '.join(device['isa'])}{kept})"


def _texts(workload: Found) -> str:
    size = (
        f"{workload['words_per_text']} words"
        if workload.get("tokens_per_text") is None
        else f"{workload['tokens_per_text']:.0f} tokens"
    )
    return f"{workload['name']}, {workload['texts']} of {size}"


def _memory(contestant: Found) -> str:
    taken = contestant["peak_memory"] or {}
    most = taken.get("device_bytes", taken.get("bytes"))
    return NONE if most is None else f"{most / 2**20:,.0f} MiB"


def _peaks(taken: Sequence[Found]) -> str:
    return " and ".join(_memory({"peak_memory": each}) for each in taken)


def main() -> None:
    """Write the section into README.md, and all of it into docs/speed.md."""
    results = ROOT / "benchmarks" / "results"
    _write(ROOT / "README.md", _SECTION, readme_speed(results) + "\n")
    _write(ROOT / "README.md", _CLAIM, claim(results))
    _write(ROOT / "README.md", _PADDING, padding(results))
    _write(ROOT / "docs" / "speed.md", _PAGE, speed_page(results))


def _write(page: Path, section: re.Pattern[str], text: str) -> None:
    page.write_text(section.sub(lambda _: text, page.read_text()))


if __name__ == "__main__":
    main()
