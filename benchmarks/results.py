"""Where results are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import slug
from benchmarks.weights import MINILM

RESULTS = Path(__file__).parent / "results"


def place(record: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Return the file of a record, named after the benchmark, the model and the device."""
    device = record["device"]
    kind = [] if record["benchmark"] == "embed-gpu" else [device["kind"]]
    parts = [record["benchmark"], *kind, slug(device["name"])]
    if record.get("model", MINILM) != MINILM:
        parts.append(slug(Path(record["model"]).name))
    if limit := device.get("isa_limit"):
        parts.append(slug(limit))
    return folder / f"{'-'.join(parts)}.json"


def write(record: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Save a record, in the place of an earlier one; from RESULTS README takes it."""
    path = place(record, folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
