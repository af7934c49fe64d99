"""What is run on the simulated card: `python -m tests.unit_tests.simulated_card.cases GUARD`.

The last line is a JSON object of what each case has found, or how it failed.
"""

from __future__ import annotations

import gc
import json
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.unit_tests.simulated_card.install import install
from tests.unit_tests.simulated_card.memory import MEMORIES, MEMORY

if __name__ == "__main__":
    install(Path(sys.argv[1]))

import numpy as np

from benchmarks import gpu_checks
from benchmarks.contestants import Setup
from langchain_gpu import ChatGPU, FAISSVectorStore, GPUEmbeddings, GPURerank
from langchain_gpu.planner import ComponentPlan, Share, Term
from tests.unit_tests.simulated_card.card import WAITS
from tests.unit_tests.tiny_chat import build_chat
from tests.unit_tests.tiny_models import build
from tests.unit_tests.tiny_rerankers import build as build_reranker

Found = dict[str, Any]
PACKED = ("bert", "roberta-cls", "modernbert", "qwen3-last-token")
TEXTS = [
    "a",
    "the gpu is fast",
    "slow memory " * 9,
    *(f"text {'two ' * (n % 7)}" for n in range(20)),
]
PAIRS = [("fast gpu", text) for text in TEXTS[1:8]]


def _cosine(found: Any, wanted: Any) -> float:
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (found, wanted))
    return float((one * other).sum(axis=1).min())


def embed(folder: Path, name: str, dtype: str) -> Found:
    """Embed some texts several times, so that their shape is recorded."""
    model = build(folder, name)
    wanted = GPUEmbeddings(model=model, device="cpu", dtype="float32", backend="torch")
    on_card = GPUEmbeddings(model=model, device="cuda", dtype=dtype)
    on_card.embed_to_array(TEXTS)
    WAITS.clear()
    for _ in range(3):
        found = on_card.embed_to_array(TEXTS)
    waits, held, said = dict(WAITS), MEMORY.allocated, on_card.backend_reason
    on_card.close()
    gc.collect()
    return {
        "cosine": _cosine(found, wanted.embed_to_array(TEXTS)),
        "waits": waits,
        "held": held,
        "said": said,
        "left": MEMORY.allocated,
    }


def rerank(folder: Path, name: str) -> Found:
    """Score some pairs."""
    model = build_reranker(folder, name)
    scores = [
        GPURerank(model=model, device=device, dtype="float32", backend="torch").score(PAIRS)
        for device in ("cuda", "cpu")
    ]
    gc.collect()
    return {"off": float(np.abs(np.subtract(*scores)).max()), "spread": float(np.std(scores[1]))}


def out_of_memory(folder: Path) -> Found:
    """Embed with ever less room beside the weights."""
    model = build(folder, "bert")
    wanted = GPUEmbeddings(model=model, device="cpu", dtype="float32", backend="torch")
    events: list[Any] = []
    on_card = GPUEmbeddings(model=model, device="cuda", dtype="bfloat16", on_event=events.append)
    texts = TEXTS * 4
    on_card.embed_query("a")
    vectors = []
    for room in (200_000, 1_000):
        MEMORY.limit = MEMORY.allocated + room
        vectors.append(on_card.embed_to_array(texts))
    expected = wanted.embed_to_array(texts)
    return {
        "cosines": [_cosine(each, expected) for each in vectors],
        "events": [type(each).__name__ for each in events],
        "devices": [each.device for each in events if hasattr(each, "padded_tokens")],
        "left": MEMORY.allocated,
    }


def two_cards(folder: Path) -> Found:
    """Embed on both cards, with room, with little on the second one, and with none there."""
    model, second = build(folder, "bert"), MEMORIES[1]
    texts = [f"{text} {number}" for number in range(60) for text in TEXTS]
    wanted = GPUEmbeddings(model=model, device="cpu", dtype="float32", backend="torch")
    expected = wanted.embed_to_array(texts)
    events: list[Any] = []
    both = GPUEmbeddings(
        model=model, device=["cuda:0", "cuda:1"], max_batch_tokens=512, on_event=events.append
    )
    found: Found = {}
    for name, room in (("roomy", second.total), ("little", 60_000), ("none", None)):
        gc.collect()
        # None at all: what a thread still holds of the call before would become room.
        second.limit = 0 if room is None else min(second.total, second.allocated + room)
        events.clear()
        vectors = both.embed_to_array(texts)
        found[name] = {
            "cosine": _cosine(vectors, expected),
            "devices": sorted({each.device for each in events if hasattr(each, "padded_tokens")}),
            "smaller": sorted({each.device for each in events if hasattr(each, "new_tokens")}),
            "fell": [(each.source, each.target) for each in events if hasattr(each, "source")],
        }
    both.close()
    gc.collect()
    return found | {"left": [memory.allocated for memory in MEMORIES]}


def benchmark(folder: Path) -> Found:
    """Fill the card, and give it back, as the benchmark does."""
    setup = Setup(Path(build(folder, "bert")), "cuda")
    MEMORY.limit = MEMORY.allocated + 2**26
    found = gpu_checks.out_of_memory(setup, TEXTS * 40, left=2**20)
    gc.collect()
    return found | {"held": MEMORY.allocated, "freed": gpu_checks.freed(setup, TEXTS)}


