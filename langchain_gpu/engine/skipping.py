"""`on_error="skip"`: rows for the texts that can be embedded, a reason for each that cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np

from langchain_gpu.engine.checks import non_finite, text_problem
from langchain_gpu.engine.encoder import Encoder, Vectors
from langchain_gpu.engine.engine import Engine
from langchain_gpu.engine.item_errors import about_items
from langchain_gpu.engine.pipeline import LARGEST_CHUNK, Progress
from langchain_gpu.engine.report import Rows, Skipped, Tally
from langchain_gpu.engine.tasks.embed import EmbedOptions

_HARMLESS = "a"  # a text to which nobody can object
Places = list[int]


def run_skipping(
    engine: Engine[str],
    encoder: Encoder,
    texts: Sequence[str],
    options: EmbedOptions,
    *,
    max_items: int | None = None,
    progress: Progress | None = None,
) -> Rows:
    """Compute one row per text; those of texts that cannot be embedded are NaN.

    Rows that were finished before an error are kept, and not computed again.

    Args:
        engine: Runs the encoder.
        encoder: Tokenizes as the engine does.
        texts: What to embed.
        options: How they are to be read.
        max_items: Texts per batch; None for no limit.
        progress: Called with the number of texts finished or skipped since the last call.

    Raises:
        Exception: Any error that no text causes, as `Engine.run` raises it.
    """
    began = perf_counter()
    vectors = np.full((len(texts), engine.dimension), np.nan, np.float32)
    run = _SkippingRun(engine, encoder, texts, options, max_items, progress, vectors)
    run.go()
    run.tally.truncated += run.truncated - run.skipped.keys()
    report = run.tally.report(items=len(texts), seconds=perf_counter() - began)
    skipped = tuple(Skipped(*each) for each in sorted(run.skipped.items()))
    return Rows(vectors, replace(report, skipped=skipped))


def texts_among(items: Sequence[Any]) -> tuple[Places, dict[int, str]]:
    """Return the positions of the texts that can be embedded, and by position why others cannot."""
    skipped = {
        place: problem
        for place, item in enumerate(items)
        if (problem := text_problem(item)) is not None
    }
    return [place for place in range(len(items)) if place not in skipped], skipped


def spread_rows(rows: Rows, places: Places, skipped: Mapping[int, str]) -> Rows:
    """Insert rows of NaN for the texts that were skipped.

    Args:
        rows: Of the texts at `places`. Those it skipped, or that are not finite, are skipped too.
        places: Position of each row among all texts.
        skipped: Why a text has no row, by position.
    """
    skipped = dict(skipped)
    size = len(places) + len(skipped)
    skipped |= {places[each.index]: each.reason for each in rows.report.skipped}
    for row in non_finite(rows.vectors):
        skipped.setdefault(places[row], "the model returned NaN or infinity")
    vectors = np.full((size, rows.vectors.shape[1]), np.nan, rows.vectors.dtype)
    vectors[places] = rows.vectors
    vectors[list(skipped)] = np.nan
    report = replace(
        rows.report,
        items=size,
        truncated=tuple(places[row] for row in rows.report.truncated),
        skipped=tuple(Skipped(*each) for each in sorted(skipped.items())),
    )
    return Rows(vectors, report)


@dataclass(slots=True)
class _SkippingRun:
    """One call of `run_skipping`: which rows are computed, and which texts are skipped."""

    engine: Engine[str]
    encoder: Encoder
    texts: Sequence[str]
    options: EmbedOptions
    max_items: int | None
    progress: Progress | None
    vectors: Vectors
    tally: Tally = field(default_factory=Tally)
    truncated: set[int] = field(default_factory=set)
    skipped: dict[int, str] = field(default_factory=dict)

    def go(self) -> None:
        places = list(range(len(self.texts)))
        problem = _attempt(self._compute, places)
        if problem is None and not self.skipped:
            return
        # Raises where a setting makes every text fail: the texts are not the cause then.
        self.engine.run([_HARMLESS], self.options)
        if problem is None:
            return
        # Most such texts are too long, which tokenizing finds without a forward pass.
        chunks = range(0, len(places), LARGEST_CHUNK)
        self._bisect(self._tokenize, [places[at : at + LARGEST_CHUNK] for at in chunks])
        self._bisect(self._compute, [self._left(places)])

    def _bisect(self, work: Callable[[Places], object], parts: list[Places]) -> None:
        """Do the work part by part; halve a part that fails, down to the texts that cause it."""
        parts.reverse()
        while parts:
            part = parts.pop()
            problem = _attempt(work, part)
            if problem is None:
                continue
            if len(part) == 1:
                self._skip(part[0], 0, problem)
                if self.progress is not None:
                    self.progress(1)
                continue
            left = self._left(part)
            middle = len(left) // 2
            parts += [half for half in (left[middle:], left[:middle]) if half]

    def _left(self, places: Places) -> Places:
        """Return the positions that have no row yet and are not skipped."""
        rows = non_finite(self.vectors[places])
        return [places[row] for row in rows if places[row] not in self.skipped]

    def _tokenize(self, places: Places) -> None:
        self.encoder.tokenize([self.texts[place] for place in places], self.options)

    def _compute(self, places: Places) -> None:
        """Compute rows; those that are finished stay, even if an error ends the run."""
        whole = len(places) == len(self.texts)
        size = len(places), self.engine.dimension
        rows = self.vectors if whole else np.full(size, np.nan, np.float32)

        def refused(at: int, error: Exception) -> None:
            self._skip(places[at], at, str(error))

        try:
            self.engine.run(
                [self.texts[place] for place in places],
                replace(self.options, refused=refused),
                max_items=self.max_items,
                out=rows,
                progress=self.progress,
                tally=self.tally,
            )
        finally:
            if not whole:
                self.vectors[places] = rows
            self.truncated.update(places[at] for at in self.tally.truncated)
            self.tally.truncated.clear()

    def _skip(self, place: int, at: int, problem: str) -> None:
        """Store the reason, without the position within the part, which the caller cannot know."""
        self.skipped[place] = problem.removeprefix(f"text {at} ").removeprefix(f"item {at} ")


def _attempt(work: Callable[[Places], object], places: Places) -> str | None:
    """Return the message of an error that a text causes; None where there was none.

    Raises:
        Exception: Any other error.
    """
    try:
        work(places)
    except Exception as error:
        if not about_items(error):
            raise
        return str(error)
    return None


__all__ = ["run_skipping", "spread_rows", "texts_among"]
