"""Proofs run in children, and what crashes, hangs or lies becomes a problem with a remedy."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu.doctor import Proof, child, proofs, prove, report
from langchain_gpu.doctor.proofs import Trial, plan, run
from langchain_gpu.doctor.waves import run_wave, waves
from tests.unit_tests.machines import CPU_BUILD, M3_MAX, MI300X, NO_GPU, RTX_4090, TWO_H100

# A processor like this one, without the units that would make "auto" take bfloat16.
PLAIN = replace(NO_GPU, cpu=replace(NO_GPU.cpu, isa=(), cores=1))
TRIAL = Trial("matrix product", "cpu", "float32", ("matrix", "cpu", "cpu", "float32", "1"))


def everything(module: str) -> bool:
    return True


Fake = Callable[[str], None]


@pytest.fixture
def torch_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a module `torch` before the real one, in the child only."""

    def make(body: str) -> None:
        (tmp_path / "torch.py").write_text(textwrap.dedent(body))
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return make


def test_this_processor_computes_right() -> None:
    found = {(proof.name, proof.device): proof for proof in prove(PLAIN, seconds=120)}
    assert set(found) == {
        ("matrix product", "cpu"),
        ("FAISS search", "cpu"),
        ("ONNX Runtime", "cpu"),
        ("OpenVINO", ""),
        ("llama.cpp", ""),
    }
    assert all(proof.passed for proof in found.values()), found
    for name in ("matrix product", "FAISS search", "ONNX Runtime"):
        gflops = found[name, "cpu"].gflops
        assert gflops is not None
        assert gflops > 0
    error = found["matrix product", "cpu"].error
    assert error is not None
    assert 0 < error < 1e-5
    assert found["ONNX Runtime", "cpu"].found == ("CPUExecutionProvider",)
    assert found["OpenVINO", ""].found[0].startswith("CPU (")
    assert found["llama.cpp", ""].gpus == 0


def test_every_card_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "_has_gpu_faiss", lambda: True)
    trials = plan(TWO_H100, everything)
    assert [(trial.name, trial.device) for trial in trials] == [
        ("matrix product", "cuda:0"),
        ("matrix product", "cuda:1"),
        ("matrix product", "cpu"),
        ("FAISS search", "cuda:0"),
        ("FAISS search", "cuda:1"),
        ("FAISS search", "cpu"),
        ("ONNX Runtime", "cuda:0"),
        ("ONNX Runtime", "cpu"),
        ("OpenVINO", ""),
        ("llama.cpp", ""),
    ]


def test_faiss_is_tried_on_a_card_that_torch_was_not_built_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proofs, "_has_gpu_faiss", lambda: True)
    trials = plan(replace(TWO_H100, torch=CPU_BUILD), everything)
    tried = [trial.device for trial in trials if trial.name == "FAISS search"]
    assert tried == ["cuda:0", "cuda:1", "cpu"]
    assert [trial.device for trial in trials if trial.name == "matrix product"] == ["cpu"]


def test_rocm_speaks_through_torchs_cuda_and_has_no_faiss() -> None:
    trials = plan(MI300X, everything)
    assert trials[0].words[:4] == ("matrix", "rocm", "cuda:0", "bfloat16")
    assert [trial.device for trial in trials if trial.name == "FAISS search"] == ["cpu"]


def test_what_is_not_installed_is_not_tried() -> None:
    assert plan(M3_MAX, lambda module: False) == []
    names = {trial.name for trial in plan(M3_MAX, lambda name: name == "torch")}
    assert names == {"matrix product"}


