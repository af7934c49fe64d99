"""What a terminal shows, kept as files and compared as text.

With `SNAPSHOTS=write` in the environment the files are written anew; read the difference before
you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "snapshots"
WIDTH = 80


def trimmed(text: str) -> str:
    """Take the blanks off the ends of lines, none of which may be wider than the terminal."""
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= WIDTH
    return "\n".join(lines) + "\n"


def compare(name: str, text: str) -> None:
    """Compare with the file of that name."""
    file = FOLDER / name
    if os.environ.get("SNAPSHOTS") == "write":
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), f"{name} differs; if it should, run with SNAPSHOTS=write"
