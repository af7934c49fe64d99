"""Small proofs that a library computes correctly, each in a child process with a time-out.

A driver that crashes or hangs takes the child with it and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_gpu.doctor.cards import cards
from langchain_gpu.doctor.child import ANSWER, LOADED
from langchain_gpu.doctor.environment import wheels_of
from langchain_gpu.hardware.devices import Device, list_devices
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.utils.extras import is_installed

SECONDS = 10.0
_KILLED = 2.0  # seconds for a killed child to go; one that waits for a dead driver never does
_MOST = 500  # characters of what a library says
_CHILD = "langchain_gpu.doctor.child"

Name = Literal["matrix product", "FAISS search", "ONNX Runtime", "OpenVINO", "llama.cpp"]
OnChild = Callable[[subprocess.Popen[str]], None]
Cause = Literal["", "missing", "wrong", "memory", "error", "crash", "timeout", "slow start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What came of one proof.

    Attributes:
        name: What was tried.
        device: Where, for example `"cuda:0"`; empty where a library listed its own devices.
        passed: Whether it computed what it should.
        dtype: What was computed in, empty where that is nothing to say.
        cause: Why it failed, empty where it passed. `"slow start"`: the time was up while
            libraries were still being loaded, which proves nothing.
        what: The same in words.
        remedy: What to type or to change, where the library's own part knows.
        seconds: The child's whole life, the loading of libraries counted.
        gflops: Achieved GFLOP/s, None where nothing was timed.
        error: Norm of the error over the norm of the result in float64, None where not measured.
        found: Devices or providers that the library names.
        gpus: How many of them are GPUs, None where that was not asked.
    """

    name: Name
    device: str = ""
    passed: bool
    dtype: str = ""
    cause: Cause = ""
    what: str = ""
    remedy: str = ""
    seconds: float = 0.0
    gflops: float | None = None
    error: float | None = None
    found: tuple[str, ...] = ()
    gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A proof that can be run: its name, its place and the child's arguments."""

    name: Name
    device: str
    dtype: str
    words: tuple[str, ...]


def plan(facts: Facts, installed: Callable[[str], bool] = is_installed) -> list[Trial]:
    """Return the proofs that a machine and its libraries call for.

    Args:
        facts: The machine.
        installed: Says whether a module is here.
    """
    devices = list_devices(facts)
    trials: list[Trial] = []
    if installed("torch"):
        trials += _matrix_trials(devices)
    if installed("faiss"):
        trials += _faiss_trials(cards(facts, devices))
    if installed("onnxruntime") and installed("onnx"):
        trials += _onnx_trials(devices)
    if installed("openvino"):
        trials.append(Trial("OpenVINO", "", "", ("openvino",)))
    if installed("xllamacpp"):
        trials.append(Trial("llama.cpp", "", "", ("llama",)))
    return trials


def _matrix_trials(devices: Sequence[Device]) -> Iterator[Trial]:
    for device in devices:
        words = ("matrix", device.kind, device.torch_name, device.dtype, str(device.cores or 1))
        yield Trial("matrix product", str(device), device.dtype, words)


def _faiss_trials(gpus: Sequence[Device]) -> Iterator[Trial]:
    """Try the cards too that torch cannot use: FAISS asks the driver only."""
    cuda = [device for device in gpus if device.kind == "cuda"]
    if cuda and _has_gpu_faiss():
        for device in cuda:
            yield Trial("FAISS search", str(device), "", ("faiss", str(device.index or 0)))
    yield Trial("FAISS search", "cpu", "", ("faiss", "-1"))


def _onnx_trials(devices: Sequence[Device]) -> Iterator[Trial]:
    """Try the best device of each kind: a provider is there for all of them or for none."""
    for kind in ("cuda", "rocm", "xpu", "cpu"):
        device = next((device for device in devices if device.kind == kind), None)
        if device is not None:
            index = -1 if device.index is None else device.index
            words = ("onnx", kind, str(index), str(device.cores or 0))
            yield Trial("ONNX Runtime", str(device), "", words)


def run(trial: Trial, seconds: float = SECONDS, on_child: OnChild | None = None) -> Proof:
    """Run one proof in a child process, which lives no longer than `seconds`.

    Args:
        trial: The proof.
        seconds: From the start of the process.
        on_child: Told of the process as soon as it runs.
    """
    begin = time.perf_counter()
    ended, out, err = _run_child(trial.words, seconds, on_child)
    proof = Proof(
        name=trial.name,
        device=trial.device,
        dtype=trial.dtype,
        passed=False,
        seconds=time.perf_counter() - begin,
    )
    answer = _answer(out)
    if answer is not None:
        return replace(
            proof,
            passed=answer["ok"],
            cause=answer.get("cause", ""),
            what=answer.get("what", "")[:_MOST],
            remedy=answer.get("remedy", ""),
            gflops=answer.get("gflops"),
            error=answer.get("error"),
            found=tuple(answer.get("found", ())),
            gpus=answer.get("gpus"),
        )
    if ended is not None:
        return replace(proof, cause="crash", what=_end(ended, err))
    if LOADED in out:
        return replace(proof, cause="timeout", what=f"no answer in {seconds:g} s")
    return replace(proof, cause="slow start", what=f"still loading libraries after {seconds:g} s")


def _run_child(
    words: Sequence[str], seconds: float, on_child: OnChild | None = None
) -> tuple[int | None, str, str]:
    """Return (exit status or None where time was up, stdout, stderr)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # No `with`: leaving it waits for the child, and one stuck in a driver cannot even be killed.
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", _CHILD, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        if on_child is not None:
            on_child(child)
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(child)
        try:
            out, err = child.communicate(timeout=_KILLED)
        except subprocess.TimeoutExpired as late:
            return None, _said(late.stdout), _said(late.stderr)
        return None, out, err
    except BaseException:  # Ctrl-C reaches this process only: the child has a session of its own
        kill(child)
        raise
    return child.returncode, out, err


def kill(child: subprocess.Popen[str]) -> None:
    """End a child and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:  # Windows
            child.kill()


def _said(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _answer(out: str) -> dict[str, Any] | None:
    """Return the child's answer, among whatever libraries print."""
    for line in reversed(out.splitlines()):
        if line.startswith(ANSWER):
            answer: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
            return answer
    return None


def _end(status: int, err: str) -> str:
    try:
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    except ValueError:
        name = f"signal {-status}"
    lines = err.strip().splitlines()
    return f"the process died ({name})" + (f": {lines[-1].strip()[:_MOST]}" if lines else "")


def _has_gpu_faiss() -> bool:
    """Say whether a GPU wheel of FAISS is installed, without importing it."""
    return any("gpu" in name.lower() for name in wheels_of("faiss")["faiss"])


__all__ = ["SECONDS", "OnChild", "Proof", "Trial", "kill", "plan", "run"]
