"""The progress bar of `index` and the demo: documents done, documents per second, time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from langchain_gpu.events import BatchDone, Event


class IndexProgress:
    """Follows `sync`, and the batches of the embedding between its steps.

    A batch of documents may take minutes; its chunks move the bar meanwhile.

    Args:
        files: How many there are.
        console: Where the bar is drawn.
        name: What goes on.
    """

    def __init__(self, files: int, console: Console, name: str = "Indexing") -> None:
        self._bar = Progress(
            TextColumn(name),
            BarColumn(bar_width=20),
            _Documents(),
            _Rate(),
            _Time(elapsed_when_finished=True),
            console=console,
        )
        self._task = self._bar.add_task("", total=files, start=False)
        self._done = 0
        self._files = self._chunks = self._embedded = 0

    def __enter__(self) -> Self:
        self._bar.start_task(self._task)
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):  # what is said next matters more
            self._bar.update(self._task, visible=False)
        self._bar.stop()

    def embedding(self, files: int, chunks: int) -> None:
        """Say that so many files come next, with so many chunks."""
        self._files, self._chunks, self._embedded = files, chunks, 0

    def done(self, files: int) -> None:
        """Say that so many more files are done."""
        self._done += files
        self._files = self._chunks = 0
        self._bar.update(self._task, completed=self._done)

    def on_event(self, event: Event) -> None:
        """Take a batch of the embedding into account."""
        if isinstance(event, BatchDone) and self._chunks:
            self._embedded += event.items
            share = min(1.0, self._embedded / self._chunks)
            self._bar.update(self._task, completed=self._done + self._files * share)


class _Documents(MofNCompleteColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.speed
        if task.finished and task.finished_time:  # all of it, as the summary counts
            speed = task.completed / task.finished_time
        if speed is None:
            return Text("- documents/s")
        return Text(f"{speed:,.{0 if speed >= 100 else 1}f} documents/s")  # noqa: PLR2004


class _Time(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        return Text("took " if task.finished else "ETA ") + super().render(task)
