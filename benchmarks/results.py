"""Where results are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import slug
from benchmarks.weights import MINILM

RESULTS = Path(__file__).parent / "results"


def write(record: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Save a record; from RESULTS README takes it.

    The file is named after the benchmark and the device, so that a later run takes its place.
    """
    device = record["device"]
    kind = [] if record["benchmark"] == "embed-gpu" else [device["kind"]]
    parts = [record["benchmark"], *kind, slug(device["name"])]
    if record.get("model", MINILM) != MINILM:
        parts.append(slug(Path(record["model"]).name))
    if limit := device.get("isa_limit"):
        parts.append(slug(limit))
    path = folder / f"{'-'.join(parts)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
