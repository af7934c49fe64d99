"""What `bench_start.py` measured, as a section and as lines of README's summary."""

from __future__ import annotations

from typing import Any

from benchmarks.marked import table

Found = dict[str, Any]


def section(found: Found) -> str:
    """Return the section of a file that `bench_start.py` wrote."""
    device, versions = found["device"], found["versions"]
    models = [found["model"].split("/")[-1], *([found["reranker"]] if found["rerankers"] else [])]
    intro = (
        f"A new process up to its first vector or score, imports included, with "
        f"{' and '.join(f'`{each}`' for each in models)} on {device['cores']} cores of "
        f"{device['name']}; torch {versions['torch']}, sentence-transformers "
        f"{versions['sentence-transformers']}, {found['date']}. Medians of {found['rounds']} "
        "rounds by turns; ratios against the first row of the same kind in the same round."
    )
    lines = [["", "seconds", "ratio", "peak memory"]]
    for row in (*found["embedders"], *found["rerankers"]):
        memory = row["peak_memory"]["bytes"] / 2**20
        lines.append(
            [row["name"], f"{row['seconds']:.1f}", f"{row['ratio']:.2f}", f"{memory:,.0f} MiB"]
        )
    return f"{intro}\n\n{table(lines)}"


def lines(found: Found) -> list[tuple[str, str, float]]:
    """Return what was done, with whom it was held against, and how many times as fast."""
    kinds = (
        ("vector", found["embedders"], "GPUEmbeddings"),
        ("score", found["rerankers"], "GPURerank"),
    )
    return [
        (f"start a process, up to its first {what}", rows[0]["name"], row["ratio"])
        for what, rows, ours in kinds
        for row in rows
        if row["name"] == ours
    ]


__all__ = ["lines", "section"]
