"""The tables of embedding on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.marked import left_out, number, percent, table

Found = Mapping[str, Any]


def plain_case(found: Found) -> str:
    """Return the table of one case of the GPU's benchmark for a terminal."""
    lines = [
        f"\n{found['model']}: {found['tokens_per_text']} tokens",
        f"{'':34}{'texts':>8}{'docs/s':>10}{'tok/s':>12}{'ratio':>8}{'of peak':>9}",
    ]
    lines += [
        f"{row['name']:34}{row['texts']:>8,}{row['documents_per_second']:>10,.0f}"
        f"{row['tokens_per_second']:>12,}{number(row['ratio'], '.2f'):>7}x"
        f"{percent(row['peak_share']):>9}"
        for row in found["rows"]
    ]
    return "\n".join(lines)


def plain_answers(found: Found) -> str:
    """Return the table of whole answers for a terminal."""
    lines = [
        f"\n{found['model']}: answers of {found['tokens']} tokens",
        f"{'':44}{'at once':>8}{'tok/s':>10}{'ratio':>8}",
    ]
    lines += [
        f"{row['name']:44}{row['concurrency']:>8}{row['tokens_per_second']:>10,.1f}"
        f"{row['ratio']:>7.2f}x"
        for row in found["rows"]
    ]
    return "\n".join(lines)


def section(found: Found) -> str:
    """Return the section of a file that `bench_gpu.py` wrote."""
    device, versions = found["device"], found["versions"]
    intro = (
        f"On {device['name']}; torch {versions['torch']}, sentence-transformers "
        f"{versions['sentence-transformers']}, {found['date']}. Medians of {found['rounds']} "
        "rounds of fresh texts; ratios against HuggingFaceEmbeddings in the same run."
    )
    parts = [intro]
    for case in found["cases"]:
        lines = [["", "documents/s", "tokens/s", "ratio", "of the matrix peak"]]
        for row in case["rows"]:
            cells = [row["name"], f"{row['documents_per_second']:,.0f}"]
            cells += [f"{row['tokens_per_second']:,}", number(row["ratio"], ".1f")]
            lines.append([*cells, percent(row["peak_share"])])
        parts += [f"{case['model']}, {case['tokens_per_text']:.0f} tokens:", table(lines)]
        parts += left_out(case.get("left_out", ()))
    parts += _peaks(found["cases"])
    if (answers := found.get("answers")) is not None:
        lines = [["whole answers", "at once", "tokens/s", "ratio"]]
        lines += [
            [
                row["name"],
                str(row["concurrency"]),
                f"{row['tokens_per_second']:,.1f}",
                number(row["ratio"], ".2f"),
            ]
            for row in answers["rows"]
        ]
        about = f"{answers['model']} with random weights, answers of {answers['tokens']} tokens:"
        parts += [about, table(lines)]
    if (parity := found.get("parity")) is not None:
        least = "; ".join(f"{name} {value:.5f}" for name, value in parity["min_cosine"].items())
        parts.append(f"Least cosine to float32 over {parity['texts']} texts: {least}.")
    return "\n\n".join([*parts, *left_out(found.get("left_out", ()))]) + "\n"


def _peaks(cases: list[Found]) -> list[str]:
    """Say what a row's share is of: what is computed in half precision has another peak."""
    best: dict[str, float] = {}
    used: dict[str, list[str]] = {}
    for case in cases:
        for dtype, rate in case.get("peak_flops", {}).items():
            best[dtype] = max(rate, best.get(dtype, 0))
        for row in case["rows"]:
            names = used.setdefault(row.get("dtype", ""), [])
            names += [row["name"]] * (row["name"] not in names)
    said = "; ".join(
        f"{rate / 1e12:,.0f} TFLOP/s in {dtype} ({', '.join(used.get(dtype, []))})"
        for dtype, rate in best.items()
    )
    return [f"The matrix peak is what torch reached here in a row's dtype: {said}."] if said else []


__all__ = ["plain_answers", "plain_case", "section"]
