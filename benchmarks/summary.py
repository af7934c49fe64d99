"""README's summary of what is not embedding: one line each, with whom it was held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import start_tables
from benchmarks.marked import table

Found = dict[str, Any]
_AT_ONCE = 16
_Line = tuple[str, str, float]


def summary(
    started: Sequence[Found],
    reranked: Sequence[Found],
    searched: Sequence[Found],
    written: Sequence[Found],
) -> str:
    """Return a table for each machine; nothing where nothing was measured."""
    lines: dict[str, list[_Line]] = {}
    kinds = (
        (started, start_tables.lines),
        (reranked, _rerank),
        (searched, _search),
        (written, _write),
    )
    for records, read in kinds:
        for record in records:
            lines.setdefault(_place(record), []).extend(read(record))
    return "\n".join(
        f"Other work, on {place} ([all figures](docs/speed.md)):\n\n"
        + table(
            [
                ["", "beside", "times as fast"],
                *([what, peer, f"{times:.2f}"] for what, peer, times in found),
            ]
        )
        + "\n"
        for place, found in lines.items()
        if found
    )


def _place(record: Found) -> str:
    return f"{record['device']['cores']} cores of {record['device']['name']}"


def _row(rows: Iterable[Found], **wanted: object) -> Found | None:
    """Return the first row that has these fields."""
    return next((row for row in rows if wanted.items() <= row.items()), None)


def _rerank(found: Found) -> list[_Line]:
    pairs = f"{found['queries']} x {found['documents']} pairs"
    row = _row(found["throughput"], name="GPURerank")
    peer = found["throughput"][0]["name"]
    return [] if row is None else [(f"rerank {pairs}", peer, row["ratio"])]


def _search(found: Found) -> list[_Line]:
    lines: list[_Line] = []
    for each in found["exact"]:
        peers, ours = each["rows"], _row(each["rows"], name="FAISSVectorStore")
        if ours is None:
            continue
        faiss, community = _row(peers, name="FAISS"), _row(peers, name="community FAISS")
        over = f"over {each['size']:,} vectors"
        if faiss is not None:
            times = faiss["single_us"] / ours["single_us"]
            lines.append((f"search, one query {over}", "FAISS", times))
        if community is not None:
            times = community["batch_ms"] / ours["batch_ms"]
            lines.append((f"search, {found['batch']} queries {over}", "community FAISS", times))
    adding = found["adding"]
    lines += [
        (f"add {adding['size']:,} documents, vectors as {form}", "community FAISS", each["ratio"])
        for form, each in adding["forms"].items()
    ]
    return lines


def _write(found: Found) -> list[_Line]:
    lines: list[_Line] = []
    tables = [("llama.cpp", found.get("llama_cpp", []))]
    tables += [(each["name"], each["rows"]) for each in found["servers"]]
    for engine, rows in tables:
        at_once = [row for row in rows if row["concurrency"] == _AT_ONCE]
        ours = next((row for row in at_once if row["name"].startswith("ChatGPU(")), None)
        if ours is not None:
            what = f"write {_AT_ONCE} streams, {engine}"
            lines.append((what, at_once[0]["name"], ours["ratio"]))
    whole = found.get("transformers", [])
    ours = _row(whole, name="GPULLM(transformers)")
    for peer in whole:
        if ours is not None and peer["name"].startswith("HuggingFacePipeline"):
            what = f"write {ours['concurrency']} whole answers, Transformers"
            lines.append((what, peer["name"], ours["ratio"] / peer["ratio"]))
    return lines


__all__ = ["summary"]
