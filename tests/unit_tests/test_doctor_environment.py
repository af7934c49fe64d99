"""Wheels, system, Ollama and what the proofs of libraries tell: each trap with its remedy."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from langchain_gpu.doctor import Proof, child, ollama, report
from langchain_gpu.doctor.environment import (
    Environment,
    find_pickled,
    hub_cache,
    read_environment,
    swap_used,
)
from langchain_gpu.doctor.judge import _llama_wheel
from langchain_gpu.doctor.ollama import Loaded, Ollama, read_ollama
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import Nvidia
from langchain_gpu.hardware.torch_build import TorchBuild
from tests.unit_tests.machines import CPU_BUILD, M3_MAX, MI300X, NO_GPU, RTX_4090, RX_7900_XTX

GIB = 2**30
CPU_FAISS = {"faiss": {"faiss-cpu": "1.15.1"}}
BLACKWELL = replace(
    RTX_4090,
    nvidia=replace(RTX_4090.nvidia, gpus=(GPU(name="RTX 5090", capability="12.0"),)),
)


def told(
    facts: Facts, *, proofs: list[Proof] | None = None, **env: Any
) -> list[tuple[str, str, str]]:
    found = report(facts, environment=Environment(**env), proofs=proofs or [])["problems"]
    return [(problem["severity"], problem["what"], problem["remedy"]) for problem in found]


def only(facts: Facts, *, proofs: list[Proof] | None = None, **env: Any) -> tuple[str, str, str]:
    (found,) = told(facts, proofs=proofs, **env)
    return found


def test_two_faiss_wheels() -> None:
    both = {"faiss": {"faiss-gpu": "1.15.1", "faiss-cpu": "1.15.1"}}
    severity, what, remedy = only(RTX_4090, wheels=both)
    assert severity == "problem"
    assert what.startswith("faiss-cpu and faiss-gpu overwrite one another")
    assert (
        remedy == 'pip uninstall -y faiss-cpu faiss-gpu && pip install "langchain-gpu[faiss-gpu]"'
    )
    assert only(NO_GPU, wheels=both)[2].endswith('"langchain-gpu[faiss]"')


def test_two_onnx_wheels() -> None:
    both = {"onnxruntime": {"onnxruntime-gpu": "1.31.1", "onnxruntime": "1.31.1"}}
    severity, what, remedy = only(RTX_4090, wheels=both)
    assert severity == "problem"
    assert "module `onnxruntime`" in what
    assert remedy.endswith('pip install "langchain-gpu[onnx-gpu]"')
    assert only(MI300X, wheels=both)[2].endswith("pip install onnx onnxruntime-migraphx")


def test_faiss_for_the_cpu_beside_a_card() -> None:
    severity, what, remedy = only(RTX_4090, wheels=CPU_FAISS)
    assert severity == "advice"
    assert what == (
        "faiss-cpu 1.15.1 searches on the CPU, and there is cuda:0 (NVIDIA GeForce RTX 4090)"
    )
    assert remedy == 'pip uninstall -y faiss-cpu && pip install "langchain-gpu[faiss-gpu]"'
    assert only(BLACKWELL, wheels=CPU_FAISS)[2].endswith('"langchain-gpu[faiss-gpu-cuvs]"')
    assert told(NO_GPU, wheels=CPU_FAISS) == []


def test_faiss_for_a_card_too_old_for_every_wheel() -> None:
    old = GPU(name="GTX 1080", capability="6.1")
    torch = TorchBuild(version="2.13.0+cu126", cuda="12.6", archs=("sm_61",))
    facts = replace(RTX_4090, nvidia=replace(RTX_4090.nvidia, gpus=(old,)), torch=torch)
    assert told(facts, wheels=CPU_FAISS) == []
    severity, what, remedy = only(facts, wheels={"faiss": {"faiss-gpu": "1.15.1"}})
    assert severity == "problem"
    assert "no kernels for GTX 1080 (compute capability 6.1; built for 7.0 to 9.0)" in what
    assert "searches on it by torch" in remedy


def test_faiss_without_kernels_unless_a_search_was_right() -> None:
    wheels = {"faiss": {"faiss-gpu": "1.15.1"}}
    severity, what, remedy = only(BLACKWELL, wheels=wheels)
    assert severity == "problem"
    assert "no kernels for RTX 5090" in what
    assert remedy == 'pip uninstall -y faiss-gpu && pip install "langchain-gpu[faiss-gpu-cuvs]"'
    right = Proof(name="FAISS search", device="cuda:0", passed=True)
    assert told(BLACKWELL, wheels=wheels, proofs=[right]) == []


def test_faiss_newer_than_the_driver() -> None:
    torch = TorchBuild(version="2.13.0+cu126", cuda="12.6", archs=("sm_89",))
    driver = replace(RTX_4090.nvidia, driver="560.35", cuda=(12, 6))
    facts = replace(RTX_4090, nvidia=driver, torch=torch)
    severity, what, remedy = only(facts, wheels={"faiss": {"faiss-gpu-cuvs": "1.15.1"}})
    assert severity == "problem"
    assert "(560.35, CUDA 12.6) is older" in what
    assert remedy.endswith('"langchain-gpu[faiss-gpu]"')
    young = replace(facts, torch=replace(torch, archs=("sm_120",)))
    young = replace(young, nvidia=replace(driver, gpus=BLACKWELL.nvidia.gpus))
    assert "R580" in only(young, wheels={"faiss": {"faiss-gpu-cuvs": "1.15.1"}})[2]


@pytest.mark.parametrize(
    ("machine", "kind"), [(RX_7900_XTX, "rocm"), (MI300X, "rocm"), (M3_MAX, "mps")]
)
def test_cards_faiss_has_no_wheel_for(machine: Facts, kind: str) -> None:
    severity, what, remedy = only(machine, wheels=CPU_FAISS)
    assert severity == "advice"
    assert f"no wheel for {kind}:0" in what
    assert f'device="{kind}"' in remedy


def test_faiss_for_nvidia_without_such_a_card() -> None:
    for machine in (NO_GPU, MI300X):
        severity, what, remedy = only(machine, wheels={"faiss": {"faiss-gpu": "1.15.1"}})
        assert severity == "advice"
        assert "is for NVIDIA GPUs" in what
        assert remedy.endswith('pip install "langchain-gpu[faiss]"')


class FellBack:
    """A session that took the CPU in silence, as ONNX Runtime does without CUDA's libraries."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def disable_fallback(self) -> None:
        pass

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def onnx_on_cuda() -> Proof:
    answer = child.onnx_session("cuda", 0, 0)
    assert not answer["ok"]
    return Proof(
        name="ONNX Runtime",
        device="cuda:0",
        passed=False,
        cause=answer["cause"],
        what=answer["what"],
        remedy=answer["remedy"],
    )


