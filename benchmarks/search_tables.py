"""The tables of searches."""

from __future__ import annotations

from typing import Any

from benchmarks.marked import NONE, table

Found = dict[str, Any]


def section(found: Found) -> str:
    """Return the text of one result of `bench_search.py`."""
    device, versions = found["device"], found["versions"]
    wheel = next(name for name in versions if name.startswith("faiss-"))
    intro = (
        f"Search on {device['cores']} cores of {device['name']}; {wheel} "
        f"{versions[wheel]}, langchain-community {versions['langchain-community']}, "
        f"{found['date']}. Vectors of {found['dimension']} numbers with texts, k = {found['k']}; "
        f"medians, by turns. FAISS returns numbers, the stores documents, and "
        f"FAISSVectorStore ids too."
    )
    head = ["vectors", "", "adds/s", f"{found['batch']} queries", "ratio", "1 query", "more"]
    lines = [head]
    for each in found["exact"]:
        for row in each["rows"]:
            added = row["add_per_second"]
            cells = [f"{each['size']:,}", row["name"], NONE if added is None else f"{added:,}"]
            cells += [f"{row['batch_ms']:,.1f} ms", f"{row['batch_ratio']:.2f}"]
            cells += [f"{row['single_us']:,} µs", f"{row['single_more_us']:,.0f} µs"]
            lines.append(cells)
    parts = [intro, table(lines)]
    for each in found["approximate"]:
        rows = "; ".join(_at_recall(row) for row in each["rows"])
        parts.append(f"`{each['index']}`, {each['size']:,} vectors: {rows}.")
    parts += [
        _adding(found["adding"]),
        *map(_loading, found["exact"]),
        *_memory(found),
        "Search on a GPU: not measured yet.",
    ]
    return "\n\n".join(parts)


def _at_recall(row: Found) -> str:
    knob = next(name for name in ("ef_search", "nprobe") if name in row)
    return (
        f"{row['name']} {row['queries_per_second']:,} queries/s at recall {row['recall']:.2f} "
        f"({knob} {row[knob]})"
    )


def _adding(found: Found) -> str:
    each = "; ".join(
        f"vectors as {form} {form_found['ratio']:.1f}"
        for form, form_found in found["forms"].items()
    )
    return f"Adding {found['size']:,} documents, how many times community's rate: {each}."


def _loading(spent: Found) -> str:
    each = "; ".join(f"{name} {seconds:.3f} s" for name, seconds in spent["load_seconds"].items())
    return f"Loading {spent['size']:,}, from the system's cache: {each}."


def _memory(found: Found) -> list[str]:
    memory = found["memory"]
    if memory is None:
        return []
    each = "; ".join(
        f"{name} {row['ratio']:.2f} (at most {row['peak_ratio']:.2f})"
        if "ratio" in row
        else f"{name}: {row['problem']}"
        for name, row in memory["rows"].items()
    )
    said = (
        f"Memory of {memory['documents']:,} documents, as a multiple of the bytes of vectors and "
        f"texts, and at most while adding: {each}. FAISS holds no texts; what is handed in as a "
        "matrix is counted, and `add_texts` gets its vectors from the embedding."
    )
    return [said]


__all__ = ["section"]
