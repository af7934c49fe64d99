"""Proofs of one kind on several GPUs run at the same time, all others one after another."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from langchain_gpu.doctor.proofs import SECONDS, Proof, Trial, kill, plan, run
from langchain_gpu.hardware.facts import Facts, read_facts

# Each child imports its libraries: more of them than cores would be late for their time-out.
_MOST = 4


def prove(
    facts: Facts | None = None,
    *,
    seconds: float = SECONDS,
    on_start: Callable[[Sequence[Trial]], None] | None = None,
) -> list[Proof]:
    """Run every proof that this machine and its libraries call for, in their order.

    The same proof runs on several GPUs at once, as many as there are cores and four at most. What
    runs on the processor runs alone.

    Args:
        facts: This machine, where it was read already.
        seconds: For each proof.
        on_start: Told which proofs are starting.
    """
    facts = facts or read_facts()
    found: list[Proof] = []
    for wave in waves(plan(facts), max(1, min(_MOST, facts.cpu.cores))):
        if on_start is not None:
            on_start(wave)
        found += run_wave(wave, seconds)
    return found


def waves(trials: Iterable[Trial], most: int = _MOST) -> Iterator[list[Trial]]:
    """Put together what may run at the same time, no more than `most` of them."""
    for (_, on_gpu), same in groupby(trials, lambda trial: (trial.name, _on_gpu(trial))):
        left = list(same)
        count = most if on_gpu else 1
        yield from (left[at : at + count] for at in range(0, len(left), count))


def run_wave(trials: Sequence[Trial], seconds: float) -> list[Proof]:
    """Run proofs at the same time; all their processes end when this is interrupted."""
    if len(trials) == 1:
        return [run(trials[0], seconds)]
    children: list[subprocess.Popen[str]] = []
    ended = threading.Event()

    def started(child: subprocess.Popen[str]) -> None:
        children.append(child)
        if ended.is_set():
            kill(child)

    with ThreadPoolExecutor(len(trials)) as pool:
        futures = [pool.submit(run, trial, seconds, started) for trial in trials]
        try:
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C reaches this thread only
            ended.set()
            for child in children:
                kill(child)
            raise


def _on_gpu(trial: Trial) -> bool:
    return trial.device not in {"", "cpu"}


__all__ = ["prove", "run_wave", "waves"]