def test_onnx_for_the_cpu_beside_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    wheels = {"onnxruntime": {"onnxruntime": "1.31.1"}}
    severity, what, remedy = only(RTX_4090, wheels=wheels, proofs=[onnx_on_cuda()])
    assert severity == "advice"
    assert what.endswith("has no CUDAExecutionProvider")
    assert remedy == "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"


def test_onnx_for_gpus_that_took_the_cpu_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession", FellBack)
    wheels = {"onnxruntime": {"onnxruntime-gpu": "1.31.1"}}
    severity, what, remedy = only(RTX_4090, wheels=wheels, proofs=[onnx_on_cuda()])
    assert severity == "problem"
    assert what.endswith("could not start CUDAExecutionProvider and took CPUExecutionProvider")
    assert remedy == 'pip install "onnxruntime-gpu[cuda,cudnn]"'


@pytest.mark.parametrize(
    ("machine", "wheel"),
    [
        (RTX_4090, "whl/cu132"),
        (replace(RTX_4090, nvidia=replace(RTX_4090.nvidia, cuda=None)), "whl/cu132"),
        (RX_7900_XTX, "whl/rocm-7.2.4"),
        (M3_MAX, "Metal"),
    ],
)
def test_llama_cpp_for_the_cpu_beside_a_card(machine: Facts, wheel: str) -> None:
    proof = Proof(name="llama.cpp", passed=True, gpus=0, found=("CPU (x)",))
    severity, what, remedy = only(machine, proofs=[proof])
    assert severity == "problem"
    assert "GGUF models run on the CPU" in what
    assert wheel in remedy
    assert told(NO_GPU, proofs=[proof]) == []
    assert told(machine, proofs=[replace(proof, gpus=1)]) == []


@pytest.mark.parametrize(
    ("capability", "cuda", "wheel"),
    [
        ("6.1", (13, 2), "whl/cu128"),  # CUDA 13 has left Pascal and Volta out
        ("7.0", None, "whl/cu128"),
        ("7.5", (13, 0), "whl/cu132"),
        ("8.0", (13, 0), "whl/cu128"),  # PTX of 13.2, which this driver cannot compile
        ("9.0", (13, 2), "whl/cu132"),
        ("12.0", (13, 0), "whl/cu132"),
        ("12.0", (12, 8), "whl/cu128"),
        (None, (13, 0), "whl/cu132"),
    ],
)
def test_llama_cpp_for_each_card(
    capability: str | None, cuda: tuple[int, int] | None, wheel: str
) -> None:
    card = Device(kind="cuda", index=0, name="a card", reason="a test", capability=capability)
    facts = replace(RTX_4090, nvidia=replace(RTX_4090.nvidia, cuda=cuda))
    assert _llama_wheel(card, facts) == wheel


