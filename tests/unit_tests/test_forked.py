"""A process that was forked from one that has computed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.unit_tests.tiny_chat import build_chat

# The child has models of its own, and ends with what they said.
_FORKS = """
import os, signal, sys, warnings
from langchain_gpu import GPUEmbeddings, GPULLM

embedder, chat = sys.argv[1:]

def embed():
    return len(GPUEmbeddings(model=embedder, device="cpu").embed_query("gpu"))

def write():
    return GPULLM(model=chat, device="cpu", max_tokens=1).invoke("gpu")

def said(use):
    try:
        return use()
    except RuntimeError as error:
        return error

if not os.fork():  # nothing was loaded yet
    signal.alarm(60)
    print("early:", said(embed), flush=True)
    os._exit(0)
os.wait()
embed()
print(os.getpid())
if not os.fork():
    signal.alarm(60)
    print("embeds:", said(embed), flush=True)
    print("writes:", said(write), flush=True)
    os._exit(0)
os.wait()
print("parent:", embed())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_another_model_is_refused_where_it_would_wait_for_ever(
    tiny: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    chat = build_chat(tmp_path_factory.mktemp("chat"))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _FORKS, tiny("bert"), chat],
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    )
    early, parent, embeds, writes, after = done.stdout.splitlines()
    assert (early, after) == ("early: 24", "parent: 24")
    for told in (embeds, writes):
        assert f"a model was loaded in process {parent}, from which this one was forked" in told
        assert 'the method "spawn"' in told
