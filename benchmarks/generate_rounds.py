"""Rounds of writing text: everybody is asked as many questions at once, one after the other."""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import median
from threading import Barrier
from typing import Any

import numpy as np

from benchmarks.generate_peers import Answer, Streamer, Writer
from benchmarks.measure import order

_PERCENTILES = (50, 95, 99)
_WARM_UP = 2  # tokens of an answer


def prompts(count: int, *marks: object) -> list[str]:
    """Return questions nobody has asked before, of about the same length.

    Args:
        count: How many.
        *marks: What makes them new: two calls with other marks have no question in common.
            Questions with similar marks do not begin alike, as servers keep what they have read:
            the second to ask in a round would find more of it than the first.
    """
    digest = hashlib.blake2s(repr(marks).encode(), digest_size=8).digest()
    mark = f"{int.from_bytes(digest) % 10**8:08}"
    return [f"Round {mark}: tell me what is special about number {n}." for n in range(count)]


def together(who: Streamer, texts: Sequence[str], tokens: int) -> tuple[list[Answer], float]:
    """Ask all at the same moment; return the answers and the seconds for all."""
    ready = Barrier(len(texts))

    def ask(text: str) -> Answer:
        ready.wait()
        return who.stream(text, tokens)

    with ThreadPoolExecutor(len(texts)) as pool:
        start = time.perf_counter()
        answers = list(pool.map(ask, texts))
        return answers, time.perf_counter() - start


def times(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Return percentiles in ms of the usual times of streamed answers."""
    gaps = [late - early for a in answers for early, late in pairwise(a.tokens)]
    found = {
        "ttft": [a.tokens[0] - a.start for a in answers],
        "itl": gaps,
        "tpot": [(a.tokens[-1] - a.tokens[0]) / max(1, a.count - 1) for a in answers],
        "e2e": [a.tokens[-1] - a.start for a in answers],
    }
    return {
        name: {f"p{p}": round(float(np.percentile(seconds, p)) * 1000, 2) for p in _PERCENTILES}
        for name, seconds in found.items()
        if seconds
    }


def streamed(
    here: Sequence[Streamer], chosen: argparse.Namespace, levels: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Measure streams at every concurrency; yield its rows when it is done.

    Ratios are to the first of `here`. Short answers to as many questions warm up every level: a
    server reads the whole template the first time that it uses a slot.

    `cpu_us_per_token` is the CPU time of this process for a token, time to the first one included:
    what a client costs, where the engine is another process. A few chats at once take more rounds
    than `chosen.rounds`, until there are `chosen.answers` of each contestant. No further round
    begins once a level has taken `chosen.level_seconds`.

    Raises:
        RuntimeError: Somebody gave an empty answer.
    """
    for number in levels:
        answers: list[list[Answer]] = [[] for _ in here]
        rates: list[list[float]] = [[] for _ in here]
        spent: list[list[float]] = [[] for _ in here]
        rounds = max(chosen.rounds, math.ceil(chosen.answers / number))
        for place, who in enumerate(here):
            together(who, prompts(number, number, 0, place), _WARM_UP)
        latest = time.monotonic() + chosen.level_seconds
        for turn in range(1, rounds + 1):
            if turn > 1 and time.monotonic() > latest:
                break
            for place in order(len(here), turn):
                # Questions of their own, or the second to ask would find the first one's cached.
                asked = prompts(number, number, turn, place)
                cpu = time.process_time()
                given, seconds = together(here[place], asked, chosen.tokens)
                cpu = time.process_time() - cpu
                if not all(each.count for each in given):
                    raise RuntimeError(f"{here[place].name} gave an empty answer")
                tokens = sum(each.count for each in given)
                answers[place] += given
                rates[place].append(tokens / seconds)
                spent[place].append(cpu / tokens)
        for place, who in enumerate(here):
            ratios = [mine / base for mine, base in zip(rates[place], rates[0], strict=True)]
            row = {
                "name": who.name,
                "concurrency": number,
                "rounds": len(rates[place]),
                "tokens_per_second": round(median(rates[place]), 2),
                "ratio": round(median(ratios), 3),
                "tokens": round(sum(a.count for a in answers[place]) / len(answers[place]), 1),
                "cpu_us_per_token": round(median(spent[place]) * 1e6, 1),
                "ms": times(answers[place]),
            }
            print(f"{who.name}, {number} at once: {row['ratio']}", file=sys.stderr, flush=True)
            yield row


def written(here: Sequence[Writer], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure whole answers to as many prompts as the widest batch holds; short ones warm up."""
    rates: list[list[float]] = [[] for _ in here]
    width = max(chosen.concurrency)
    for turn in range(chosen.rounds + 1):
        for place in order(len(here), turn):
            asked = prompts(width, turn)
            start = time.perf_counter()
            tokens = here[place].write(asked, chosen.tokens if turn else _WARM_UP)
            if turn:
                rates[place].append(tokens / (time.perf_counter() - start))
    return [
        {
            "name": who.name,
            "concurrency": width,
            "rounds": chosen.rounds,
            "tokens_per_second": round(median(rates[place]), 2),
            "ratio": round(
                median(mine / base for mine, base in zip(rates[place], rates[0], strict=True)), 3
            ),
        }
        for place, who in enumerate(here)
    ]


__all__ = ["prompts", "streamed", "times", "together", "written"]