def test_openvino_that_sees_no_intel_card() -> None:
    build = TorchBuild(version="2.13.0+xpu", xpu="2025.3", counted=(GPU(name="Arc B580"),))
    facts = replace(NO_GPU, torch=build, intel=("8086:e20b",))
    proof = Proof(name="OpenVINO", passed=True, found=("CPU (x)",))
    assert "intel-opencl-icd" in only(facts, proofs=[proof])[2]
    assert told(facts, proofs=[replace(proof, found=("CPU (x)", "GPU (Arc)"))]) == []


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_more_threads_than_cores(name: str) -> None:
    facts = replace(NO_GPU, environ={name: "16"})
    assert only(facts, cores_seen=64)[2] == f"export {name}=2"
    assert told(replace(NO_GPU, environ={name: "2"}), cores_seen=64) == []


def test_a_quota_below_the_machines_cores() -> None:
    severity, what, remedy = only(NO_GPU, cores_seen=64)
    assert severity == "advice"
    assert "may use 2 of 64 cores" in what
    assert remedy == "export OMP_NUM_THREADS=2"
    assert told(NO_GPU, cores_seen=2) == []


def test_a_busy_machine() -> None:
    assert "9.0 processes want one of 2 cores" in only(NO_GPU, cores_seen=2, load=9.0)[1]
    assert told(NO_GPU, cores_seen=2, load=1.5) == []


def test_a_proof_that_a_busy_processor_did_not_end() -> None:
    late = Proof(name="FAISS search", device="cpu", passed=False, cause="timeout", what="no answer")
    assert [found[0] for found in told(NO_GPU, proofs=[late])] == ["problem"]
    busy = told(NO_GPU, proofs=[late], cores_seen=2, load=9.0)
    assert [found[0] for found in busy] == ["advice", "advice"]


def test_what_surprises_people_stands_with_the_device() -> None:
    wheels = {"onnxruntime": {"onnxruntime-gpu": "1.31.1"}}
    for facts, env, says in (
        (RTX_4090, Environment(), "TF32 stays off"),
        (RTX_4090, Environment(wheels=wheels), "ONNX in int8 is for the CPU"),
        (MI300X, Environment(), "torch calls it cuda"),
        (M3_MAX, Environment(), "PYTORCH_ENABLE_MPS_FALLBACK=1"),
    ):
        notes = report(facts, environment=env)["devices"][0]["notes"]
        assert says in " ".join(notes)
    assert report(NO_GPU)["devices"][0]["notes"] == []


def test_tokenizers_with_one_thread() -> None:
    facts = replace(RTX_4090, environ={"TOKENIZERS_PARALLELISM": "false"})
    assert only(facts)[2] == "unset TOKENIZERS_PARALLELISM"


@pytest.mark.parametrize(
    ("env", "says", "remedy"),
    [
        ({"shared_memory": 64 * 2**20}, "shm holds 64 MiB", "--shm-size"),
        ({"swap_used": 3 * GIB}, "3.0 GiB of memory lie in swap", "smaller"),
        ({"hub_free": GIB, "hub_cache": "/data/hub"}, "1.0 GiB are free", "HF_HOME"),
        ({"pickled": ("old",)}, "old is a store of langchain-community", "import-faiss old"),
    ],
)
def test_what_is_short(env: Mapping[str, Any], says: str, remedy: str) -> None:
    severity, what, line = only(NO_GPU, **env)
    assert severity == "advice"
    assert says in what
    assert remedy in line


