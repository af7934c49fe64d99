"""How fast text is written, alone and by many at once, beside what it replaces or stands on.

python -m benchmarks.bench_generate [--model NAME.gguf] [--folder SAFETENSORS] [--servers FOLDER]

Every answer has the same length (an end token is no end; Ollama alone knows no such option, so its
tokens are counted). Contestants take turns within a round; compare their ratios, not the figures of
a busy machine. Servers are started for their turn and stopped after it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks import generate_clients, generate_cost, generate_tables, machine, results
from benchmarks.generate_peers import llama_cpp, transformers, unpack
from benchmarks.generate_rounds import streamed, written
from benchmarks.generate_servers import Served, run_ollama, run_vllm
from langchain_gpu import select_device
from langchain_gpu.models.resolve import resolve

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SERVERS = Path(".servers")


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help="a GGUF model")
    parser.add_argument("--folder", type=Path, help="its safetensors; unpacked if left out")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--server-concurrency", type=int, nargs="+", default=[1, 4, 16, 64], metavar="N"
    )
    parser.add_argument(
        "--ollama-concurrency",
        type=int,
        nargs="+",
        metavar="N",
        help="chats at once on Ollama, if not the same",
    )
    parser.add_argument(
        "--servers", type=Path, default=_SERVERS, help="where .ci/servers.sh put Ollama and vLLM"
    )
    parser.add_argument(
        "--lifetime", type=int, default=3600, help="seconds after which a server ends in any case"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server-rounds", type=int, default=2)
    parser.add_argument(
        "--answers", type=int, default=16, help="at least, by each: more rounds of few chats"
    )
    parser.add_argument(
        "--level-seconds",
        type=float,
        default=900,
        metavar="S",
        help="as many chats at once begin no further round after so long",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch, llama.cpp and Ollama")
    parser.add_argument("--write", action="store_true", help="save under benchmarks/results/")
    return parser.parse_args(arguments)


def served(file: Path, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Any]]:
    """Measure servers, one at a time; return the records, and who was left out and why."""
    levels = {"Ollama": chosen.ollama_concurrency}
    slots, window = max(chosen.server_concurrency), 128 + chosen.tokens
    fewer = argparse.Namespace(**{**vars(chosen), "rounds": chosen.server_rounds})
    room = {"slots": slots, "window": window, "lifetime": chosen.lifetime}
    runs: dict[str, Callable[[], AbstractContextManager[Served]]] = {
        "Ollama": lambda: run_ollama(chosen.servers, file, threads=chosen.threads, **room),
        "vLLM": lambda: run_vllm(chosen.servers, **room),
    }
    found: list[dict[str, Any]] = []
    skipped = []
    for name, start in runs.items():
        rows: list[dict[str, Any]] = []
        try:
            with start() as server:
                found.append({"name": server.name, "model": server.model, "rows": rows})
                numbers = levels.get(name) or chosen.server_concurrency
                for row in streamed(server.streamers, fewer, numbers):
                    rows.append(row)  # noqa: PERF402 - what was measured stays, if one fails later
        except Exception as error:  # noqa: BLE001 - nor are the others lost
            after = f" after {rows[-1]['concurrency']} at once" if rows else ""
            skipped.append({"name": name + after, "reason": str(error).partition("\n")[0]})
    return [each for each in found if each["rows"]], skipped


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; return the record."""
    torch.set_num_threads(chosen.threads)
    file = resolve(chosen.model, kind="gguf").path
    width = max(chosen.concurrency)
    streamers, chat = llama_cpp(file, width, 128 + chosen.tokens, chosen.threads)
    with chat:
        rows = list(streamed(streamers, chosen, chosen.concurrency))
        cost = generate_cost.measure(chat)
    del streamers
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or unpack(file, Path(scratch))
        writers, llm = transformers(folder, width)
        with llm:
            batches = written(writers, chosen)
    clients = generate_clients.measure(chosen.server_concurrency)
    servers, skipped = served(file, chosen)
    return {
        "benchmark": "generate",
        "date": datetime.now(UTC).date().isoformat(),
        "model": Path(chosen.model).name,
        "device": machine.describe(select_device("cpu")),
        "versions": machine.versions(),
        "rounds": chosen.rounds,
        "server_rounds": chosen.server_rounds,
        "answers": chosen.answers,
        "tokens": chosen.tokens,
        "threads": chosen.threads,
        "llama_cpp": rows,
        "own_cost": cost,
        "clients": clients,
        "servers": servers,
        "transformers": batches,
        "skipped": skipped,
    }


def main() -> None:
    """Run the benchmark; print a table and one line of JSON."""
    chosen = options()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    record = run(chosen)
    print(generate_tables.section(record))
    if chosen.write:
        print(f"written: {results.write(record)}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