def test_a_crash_ends_the_child_only(torch_that: Fake) -> None:
    torch_that("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    proof = run(TRIAL, 60)
    assert (proof.passed, proof.cause) == (False, "crash")
    assert "SIGSEGV" in proof.what


def test_an_abort_says_its_last_words(torch_that: Fake) -> None:
    torch_that(
        "import os, sys\nsys.stderr.write('no kernel image\\n')\nsys.stderr.flush()\nos.abort()"
    )
    proof = run(TRIAL, 60)
    assert proof.what == "the process died (SIGABRT): no kernel image"


HANG = """
    import os, pathlib, subprocess, sys, time
    class Generator:
        def manual_seed(self, seed):
            helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            pathlib.Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {helper.pid}")
            time.sleep(600)
    float32 = None
    def set_num_threads(count): pass
"""


def test_a_hang_is_ended_with_all_that_it_started(
    torch_that: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(file))
    torch_that(HANG)
    for seconds in (5, 20, 80):  # a busy machine may still be loading libraries after the first
        proof = run(TRIAL, seconds)
        if proof.cause != "slow start":
            break
    assert (proof.cause, proof.what) == ("timeout", f"no answer in {seconds} s")
    for pid in map(int, file.read_text().split()):
        assert not alive(pid)


def alive(pid: int) -> bool:
    """Say whether a process runs; one that waits to be collected does not."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.1)
    return True


def test_libraries_that_take_long_to_load_prove_nothing(torch_that: Fake) -> None:
    torch_that("import time; time.sleep(600)")
    proof = run(TRIAL, 3)
    assert proof.cause == "slow start"
    (problem,) = report(NO_GPU, proofs=[proof])["problems"]
    assert problem["severity"] == "advice"
    assert "--proof-timeout" in problem["remedy"]


def test_out_of_memory_is_recognized(torch_that: Fake) -> None:
    torch_that(
        """
        class OutOfMemoryError(RuntimeError): pass
        class Generator:
            def manual_seed(self, seed):
                raise OutOfMemoryError("CUDA out of memory. Tried to allocate 32.00 MiB.")
        float32 = None
        def set_num_threads(count): pass
        """
    )
    assert run(TRIAL, 60).cause == "memory"


def test_noise_on_stdout_is_not_the_answer(torch_that: Fake) -> None:
    torch_that("print('langchain-gpu-answer', end='')\nprint('{}')\nraise ImportError('libcudnn')")
    proof = run(TRIAL, 60)
    assert (proof.cause, proof.what) == ("error", "ImportError: libcudnn")


def test_ctrl_c_ends_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def interrupted(self: subprocess.Popen[str], **options: Any) -> tuple[str, str]:
        started.append(self.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(TRIAL, 60)
    assert not alive(started[0])


def test_cards_are_tried_together_and_processors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "_has_gpu_faiss", lambda: True)
    trials = plan(TWO_H100, everything)
    assert [[(trial.name, trial.device) for trial in wave] for wave in waves(trials)] == [
        [("matrix product", "cuda:0"), ("matrix product", "cuda:1")],
        [("matrix product", "cpu")],
        [("FAISS search", "cuda:0"), ("FAISS search", "cuda:1")],
        [("FAISS search", "cpu")],
        [("ONNX Runtime", "cuda:0")],
        [("ONNX Runtime", "cpu")],
        [("OpenVINO", "")],
        [("llama.cpp", "")],
    ]
    many = [replace(TRIAL, device=f"cuda:{number}") for number in range(8)]
    assert [len(wave) for wave in waves(many, 3)] == [3, 3, 2]
    assert [len(wave) for wave in waves(many, 1)] == [1] * 8


CARDS = [replace(TRIAL, device=f"cuda:{number}") for number in range(2)]
MEET = """
    import os, pathlib, time
    folder = pathlib.Path(os.environ["MEET"])
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.05)
    raise ImportError("both are here")
