"""Models come and go on OpenVINO, and Ctrl-C stays what it is."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

CODE = """
import gc, os, signal, threading, time
import numpy as np
import openvino
import openvino.opset13 as ops
from langchain_gpu.engine.runtimes.openvino_core import apart, core

signal.signal(signal.SIGINT, signal.default_int_handler)
hidden = ops.parameter([1, 8], np.float32)
program = openvino.Model([ops.relu(hidden)], [hidden])

def load():
    return [core().compile_model(program, "CPU")]

one, other, third = load(), load(), load()
other.clear()
one.clear()
gc.collect()
thread = threading.Thread(target=third.clear)
thread.start()
thread.join()
gc.collect()
apart(lambda: openvino.Core().compile_model(program, "CPU")) and gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_ctrl_c_after_models_that_went_in_another_order() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
