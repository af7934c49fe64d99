"""Embedding speed, beside the classes people use now.

    python benchmarks/bench_embed.py [--texts 512] [--rounds 5] [--write]

Every round takes texts that nobody has seen, and every contestant embeds the same ones, one after
the other, so that a busy machine disturbs all alike. The figures are medians over the rounds; what
is to be compared is the ratio. The last line is JSON; `--write` also puts it into
benchmarks/results/, from where README quotes.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import re
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from langchain_gpu import GPUEmbeddings, select_device
from langchain_gpu.events import TruncationWarning
from langchain_gpu.models.resolve import resolve

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WORDS = 100  # about 130 tokens, the passage of most retrieval corpora
LIGHT = "import numpy, pydantic; from langchain_core.embeddings import Embeddings"


def passages() -> Iterator[str]:
    """Real English: docstrings on this machine, cut and joined into passages of WORDS words."""
    words: list[str] = []
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    for path in sorted({file for root in roots for file in root.rglob("*.py")}):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                words += (ast.get_docstring(node) or "").split()
        while len(words) >= WORDS:
            yield " ".join(words[:WORDS])
            words = words[WORDS:]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to embed documents and queries."""

    name: str
    documents: Callable[[list[str]], Any]
    query: Callable[[str], Any]


def contestants(folder: str, device: str) -> list[Contestant]:
    """Ours, the LangChain class it replaces, and the library under both, in its fast setting too.

    Peers run in their defaults; `sentence-transformers, tuned` is what its efficiency page advises:
    half precision where the device has it, a larger batch on a GPU.
    """
    import torch
    from langchain_huggingface import HuggingFaceEmbeddings
    from sentence_transformers import SentenceTransformer

    place = select_device(device)
    peer_device = place.torch_name
    ours = GPUEmbeddings(model=folder, device=device)
    own = GPUEmbeddings(model=folder, device=device, backend="torch")
    exact = GPUEmbeddings(model=folder, device=device, backend="torch", dtype="float32")
    hugging = HuggingFaceEmbeddings(model=folder, model_kwargs={"device": peer_device})
    plain = SentenceTransformer(folder, device=peer_device)
    half = {"dtype": getattr(torch, place.dtype)}
    tuned = SentenceTransformer(folder, device=peer_device, model_kwargs=half)
    batch = 32 if place.kind == "cpu" else 256
    return [
        Contestant("HuggingFaceEmbeddings", hugging.embed_documents, hugging.embed_query),
        Contestant("sentence-transformers", plain.encode, plain.encode),
        Contestant(
            f"sentence-transformers, {place.dtype}",
            lambda texts: tuned.encode(texts, batch_size=batch),
            tuned.encode,
        ),
        Contestant("GPUEmbeddings, torch, float32", exact.embed_documents, exact.embed_query),
        Contestant("GPUEmbeddings, torch", own.embed_documents, own.embed_query),
        Contestant("GPUEmbeddings", ours.embed_documents, ours.embed_query),
        Contestant("GPUEmbeddings, to array", ours.embed_to_array, ours.embed_query),
    ]


def cpu_seconds_of_import(code: str) -> float:
    """CPU time of a fresh interpreter that runs `code`, median of 5."""
    script = f"{code}\nimport resource; u = resource.getrusage(resource.RUSAGE_SELF)"
    script += "; print(u.ru_utime + u.ru_stime)"
    times = [
        float(
            subprocess.run(  # noqa: S603 - our own interpreter, our own code
                [sys.executable, "-c", script], capture_output=True, check=True
            ).stdout
        )
        for _ in range(5)
    ]
    return median(times)


def measure(
    names: list[Contestant], texts: Iterator[str], count: int, rounds: int
) -> list[dict[str, Any]]:
    """Run the rounds, interleaved."""
    seconds: dict[str, list[float]] = {each.name: [] for each in names}
    queries: dict[str, list[float]] = {each.name: [] for each in names}
    cosines: dict[str, float] = {each.name: 1.0 for each in names}
    for each in names:  # load and warm up outside the clock
        each.documents(list(islice(texts, 8)))
        each.query("warm up")
    for number in range(rounds):
        fresh = list(islice(texts, count))
        if len(fresh) < count:
            raise SystemExit(f"only {len(fresh)} texts left for round {number}; ask for fewer")
        # The first contestant is the fp32 reference; who comes after it changes every round.
        order = [names[0], *np.roll(np.arange(1, len(names)), number)]
        reference: Any = None
        for item in order:
            each = item if isinstance(item, Contestant) else names[int(item)]
            began = perf_counter()
            result = each.documents(fresh)
            seconds[each.name].append(perf_counter() - began)
            vectors = np.asarray(result, np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            reference = vectors if reference is None else reference
            cosines[each.name] = min(cosines[each.name], float((reference * vectors).sum(1).min()))
        for text in fresh[:20]:
            question = " ".join(text.split()[:10])
            for each in names:
                began = perf_counter()
                each.query(question)
                queries[each.name].append(perf_counter() - began)
    base = seconds[names[0].name]
    return [
        {
            "name": each.name,
            "documents_per_second": round(count / median(seconds[each.name]), 1),
            "ratio": round(median(np.divide(base, seconds[each.name])), 2),
            "min_cosine": round(cosines[each.name], 6),
            "query_ms_p50": round(1000 * float(np.percentile(queries[each.name], 50)), 2),
            "query_ms_p95": round(1000 * float(np.percentile(queries[each.name], 95)), 2),
        }
        for each in names
    ]


def main() -> None:
    """Run the benchmark and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="save under benchmarks/results/")
    options = parser.parse_args()
    warnings.simplefilter("ignore", TruncationWarning)  # every contestant cuts the same texts
    rows = measure(
        contestants(str(resolve(options.model).path), options.device),
        passages(),
        options.texts,
        options.rounds,
    )
    light = cpu_seconds_of_import(LIGHT)
    whole = cpu_seconds_of_import(f"{LIGHT}; import langchain_gpu; langchain_gpu.GPUEmbeddings")
    best = select_device(options.device)
    record = {
        "benchmark": "embed",
        "date": datetime.now(UTC).date().isoformat(),
        "model": options.model,
        "texts": options.texts,
        "words_per_text": WORDS,
        "rounds": options.rounds,
        "device": {"kind": best.kind, "name": best.name, "cores": best.cores, "isa": best.isa},
        "versions": {
            name: version(name)
            for name in (
                "langchain-gpu",
                "langchain-huggingface",
                "openvino",
                "sentence-transformers",
                "torch",
            )
        }
        | {"python": platform.python_version()},
        "import_cpu_seconds": {"base": round(light, 3), "more": round(whole - light, 3)},
        "rows": rows,
    }
    print(f"{'':40}{'docs/s':>10}{'ratio':>8}{'min cosine':>12}{'query p50':>11}{'p95':>8}")
    for row in rows:
        print(
            f"{row['name']:40}{row['documents_per_second']:>10}{row['ratio']:>8}"
            f"{row['min_cosine']:>12}{row['query_ms_p50']:>9}ms{row['query_ms_p95']:>6}ms"
        )
    print(f"import: {light:.2f} s of CPU for the base, {whole - light:.2f} s more for the class")
    line = json.dumps(record)
    if options.write:
        words = re.findall(r"[a-z0-9]+", best.name.lower())
        path = Path(__file__).parent / "results" / f"embed-{best.kind}-{'-'.join(words)}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(line)


if __name__ == "__main__":
    main()
