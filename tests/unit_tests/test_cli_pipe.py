"""A pipe that nobody reads any more, at the end of a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from langchain_gpu.cli.pipe import STATUS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes of Unix")

# What commands write with: Python's own stream, whole or piece by piece, and rich's console.
WRITTEN = "import sys; sys.stdout.write('a line\\n')"
STREAMED = """
from langchain_gpu.cli.output import Typewriter
Typewriter().write("an answer " * 10)
"""
DRAWN = "from langchain_gpu.cli.output import stdout; stdout().print('a table')"
WARNED = "from langchain_gpu.cli.output import say; say('so far')"
# A command of typer's, in place of the real ones.
COMMAND = """
import typer
from langchain_gpu import cli
from langchain_gpu.cli import run

app = typer.Typer()

@app.command()
def command() -> None:
    exec({code!r})

run.app = app
cli.main([])
"""


def ended(code: str, *, closed: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose output goes into a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    streams: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    streams[closed] = writer
    command = [sys.executable, "-c", COMMAND.format(code=code)]
    try:
        done: subprocess.CompletedProcess[bytes] = subprocess.run(  # noqa: S603
            command, **streams, timeout=60, check=False
        )
    finally:
        os.close(writer)
    return done


@pytest.mark.parametrize("code", [WRITTEN, STREAMED, DRAWN], ids=["written", "streamed", "drawn"])
def test_a_reader_that_has_gone_ends_it_without_a_word(code: str) -> None:
    done = ended(code, closed="stdout")
    assert (done.stderr, done.returncode) == (b"", STATUS)


def test_a_message_that_nobody_reads_does_so_too() -> None:
    done = ended(WARNED, closed="stderr")
    assert (done.stdout, done.returncode) == (b"", STATUS)


@pytest.mark.parametrize("code", [WRITTEN, STREAMED, DRAWN], ids=["written", "streamed", "drawn"])
@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_was_closed_beforehand_is_no_error(code: str, closed: int) -> None:
    command = [sys.executable, "-c", COMMAND.format(code=f"{WARNED}\n{code}")]
    shell = ["/bin/sh", "-c", f'"$@" {closed}>&-', "sh", *command]
    done: subprocess.CompletedProcess[bytes] = subprocess.run(  # noqa: S603
        shell, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert [bool(done.stdout), done.stderr] == [closed == 2, b"" if closed == 2 else b"so far\n"]


def test_an_error_keeps_its_status_and_its_message() -> None:
    done = ended("raise ValueError('no store')", closed="stdin")
    assert (done.stderr, done.returncode) == (b"Error: no store\n", 1)
