"""The bar of `index` and of the demo."""

from __future__ import annotations

import io

from rich.console import Console

from langchain_gpu.cli.progress import IndexProgress


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_came_before_the_bar_is_not_counted() -> None:
    clock, out = Clock(), io.StringIO()
    progress = IndexProgress(20, Console(file=out, width=80, get_time=clock))
    clock.now = 100.0  # the model is loaded
    with progress:
        clock.now = 110.0
        progress.done(20)
    assert "20/20 2.0 documents/s took 0:00:10" in out.getvalue()


def test_it_is_called_what_it_follows() -> None:
    out = io.StringIO()
    with IndexProgress(1, Console(file=out, width=80), "Embedding") as progress:
        progress.done(1)
    assert out.getvalue().startswith("Embedding ")