def search(folder: Path) -> Found:
    """Search a store whose vectors are on the card, and then one that does not fit any more."""
    embeddings = GPUEmbeddings(model=build(folder, "bert"), device="cpu", dtype="float32")
    texts = [f"text {number}" for number in range(300)]
    places = [{"part": number % 3} for number in range(300)]
    stores = [
        FAISSVectorStore.from_texts(texts, embeddings, metadatas=places, device=device)
        for device in ("cuda", "cpu")
    ]
    one, other = (
        [
            *store.similarity_search("text 7", k=5),
            *store.similarity_search("text 9", k=5, filter={"part": 1}),
            *store.max_marginal_relevance_search("text 2", k=3),
        ]
        for store in stores
    )
    held, MEMORY.limit = MEMORY.allocated, MEMORY.allocated + 10
    stores[0].add_texts(["one more"])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        after = stores[0].similarity_search("one more", k=1)
    return {
        "same": [each.page_content for each in one] == [each.page_content for each in other],
        "held": held,
        "after": after[0].page_content,
        "told": [str(each.message) for each in told],
    }


def chat(folder: Path) -> Found:
    """Write with the whole model on the card, with its table on the CPU, and out of memory."""
    model = build_chat(folder)
    settings: dict[str, Any] = {"model": model, "backend": "transformers", "dtype": "float32"}
    settings |= {"temperature": 0, "max_tokens": 12}
    prompts = ["hello", "hello world", "a much longer prompt than the others are"]
    wanted = [each.content for each in ChatGPU(device="cpu", **settings).batch(prompts)]
    table = ComponentPlan(
        name="chat",
        role="chat",
        model=model,
        decision="partial",
        reason="the table stays on the CPU",
        shares=(Share("cuda:0", (Term("weights", 1000, "all"),), 2),),
        embedding_on_cpu=True,
    )
    found: Found = {}
    for case, more in (("whole", {}), ("parted", {"plan": table})):
        on_card = ChatGPU(device="cuda", **settings, **more)
        found[case] = [each.content for each in on_card.batch(prompts)] == wanted
        on_card.close()
    penalized = {"repetition_penalty": 1.3, "bad_words_ids": [[233], [68, 187]]}
    both = [ChatGPU(device=device, **settings) for device in ("cuda", "cpu")]
    found["ruled"] = len({each.bind(**penalized).invoke("hello").content for each in both}) == 1
    found["device"] = both[0].invoke("hello").response_metadata["device"]
    MEMORY.limit = MEMORY.allocated + 1_000
    last = both[0].batch(prompts)
    found["after"] = [each.content for each in last] == wanted
    found["moved"] = both[0].invoke("hello").response_metadata["device"]
    for each in both:
        each.close()
    gc.collect()
    return found | {"left": MEMORY.allocated}


def layers(folder: Path) -> Found:
    """Write with the layers on two devices, as planned and as little room leaves it."""
    model = build_chat(folder, layers=8, width=128)
    settings: Found = {"model": model, "backend": "transformers", "dtype": "float32"}
    settings |= {"temperature": 0, "max_tokens": 8}
    prompts = ["hello", "a longer prompt"]
    with ChatGPU(device="cpu", **settings) as on_cpu:
        wanted = [each.content for each in on_cpu.batch(prompts)]
    found: Found = {}
    for other in ("cpu", "cuda:1", "little room"):
        more: Found = {"plan": _parted(model, other)} if other != "little room" else {}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with ChatGPU(device="cuda:0", **settings, **more) as parted:
                same = [each.content for each in parted.batch(prompts)] == wanted
                held = [memory.allocated for memory in MEMORIES]
        gc.collect()
        said = [str(each.message) for each in told]
        found[other] = {"same": same, "held": held, "told": said}
        if other == "cuda:1":
            MEMORY.limit, MEMORIES[1].limit = 5_000_000, 0
    return found | {"left": [memory.allocated for memory in MEMORIES]}


def _parted(model: str, other: str) -> ComponentPlan:
    weights = (Term("weights", 1000, "all"),)
    return ComponentPlan(
        name="chat",
        role="chat",
        model=model,
        decision="partial" if other == "cpu" else "spread",
        reason="half of the layers each",
        shares=tuple(Share(device, weights, 4) for device in ("cuda:0", other)),
    )


CASES: dict[str, Callable[[Path], Found]] = {
    **{
        f"embed {name} {dtype}": partial(embed, name=name, dtype=dtype)
        for name, dtype in (
            *((packed, "bfloat16") for packed in PACKED),
            ("mpnet", "bfloat16"),
            ("bert", "float32"),
            ("static", "float32"),
        )
    },
    **{f"rerank {name}": partial(rerank, name=name) for name in ("bert", "qwen3")},
    "out of memory": out_of_memory,
    "two cards": two_cards,
    "benchmark": benchmark,
    "search": search,
    "chat": chat,
    "layers": layers,
}


def main() -> None:
    """Run every case."""
    found: dict[str, Found] = {}
    warnings.simplefilter("ignore")
    for name, case in CASES.items():
        for memory in MEMORIES:
            memory.limit = memory.total
        with TemporaryDirectory() as scratch:
            try:
                found[name] = case(Path(scratch))
            except Exception:  # noqa: BLE001 - the others are of interest too
                found[name] = {"failed": traceback.format_exc()}
    print(json.dumps(found))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main()
