"""Ctrl-C in a terminal, pressed in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_gpu.cli.interrupt import STATUS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

# The child says when it may be interrupted. A script's background may ignore SIGINT: not this one.
START = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
HELD = """
from concurrent.futures import ThreadPoolExecutor
from langchain_gpu import cli
import langchain_gpu.cli.run

def run(arguments):
    with ThreadPoolExecutor(1) as pool:  # what leaves it waits for its thread
        pool.submit(threading.Event().wait)
        print("ready", flush=True)
        threading.Event().wait()

langchain_gpu.cli.run.run = run
cli.main()
"""
EXPLAINED = """
from concurrent.futures import ThreadPoolExecutor
from langchain_gpu import cli
from langchain_gpu.cli import interrupt
import langchain_gpu.cli.run

def run(arguments):
    with interrupt.explained("All stays."), ThreadPoolExecutor(1) as pool:
        pool.submit(FIRST)
        print("ready", flush=True)
        threading.Event().wait()

langchain_gpu.cli.run.run = run
cli.main()
"""
WITH_A_SERVER = """
from langchain_gpu.llama.endpoint import Endpoint
endpoint = Endpoint()
"""
IMPORTING = """
import importlib.abc

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "langchain_gpu.cli.run":
            print("ready", flush=True)
            threading.Event().wait()

sys.meta_path.insert(0, Slow())
from langchain_gpu.cli import main
main()
"""


def interrupted(code: str, folder: Path, stderr: int = subprocess.PIPE) -> str:
    """Interrupt a child when it says that it is ready; return what it said on a piped stderr."""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", START + code],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == STATUS
        finally:
            child.kill()
        return child.stderr.read() if child.stderr is not None else ""


@pytest.mark.parametrize(
    "code",
    [HELD, WITH_A_SERVER + HELD, IMPORTING],
    ids=["held by a thread", "with a server", "importing"],
)
def test_it_ends_the_process_and_leaves_nothing(code: str, tmp_path: Path) -> None:
    assert interrupted(code, tmp_path) == "", "no traceback"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "work", ["threading.Event().wait", "int"], ids=["held by a thread", "free to go"]
)
def test_it_says_once_what_stays(work: str, tmp_path: Path) -> None:
    assert interrupted(EXPLAINED.replace("FIRST", work), tmp_path) == "All stays.\n"


def test_the_prompt_gets_a_line_of_its_own(tmp_path: Path) -> None:
    """A status line or half an answer stands there when the process ends."""
    master, terminal = os.openpty()
    held = HELD.replace("cli.main()", "sys.stderr.write('looking'); cli.main()")
    with open(master, encoding="utf-8", newline="") as seen:  # noqa: PTH123 - a descriptor
        interrupted(held, tmp_path, stderr=terminal)
        os.write(terminal, b"$ \n")
        os.close(terminal)
        lines = [seen.readline() for _ in range(2)]
    assert [line.rstrip("\r\n").replace("\x1b[?25h", "") for line in lines] == ["looking", "$ "]
