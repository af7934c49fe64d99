"""CUDA graphs for small models, whose kernels take less time than launching them.

A graph repeats what was recorded, on the same memory and with the same shapes. So batches are
filled up to a bucket of tokens, rows and longest row, a bucket is recorded when it has been asked
for a few times, and it is kept only if repeating it is faster than launching its kernels.
Where that is not so, or recording fails, batches run as they are.

Not measured yet: written on a machine without a card, where the tests drive it with a stand-in.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from langchain_gpu.engine.runtimes.buckets import Bucket, Features, Filled, bucket_for, fill
from langchain_gpu.engine.runtimes.packed import PackedBatch
from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.utils.errors import first_line

logger = logging.getLogger(__name__)

# Beyond this width the kernels take longer than their start.
LARGEST_HIDDEN = 512
ASKED = 3  # times a bucket is asked for before it is recorded first
MOST = 24  # buckets that are recorded
REPLAYS = 5  # that are timed

Run = Callable[[Features], torch.Tensor]


class Recording(Protocol):
    """A recorded forward pass."""

    def replay(self, features: Features) -> torch.Tensor:
        """Compute filled features; the rows stay valid until the next replay starts."""


class Recorder(Protocol):
    """Records forward passes on a device."""

    def record(self, run: Run, features: Features) -> Recording:
        """Record `run` on features of these shapes."""

    def seconds(self, call: Callable[[], object], times: int) -> float:
        """Return how long the device takes for `times` calls."""

    def forget(self) -> None:
        """Release what recordings share, as none of them is left."""


@dataclass(slots=True)
class Graphs:
    """The recorded buckets of one model on one device.

    Attributes:
        run: Computes features that are on the host or on the device; returns rows on the device.
        recorder: Records and times.
        pad_id: What batches are filled up with.
        kept: Buckets that are repeated.
        dropped: Buckets for which that does not pay.
        failure: Why nothing is recorded any more; empty while recording works. Running out of
            memory is no such reason: another process may have had it.
    """

    run: Run
    recorder: Recorder
    pad_id: int
    kept: dict[Bucket, Recording] = field(default_factory=dict)
    dropped: set[Bucket] = field(default_factory=set)
    failure: str = ""
    _asked: Counter[Bucket] = field(default_factory=Counter)
    _uses_needed: int = ASKED

    def prepare(self, batch: PackedBatch) -> PackedBatch | Filled:
        """Fill a batch up where a recording exists or may come. Runs on feeder threads."""
        bucket = None if self.failure else bucket_for(batch)
        if bucket is None or bucket in self.dropped:
            return batch
        if bucket not in self.kept and len(self.kept) + len(self.dropped) >= MOST:
            return batch
        return fill(batch, bucket, self.pad_id)

    def __call__(self, filled: Filled) -> torch.Tensor:
        """Return the rows of a batch, without what filled it up. Shape [rows, dimension].

        Raises:
            Exception: Whatever the model raises; a recording that fails does not.
        """
        bucket = filled.bucket
        self._asked[bucket] += 1
        if self._asked[bucket] >= self._uses_needed and not (
            self.failure or bucket in self.kept or bucket in self.dropped
        ):
            self._record(filled)
        recording = self.kept.get(bucket)
        if recording is None:
            return self.run(filled.batch.features)
        return recording.replay(filled.features)[: filled.batch.rows]

    def __str__(self) -> str:
        """Say what they do now."""
        if self.failure:
            return f"off: {self.failure}"
        return f"on: {len(self.kept)} shapes recorded, {len(self.dropped)} not faster that way"

    def clear(self) -> None:
        """Release the memory of recordings, if there are any."""
        if self.kept:
            self._wait()

    def _wait(self) -> None:
        """Drop all recordings, and need twice as many uses before the next."""
        self.kept.clear()
        self.recorder.forget()
        self._asked.clear()
        self._uses_needed *= 2

    def _record(self, filled: Filled) -> None:
        bucket = filled.bucket
        full = False
        try:
            recording = self.recorder.record(self.run, filled.features)
            again = self.recorder.seconds(lambda: recording.replay(filled.features), REPLAYS)
            launched = self.recorder.seconds(lambda: self.run(filled.batch.features), REPLAYS)
        except RuntimeError as error:
            full, reason = _judge(error)
            if not full:
                self.failure = reason
        else:
            if again < launched:
                self.kept[bucket] = recording
            else:
                self.dropped.add(bucket)
                if not self.kept:
                    self.recorder.forget()
            logger.debug("%s: %.2g s repeated, %.2g s launched", bucket, again, launched)
            return
        if full:
            self._wait()
        else:
            logger.warning("CUDA graphs are off: %s", self.failure)


def _judge(error: RuntimeError) -> tuple[bool, str]:
    """Say whether memory ran out while torch recorded, and what it says.

    What is raised last may be that the recording could not be ended either.
    """
    causes = [error, *filter(None, [error.__context__])]
    return any(map(is_out_of_memory, causes)), first_line(causes[-1])
