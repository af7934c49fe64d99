"""How fast text is written, alone and by many at once, beside what it replaces or stands on.

python -m benchmarks.bench_generate [--model NAME.gguf] [--folder SAFETENSORS] [--servers FOLDER]

Every answer has the same length (an end token is no end; Ollama alone knows no such option, so its
tokens are counted). Contestants take turns within a round; compare their ratios, not the figures of
a busy machine. Servers are started for their turn and stopped after it. Where time is short,
`--only` measures some parts and keeps the others of the record.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks import generate_tables, machine, results
from benchmarks.generate_parts import PARTS, completed, measure
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
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"of {', '.join(PARTS)}; the rest stays as the record has it",
    )
    parser.add_argument("--write", action="store_true", help="save under benchmarks/results/")
    return parser.parse_args(arguments)


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts asked for; return the record."""
    torch.set_num_threads(chosen.threads)
    file = resolve(chosen.model, kind="gguf").path
    today = datetime.now(UTC).date().isoformat()
    return {
        "benchmark": "generate",
        "date": today,
        "model": Path(chosen.model).name,
        "device": machine.describe(select_device("cpu")),
        "versions": machine.versions(),
        "tokens": chosen.tokens,
        "threads": chosen.threads,
        "dates": dict.fromkeys(chosen.only, today),
        **measure(chosen.only, file, chosen),
    }


def main() -> None:
    """Run the benchmark; print a table and one line of JSON."""
    chosen = options()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    record = run(chosen)
    before = results.place(record)
    if len(chosen.only) < len(PARTS) and before.exists():
        record = completed(record, json.loads(before.read_text(encoding="utf-8")))
    print(generate_tables.section(record))
    if chosen.write:
        print(f"written: {results.write(record)}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
