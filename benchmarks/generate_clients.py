"""What clients of servers cost: the official ones, and `ChatGPU`, beside a server of a steady pace.

A real server that computes on the same cores varies by more than any client costs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import servers
from benchmarks.generate_peers import Streamer
from benchmarks.generate_rounds import prompts, together
from benchmarks.generate_servers import by_ollama, by_vllm
from benchmarks.measure import order

_TOKENS = 32
_FIRST = 0.2  # seconds until the first piece
_PACE = 0.02  # seconds between two pieces
_WINDOW = 1024
_PERCENTILES = (50, 95)


def measure(levels: Sequence[int], *, rounds: int = 9) -> dict[str, Any]:
    """Return what every client costs at every concurrency.

    Returns:
        `rows` with the milliseconds by which the first piece came later than the server sent it
        (percentiles over all chats), and microseconds of CPU a token, the first one and connecting
        included; and the server's pace.
    """
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(servers.paced(work, _TOKENS, _FIRST, _PACE)).url
        openai, by_openai = by_vllm(url, slots=max(levels))
        ollama, by_llama = by_ollama(url, slots=max(levels), window=_WINDOW)
        stack.enter_context(by_openai)
        stack.enter_context(by_llama)
        named = [Streamer("openai", openai[0].stream), openai[1]]
        named += [Streamer("ollama", ollama[0].stream), ollama[1]]
        rows = [row for level in levels for row in _rows(named, level, rounds)]
    return {"rounds": rounds, "first_ms": _FIRST * 1000, "pace_ms": _PACE * 1000, "rows": rows}


def _rows(here: Sequence[Streamer], number: int, rounds: int) -> list[dict[str, Any]]:
    late: list[list[float]] = [[] for _ in here]
    spent: list[list[float]] = [[] for _ in here]
    for turn in range(rounds + 1):  # the first warms up
        for place in order(len(here), turn):
            cpu = time.process_time()
            answers, _ = together(here[place], prompts(number, number, turn, place), _TOKENS)
            cpu = time.process_time() - cpu
            if turn:
                late[place] += [each.tokens[0] - each.start - _FIRST for each in answers]
                spent[place].append(cpu / (number * _TOKENS))
    found = [
        {
            "name": who.name,
            "concurrency": number,
            "late_ms": {
                f"p{part}": round(float(np.percentile(late[place], part)) * 1000, 2)
                for part in _PERCENTILES
            },
            "cpu_us_per_token": round(median(spent[place]) * 1e6, 1),
        }
        for place, who in enumerate(here)
    ]
    for row in found:
        print(f"{row['name']}, {number} at once: {row['late_ms']} ms", file=sys.stderr, flush=True)
    return found


__all__ = ["measure"]