"""


def test_they_really_run_at_the_same_time(
    torch_that: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet = tmp_path / "meet"
    meet.mkdir()
    monkeypatch.setenv("MEET", str(meet))
    torch_that(MEET)  # each waits for the other
    found = run_wave(CARDS, 60)
    assert [(proof.device, proof.what) for proof in found] == [
        ("cuda:0", "ImportError: both are here"),
        ("cuda:1", "ImportError: both are here"),
    ]


def test_ctrl_c_ends_all_that_run_together(
    torch_that: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(file))
    torch_that(
        """
        import os, time
        with open(os.environ["PIDS"], "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(600)
        """
    )

    def interrupted(self: Future[Proof]) -> Proof:
        while not file.exists() or len(file.read_text().split()) < 2:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_wave(CARDS, 100)
    assert time.monotonic() - begin < 90  # and not their time-out
    pids = list(map(int, file.read_text().split()))
    assert len(pids) == 2
    assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("dtype", "error", "fine"),
    [
        ("float32", 1e-6, True),
        ("float32", 3e-4, False),  # what TF32 leaves
        ("float16", 2e-4, True),
        ("bfloat16", 2e-3, True),
        ("bfloat16", 0.5, False),
        ("bfloat16", float("nan"), False),
        ("float32", float("inf"), False),
    ],
)
def test_how_exact_a_product_must_be(dtype: str, error: float, *, fine: bool) -> None:
    answer = child._checked(error, dtype, 1.0)
    assert answer["ok"] is fine
    assert fine or answer["cause"] == "wrong"


def test_a_search_that_finds_other_rows_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss: Any = pytest.importorskip("faiss")
    real = faiss.IndexFlatIP.search

    def lie(self: Any, *args: Any) -> tuple[Any, Any]:
        scores, rows = real(self, *args)
        return scores[:, ::-1], rows[:, ::-1]

    monkeypatch.setattr(faiss.IndexFlatIP, "search", lie)
    assert child.faiss_search(-1)["cause"] == "wrong"

    def blind(self: Any, queries: Any, k: int) -> tuple[Any, Any]:
        return np.full((64, k), np.nan), np.full((64, k), -1)

    monkeypatch.setattr(faiss.IndexFlatIP, "search", blind)
    assert child.faiss_search(-1)["cause"] == "wrong"


def test_a_cpu_wheel_has_no_gpu_search() -> None:
    if hasattr(pytest.importorskip("faiss"), "StandardGpuResources"):
        pytest.skip("a GPU wheel is installed")
    assert child.faiss_search(0)["cause"] == "missing"


def failed(
    name: proofs.Name, cause: proofs.Cause, what: str = "it", device: str = "cuda:0"
) -> Proof:
    return Proof(name=name, device=device, passed=False, cause=cause, what=what, dtype="bfloat16")


@pytest.mark.parametrize(
    ("proof", "says", "remedy"),
    [
        (failed("matrix product", "timeout", "no answer in 10 s"), "no answer", "Xid"),
        (failed("matrix product", "crash"), "matrix product on cuda:0 (NVIDIA GeForce", "Xid"),
        (failed("matrix product", "wrong"), "matrix product", "ECC"),
        (
            replace(failed("matrix product", "wrong"), dtype="float32"),
            "matrix product",
            "unset NVIDIA_TF32_OVERRIDE",
        ),
        (failed("matrix product", "memory"), "matrix product", "`nvidia-smi` names"),
        (failed("matrix product", "error", device="cpu"), "on cpu", "--force-reinstall torch"),
        (failed("FAISS search", "crash"), "FAISS search", "langchain-gpu[faiss-gpu]"),
        (failed("FAISS search", "wrong", device="cpu"), "on cpu", "--force-reinstall faiss"),
        (failed("OpenVINO", "error", device=""), "OpenVINO: it", "--force-reinstall openvino"),
        (failed("llama.cpp", "crash", device=""), "llama.cpp: it", "xllamacpp"),
        (failed("ONNX Runtime", "wrong"), "ONNX Runtime", 'backend="torch"'),
    ],
)
def test_a_failed_proof_is_a_problem_with_a_remedy(proof: Proof, says: str, remedy: str) -> None:
    (problem,) = report(RTX_4090, proofs=[proof])["problems"]
    assert problem["severity"] == "problem"
    assert says in problem["what"]
    assert remedy in problem["remedy"]


def test_signals_have_names() -> None:
    assert proofs._end(-signal.SIGKILL, "") == "the process died (SIGKILL)"
    assert proofs._end(3, "a\nb\n") == "the process died (exit status 3): b"
    assert "signal 250" in proofs._end(-250, "")


def test_an_unknown_proof_is_an_answer_too() -> None:
    ended, out, _ = proofs._run_child(["none"], 60)
    assert ended == 0
    answer = proofs._answer(out)
    assert answer is not None
    assert "KeyError" in answer["what"]
