"""What a terminal shows, kept as files and compared as text.

With `SNAPSHOTS=write` in the environment the files are written anew; read the difference before
you commit it.
"""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

FOLDER = Path(__file__).parent / "snapshots"
WIDTH = 80


def trimmed(text: str, width: int = WIDTH) -> str:
    """Take the blanks off the ends of lines, none of which may be wider than the terminal."""
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    return "\n".join(lines) + "\n"


def drawn(renderable: Any, width: int = WIDTH) -> str:
    """Return what rich prints of something, trimmed."""
    file = StringIO()
    Console(file=file, width=width).print(renderable)
    return trimmed(file.getvalue(), width)


def compare(name: str, text: str) -> None:
    """Compare with the file of that name."""
    file = FOLDER / name
    if os.environ.get("SNAPSHOTS") == "write":
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), f"{name} differs; if it should, run with SNAPSHOTS=write"
