"""The reader of a pipe has gone: `langchain-gpu ask ... | head -3`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

STATUS = 141  # 128 + SIGPIPE, as a shell says of the tools which that signal ends


@contextmanager
def ends_quietly() -> Iterator[None]:
    """Exit with `STATUS` and without a word where nobody reads the output any more.

    The signal itself stays ignored, as Python has it: it would also end the process where a server
    closes its connection. A stream that was closed beforehand (`>&-`) is no error.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what fits the buffer meets the pipe only here
    except (OSError, SystemExit) as error:
        # Typer and rich make an exit with status 1 of the error.
        if not any(isinstance(each, BrokenPipeError) for each in (error, error.__context__)):
            raise
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                _let_go(stream)
        sys.exit(STATUS)


def _let_go(stream: TextIO) -> None:
    """Lead nowhere what a broken stream still holds: Python would complain of it at its end."""
    try:
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


__all__ = ["STATUS", "ends_quietly"]
