"""Output for people: results on stdout, all else on stderr, within 80 columns."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from langchain_gpu.events import GPUWarning

if TYPE_CHECKING:
    from langchain_core.documents import Document

NARROW = 80


def stdout() -> Console:
    """Return a console for results."""
    return Console(highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    """Return a console for everything else."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(message: str, style: str = "") -> None:
    """Print one line to stderr, however long it is."""
    stderr().print(Text(message, style), soft_wrap=True)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def show_error(error: BaseException) -> None:
    """Print an error without its traceback."""
    message = str(error).strip() or type(error).__name__
    if isinstance(error, KeyError | AssertionError):  # their text alone says nothing
        message = f"{type(error).__name__}: {message}"
    for note in getattr(error, "__notes__", ()):
        message += f" ({note})"
    say(f"Error: {message}", "red")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show our own warnings as one line each, and no one else's."""
    levels = {name: logging.getLogger(name).level for name in ("pypdf", "transformers")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", GPUWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"Warning: {message}", "yellow")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def quiet_stdout(*, active: bool) -> Iterator[None]:
    """Send to stderr whatever would go to stdout, which JSON will have for itself."""
    with redirect_stdout(sys.stderr) if active else nullcontext():
        yield


def print_json(value: Any) -> None:
    """Print JSON to stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


class Typewriter:
    """Prints text as it comes, broken between words where a line is full.

    Args:
        width: Columns; None breaks nowhere but at the text's own newlines.
    """

    def __init__(self, width: int | None = None) -> None:
        self._width = width
        self._column = 0
        self._gap = self._word = ""  # a space and the word behind it, until the word is complete

    def write(self, text: str) -> None:
        """Print the words that are complete."""
        for character in text:
            if not character.isspace():
                self._word += character
                continue
            self._print_word()
            if character == "\n":
                self._print_line_end()
            else:
                self._gap += character
        sys.stdout.flush()

    def close(self) -> None:
        """Print the rest, and end the line."""
        self._print_word()
        if self._column:
            self._print_line_end()
        sys.stdout.flush()

    def _print_word(self) -> None:
        if not self._word:
            return
        end = self._column + len(self._gap) + len(self._word)
        if self._width is not None and self._column and end > self._width:
            self._print_line_end()
        sys.stdout.write(self._gap + self._word)
        self._column += len(self._gap) + len(self._word)
        self._gap = self._word = ""

    def _print_line_end(self) -> None:
        sys.stdout.write("\n")
        self._column, self._gap = 0, ""


def shown_path(source: str) -> str:
    """Shorten a path under the current folder, and escape what a terminal would obey."""
    here = os.getcwd() + os.sep  # noqa: PTH109 - text is wanted
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in source.removeprefix(here)
    )


def shown_source(metadata: dict[str, Any]) -> str:
    """Name a chunk's place: its file, and its page, row or line."""
    places = [f"{key} {metadata[key]}" for key in ("page", "row", "line") if key in metadata]
    return ", ".join([shown_path(str(metadata.get("source", "unknown source"))), *places])


def show_sources(documents: Iterable[Document], console: Console) -> None:
    """Print each source with its score and its first line."""
    for number, document in enumerate(documents, start=1):
        score = document.metadata.get("relevance_score", document.metadata.get("score"))
        shown = "     " if score is None else f"{score:5.2f}"
        head = Text.assemble((f"{number:3} ", "dim"), (shown, "cyan"), "  ")
        console.print(head + Text(shown_source(document.metadata), "bold"), soft_wrap=True)
        text = Text(" " * 11 + " ".join(document.page_content.split()), "dim")
        text.truncate(min(console.width, NARROW), overflow="ellipsis")
        console.print(text, soft_wrap=True)
