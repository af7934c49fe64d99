"""Whole answers on a GPU: one prompt alone, and many that share forward passes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks import generate_peers
from benchmarks.contestants import Setup
from benchmarks.generate_peers import Writer
from benchmarks.generate_rounds import written

WIDTH = 16


def measure(setup: Setup, tokens: int, rounds: int) -> dict[str, Any]:
    """Measure how many tokens a second are written.

    Args:
        setup: A folder with a model that writes text, and where it runs.
        tokens: Of an answer.
        rounds: Of fresh prompts.

    Returns:
        The model's name, `tokens`, and `rows`: each `ratio` is against one prompt alone in the same
        round.
    """
    writers, llm = generate_peers.transformers(setup.folder, WIDTH, setup.device)
    named = {each.name: each for each in writers}
    together = named["GPULLM(transformers)"]

    def one(prompts: Sequence[str], count: int) -> int:
        return together.write(prompts[:1], count)

    here = [
        Writer("GPULLM(transformers), one prompt", one),
        together,
        named["GPULLM(transformers), a thread per prompt"],
        named[f"HuggingFacePipeline, batch_size={WIDTH}"],
    ]
    with llm:
        chosen = argparse.Namespace(concurrency=[WIDTH], tokens=tokens, rounds=rounds)
        rows = written(here, chosen)
    rows[0]["concurrency"] = 1
    return {"model": setup.folder.name, "tokens": tokens, "rows": rows}


__all__ = ["measure"]