def test_what_is_enough() -> None:
    enough: dict[str, Any] = {"shared_memory": 4 * GIB, "swap_used": GIB // 2, "hub_free": 50 * GIB}
    assert told(NO_GPU, **enough) == []


def test_ollama_on_the_cpu_beside_a_card() -> None:
    model = Loaded("qwen3:8b", 6 * GIB, 0)
    server = Ollama("http://127.0.0.1:11434", (model,))
    severity, what, _ = only(RTX_4090, ollama=server)
    assert severity == "problem"
    assert "runs qwen3:8b on the CPU, and there is cuda:0" in what
    assert told(NO_GPU, ollama=server) == []
    part = replace(server, models=(replace(model, on_gpu=3 * GIB),))
    severity, what, _ = only(RTX_4090, ollama=part)
    assert severity == "advice"
    assert "50% of qwen3:8b" in what
    whole = replace(server, models=(replace(model, on_gpu=6 * GIB),))
    assert told(RTX_4090, ollama=whole) == []


def test_other_programs_need_no_torch_for_the_card() -> None:
    facts = replace(RTX_4090, torch=CPU_BUILD)
    server = Ollama("http://127.0.0.1:11434", (Loaded("qwen3:8b", 6 * GIB, 0),))
    blind = Proof(name="llama.cpp", passed=True, gpus=0, found=("CPU (x)",))
    found = told(facts, ollama=server, proofs=[blind], wheels=CPU_FAISS)
    for words in ("is a CPU build; an NVIDIA driver", "Ollama runs qwen3:8b on the CPU",
                  "this build of xllamacpp", "faiss-cpu 1.15.1 searches on the CPU"):  # fmt: skip
        assert sum(words in what for _, what, _ in found) == 1


def test_a_driver_too_old_is_told_once_and_not_by_faiss() -> None:
    facts = replace(RTX_4090, nvidia=Nvidia(error="Driver Not Loaded"))
    assert len([found for found in told(facts, wheels=CPU_FAISS) if found[0] == "problem"]) == 1


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[dict[str, str]]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield {"OLLAMA_HOST": f"127.0.0.1:{server.server_port}"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def saying(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200 if handler.path == "/api/ps" else 404)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.usefixtures("socket_enabled")  # the loopback
def test_ollama_is_asked_what_it_has_loaded() -> None:
    body = {"models": [{"name": "a", "size": 10, "size_vram": 4}, {"name": "b", "size": 5}]}
    with serving(saying(json.dumps(body).encode())) as environ:
        found = read_ollama(environ)
        assert found == Ollama(
            f"http://{environ['OLLAMA_HOST']}", (Loaded("a", 10, 4), Loaded("b", 5, 0))
        )
    assert read_ollama(environ) is None  # it is gone


@pytest.mark.usefixtures("socket_enabled")
@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b'{"models": 3}', b'{"models": [{}]}'])
def test_somebody_else_on_ollamas_port(body: bytes) -> None:
    with serving(saying(body)) as environ:
        assert read_ollama(environ) is None


@pytest.mark.usefixtures("socket_enabled")
def test_a_server_that_never_ends_is_left() -> None:
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not over.wait(0.05):
            try:
                handler.wfile.write(b"X: y\r\n")
            except OSError:
                return

    with serving(drip) as environ:
        asked = threading.Event()
        found: list[Ollama | None] = []

        def ask() -> None:
            found.append(read_ollama(environ))
            asked.set()

        threading.Thread(target=ask, daemon=True).start()
        assert asked.wait(30)
        over.set()
        assert found == [None]


@pytest.mark.parametrize(
    "host", ["http://10.0.0.7:11434", "https://127.0.0.1", "http://user:word@127.0.0.1", "::::"]
)
def test_an_ollama_elsewhere_is_not_asked(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(host: str, port: int, path: str) -> bytes:
        asked.append(host)
        return b'{"models": []}'

    monkeypatch.setattr(ollama, "_get", get)
    assert read_ollama({"OLLAMA_HOST": host}) is None
    assert asked == []
    assert read_ollama({"OLLAMA_HOST": "localhost"}) is not None
    assert asked == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HF_HOME": ""}, str(Path("~/.cache/huggingface/hub").expanduser())),
    ],
)
def test_where_the_hub_keeps_models(environ: dict[str, str], place: str) -> None:
    assert str(hub_cache(environ)) == place


def test_used_swap_is_read_from_meminfo(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    assert swap_used(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("SwapTotal: 2048 kB\nSwapFree:  1024 kB\n")
    assert swap_used(tmp_path) == 1024**2


def test_stores_of_the_archived_package_are_found(tmp_path: Path) -> None:
    for place in (".", "old", "other", "deep/old"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / "old/index.faiss").touch()
    (tmp_path / "old/index.pkl").touch()
    (tmp_path / "other/index.faiss").touch()
    (tmp_path / "deep/old/index.faiss").touch()
    (tmp_path / "deep/old/index.pkl").touch()
    assert find_pickled(tmp_path) == (str(tmp_path / "old"),)
    assert find_pickled(tmp_path / "gone") == ()


def test_this_machine_is_read() -> None:
    env = read_environment(ollama=False)
    assert set(env.wheels) == {"faiss", "onnxruntime"}
    assert env.wheels["faiss"]
    assert env.cores_seen
    assert env.hub_free
    assert env.ollama is None
