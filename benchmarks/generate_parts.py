"""What `bench_generate` measures, part by part, each for its share of the record."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks import generate_clients, generate_cost, generate_peers
from benchmarks.generate_rounds import streamed, written
from benchmarks.generate_servers import Served, run_ollama, run_vllm

Record = dict[str, Any]
Part = Callable[[Path, argparse.Namespace], Record]


def llama_cpp(file: Path, chosen: argparse.Namespace) -> Record:
    """Streams of the bare binding and of ours, and what ours cost."""
    width = max(chosen.concurrency)
    streamers, chat = generate_peers.llama_cpp(file, width, 128 + chosen.tokens, chosen.threads)
    with chat:
        rows = list(streamed(streamers, chosen, chosen.concurrency))
        return {"llama_cpp": rows, "own_cost": generate_cost.measure(chat)}


def transformers(file: Path, chosen: argparse.Namespace) -> Record:
    """Whole answers to a batch of prompts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or generate_peers.unpack(file, Path(scratch))
        writers, llm = generate_peers.transformers(folder, max(chosen.concurrency))
        with llm:
            return {"transformers": written(writers, chosen)}


def clients(_: Path, chosen: argparse.Namespace) -> Record:
    """Clients beside a server without a model."""
    return {"clients": generate_clients.measure(chosen.server_concurrency)}


def ollama(file: Path, chosen: argparse.Namespace) -> Record:
    """Streams of a real Ollama."""
    start = run_ollama(chosen.servers, file, threads=chosen.threads, **_room(chosen))
    return served("Ollama", start, chosen, chosen.ollama_concurrency or chosen.server_concurrency)


def vllm(_: Path, chosen: argparse.Namespace) -> Record:
    """Streams of a real vLLM."""
    start = run_vllm(chosen.servers, **_room(chosen))
    return served("vLLM", start, chosen, chosen.server_concurrency)


PARTS: Mapping[str, Part] = {
    "llama.cpp": llama_cpp,
    "Transformers": transformers,
    "clients": clients,
    "Ollama": ollama,
    "vLLM": vllm,
}


def served(
    name: str,
    start: AbstractContextManager[Served],
    chosen: argparse.Namespace,
    levels: Sequence[int],
) -> Record:
    """Measure a server while it runs; say under `skipped` why it was left out, or from where on."""
    fewer = argparse.Namespace(**{**vars(chosen), "rounds": chosen.server_rounds})
    found: list[Record] = []
    rows: list[Record] = []
    try:
        with start as server:
            found.append({"name": server.name, "model": server.model, "rows": rows})
            for row in streamed(server.streamers, fewer, levels):
                rows.append(row)  # noqa: PERF402 - what was measured stays, if one fails later
    except Exception as error:  # noqa: BLE001 - nor are the others lost
        after = f" after {rows[-1]['concurrency']} at once" if rows else ""
        skipped = [{"name": name + after, "reason": str(error).partition("\n")[0]}]
        return {"servers": found if rows else [], "skipped": skipped}
    return {"servers": found}


def measure(names: Sequence[str], file: Path, chosen: argparse.Namespace) -> Record:
    """Measure parts, one after the other; return their shares."""
    record: Record = {"servers": [], "skipped": []}
    for name in names:
        for key, value in PARTS[name](file, chosen).items():
            record[key] = record[key] + value if isinstance(record.get(key), list) else value
    return record


def completed(record: Record, before: Record) -> Record:
    """Take from an earlier record what this one has not measured.

    Raises:
        ValueError: They are not comparable.
    """
    for key in ("versions", "tokens", "threads"):
        if before[key] != record[key]:
            raise ValueError(
                f"{key} were {before[key]} and are {record[key]} now: measure all parts"
            )
    dates = before.get("dates") or dict.fromkeys(PARTS, before["date"])
    fresh = record["dates"]
    kept = {
        key: [each for each in before[key] if each["name"].split()[0] not in fresh]
        for key in ("servers", "skipped")
    }
    return {
        **{key: before[key] for key in _SHARES if key in before},
        **record,
        **{key: sorted(kept[key] + record[key], key=itemgetter("name")) for key in kept},
        "dates": {**dates, **fresh},
    }


_SHARES = ("llama_cpp", "own_cost", "transformers", "clients")


def _room(chosen: argparse.Namespace) -> Record:
    return {
        "slots": max(chosen.server_concurrency),
        "window": 128 + chosen.tokens,
        "lifetime": chosen.lifetime,
    }


__all__ = ["PARTS", "completed", "measure", "served"]
