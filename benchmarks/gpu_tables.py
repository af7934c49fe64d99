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


def plain_pairs(found: Found) -> str:
    """Return the table of reranking for a terminal."""
    lines = [
        f"\n{found['model']}: pairs of {found['tokens_per_pair']} tokens",
        f"{'':34}{'pairs/s':>10}{'ratio':>8}{'1 x 100, p50':>14}",
    ]
    late = {row["name"]: row["p50"] for row in found["latency_ms"]}
    lines += [
        f"{row['name']:34}{row['pairs_per_second']:>10,.0f}{row['ratio']:>7.2f}x"
        f"{late[row['name']]:>11,.1f} ms"
        for row in found["throughput"]
    ]
    return "\n".join(lines)


def plain_search(found: Found) -> str:
    """Return the table of searching for a terminal."""
    lines = [
        f"\nexact search, {found['vectors']:,} vectors of {found['dimension']} numbers",
        f"{'':34}{found['batch']:>7} at once{'ratio':>8}{'1 query':>12}{'of bandwidth':>14}",
    ]
    lines += [
        f"{row['name']:34}{row['batch_ms']:>12,.1f} ms{row['batch_ratio']:>7.2f}x"
        f"{row['single_us']:>9,.0f} µs{percent(row['bandwidth_share']):>14}"
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
    for name, said in _OTHERS.items():
        if (other := found.get(name)) is not None:
            parts += said(other)
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


def _pairs(found: Found) -> list[str]:
    late = {row["name"]: row for row in found["latency_ms"]}
    lines = [["pairs", "pairs/s", "ratio", "rank agreement", "1 x 100, p50", "p95"]]
    lines += [
        [
            row["name"],
            f"{row['pairs_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['spearman']:.4f}",
            *(f"{late[row['name']][part]:,.1f} ms" for part in ("p50", "p95")),
        ]
        for row in found["throughput"]
    ]
    about = (
        f"MiniLM with a random head, {found['queries']} queries of {found['documents']} documents, "
        f"{found['tokens_per_pair']:.0f} tokens a pair; ratios against CrossEncoder:"
    )
    return [about, table(lines), *left_out(found["left_out"])]


def _search(found: Found) -> list[str]:
    at_once = f"{found['batch']:,} queries"
    lines = [["exact search", at_once, "ratio", "1 query", "ratio", "of the bandwidth"]]
    lines += [
        [
            row["name"],
            f"{row['batch_ms']:,.1f} ms",
            f"{row['batch_ratio']:.1f}",
            f"{row['single_us']:,.0f} µs",
            f"{row['single_ratio']:.1f}",
            percent(row["bandwidth_share"]),
        ]
        for row in found["rows"]
    ]
    about = (
        f"{found['vectors']:,} vectors of {found['dimension']} numbers, k = {found['k']}; ratios "
        f"against FAISS on the CPU with {found['cpu_threads']} threads; copying in the card's "
        f"memory moves {found['bandwidth'] / 1e9:,.0f} GB/s:"
    )
    return [about, table(lines), *left_out(found["left_out"])]


def _answers(found: Found) -> list[str]:
    lines = [["whole answers", "at once", "tokens/s", "ratio"]]
    lines += [
        [
            row["name"],
            str(row["concurrency"]),
            f"{row['tokens_per_second']:,.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in found["rows"]
    ]
    about = (
        f"{found['model']} with random weights, answers of {found['tokens']} tokens; ratios "
        "against one prompt alone:"
    )
    return [about, table(lines)]


_OTHERS = {"rerank": _pairs, "search": _search, "answers": _answers}

__all__ = ["plain_answers", "plain_case", "plain_pairs", "plain_search", "section"]
