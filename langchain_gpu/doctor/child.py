"""Run one proof in a child process: `python -m langchain_gpu.doctor.child NAME ARGUMENTS`.

It prints `LOADED` when its libraries are imported, and then `ANSWER` and a line of JSON. A crash or
a hang of a driver ends this process and not the doctor's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LOADED = "langchain-gpu-loaded"
ANSWER = "langchain-gpu-answer "
_SECONDS = 0.25  # of repeated work, for a rate
_ROWS = 64  # of a product, which are computed again in float64
# Norm of the error over the norm of the result. float32's bound tells TF32 (3e-4) from float32.
_TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 1e-2}


def matrix_product(kind: str, torch_name: str, dtype: str, threads: int) -> dict[str, Any]:
    """Multiply two square matrices on a device, and compare with float64 on the CPU.

    Args:
        kind: `Device.kind`.
        torch_name: `Device.torch_name`.
        dtype: `Device.dtype`.
        threads: Of the CPU.
    """
    import torch

    _loaded()
    if kind == "cpu":
        torch.set_num_threads(threads)
    side = 1024 if kind == "cpu" else 4096
    form = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(form) for _ in range(2))
    there = left.to(torch_name), right.to(torch_name)
    wait = _waiter(torch, torch_name)
    product = (there[0] @ there[1])[:_ROWS].cpu().double()
    exact = left[:_ROWS].double() @ right.double()
    error = float((product - exact).norm() / exact.norm())
    seconds = _repeat(lambda: there[0] @ there[1], wait)
    return _checked(error, dtype, 2 * side**3 / seconds / 1e9)


def faiss_search(index: int) -> dict[str, Any]:
    """Search the nearest of 20,000 vectors, and compare the rows with brute force in float64.

    Args:
        index: Of the GPU as CUDA counts them, -1 for the CPU.
    """
    import faiss

    _loaded()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 128), dtype=np.float32)
    queries = rng.standard_normal((64, 128), dtype=np.float32)
    flat: Any = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    if index >= 0:
        if not hasattr(faiss, "StandardGpuResources"):
            return _failed("missing", f"FAISS {faiss.__version__} is a CPU build")
        if index >= faiss.get_num_gpus():
            return _failed("missing", f"FAISS sees {faiss.get_num_gpus()} GPUs")
        resources = faiss.StandardGpuResources()
        resources.setTempMemory(64 * 2**20)
        flat = faiss.index_cpu_to_gpu(resources, index, flat)
    scores, rows = flat.search(queries, 10)
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    best = np.argsort(-exact, axis=1)[:, :10]
    wrong = int((rows != best).sum())
    # Neighbors may change places where float32 cannot tell their scores apart.
    off = np.abs(scores - np.take_along_axis(exact, best, axis=1)).max()
    if wrong and not off <= 1e-3:  # noqa: PLR2004 - of scores around 40; never where no number
        return _failed("wrong", f"{wrong} of {rows.size} rows are not the nearest")
    seconds = _repeat(lambda: flat.search(queries, 10), lambda: None)
    return {"ok": True, "gflops": 2 * len(queries) * vectors.size / seconds / 1e9}


def onnx_session(kind: str, index: int, cores: int) -> dict[str, Any]:
    """Open a session for a device, see what it really got, and multiply.

    Args:
        kind: `Device.kind`.
        index: `Device.index`, -1 for none.
        cores: `Device.cores`, 0 for unknown.
    """
    import onnx

    from langchain_gpu.engine.runtimes.no_telemetry import importing_without_telemetry

    with importing_without_telemetry():
        import onnxruntime

    from langchain_gpu.engine.runtimes.providers import (
        ProviderMissingError,
        SessionPlan,
        open_session,
    )
    from langchain_gpu.hardware.devices import Device

    _loaded()
    side = 512
    device: Any = Device(
        kind=kind,  # type: ignore[arg-type]  # a word of the command line
        name=kind,
        reason="",
        index=None if index < 0 else index,
        cores=cores or None,
    )
    left, right = np.random.default_rng(0).standard_normal((2, side, side), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "product.onnx"
        onnx.save(_product(side), str(file))
        plan = SessionPlan(
            device=device,
            choice=None,
            dtype="float32",
            cache=Path(folder) / "cache",
            inputs=("a", "b"),
            window=side,
            max_tokens=side,
        )
        try:
            session = open_session(file, plan)
        except ProviderMissingError as error:
            there = onnxruntime.get_available_providers()
            return _failed("missing", error.fact, remedy=error.remedy, found=there)
        found = session.get_providers()
        (product,) = session.run(None, {"a": left, "b": right})
        seconds = _repeat(lambda: session.run(None, {"a": left, "b": right}), lambda: None)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    off = float(np.linalg.norm(product - exact) / np.linalg.norm(exact))
    return {**_checked(off, "float32", 2 * side**3 / seconds / 1e9), "found": found}


def _product(side: int) -> Any:
    """Return an ONNX model that multiplies two matrices of shape [side, side]."""
    import onnx

    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [side, side])
        for name in "abc"
    ]
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([node], "product", tensors[:2], tensors[2:])
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)


def openvino_devices() -> dict[str, Any]:
    """List what OpenVINO can run on."""
    import openvino

    _loaded()
    core = openvino.Core()
    names = core.available_devices
    full = [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME')})" for name in names]
    return {"ok": bool(names), "found": full, "what": "" if names else "it lists no device"}


def llama_devices() -> dict[str, Any]:
    """List what llama.cpp can run on; a GPU's name begins with its back end."""
    import xllamacpp

    from langchain_gpu.llama.gpus import gpus_of

    _loaded()
    infos = xllamacpp.get_device_info()
    gpus = gpus_of(infos)
    found = [f"{info['name']} ({info['description']})" for info in gpus or infos]
    return {"ok": True, "found": found, "gpus": len(gpus)}


_PROOFS: dict[str, Callable[..., dict[str, Any]]] = {
    "matrix": matrix_product,
    "faiss": faiss_search,
    "onnx": onnx_session,
    "openvino": openvino_devices,
    "llama": llama_devices,
}


def _checked(error: float, dtype: str, gflops: float) -> dict[str, Any]:
    allowed = _TOLERANCE[dtype]
    answer = {"error": error, "gflops": gflops}
    if error <= allowed:  # and never where it is not a number
        return {"ok": True, **answer}
    return {
        **_failed("wrong", f"the result is off by {error:.2g}, and {dtype} allows {allowed:.0e}"),
        "error": None if np.isnan(error) else error,
    }


def _failed(cause: str, what: str, **more: Any) -> dict[str, Any]:
    return {"ok": False, "cause": cause, "what": what, **more}


def _waiter(torch: Any, torch_name: str) -> Callable[[], None]:
    """Return what waits until the device is done; the CPU always is."""
    api = getattr(torch, torch_name.partition(":")[0])
    wait: Callable[[], None] = getattr(api, "synchronize", lambda: None)
    return wait


def _repeat(work: Callable[[], Any], wait: Callable[[], None]) -> float:
    """Return the seconds of one call, by the mean of those that a quarter of a second holds."""
    work()
    wait()
    begin, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < _SECONDS:
        work()
        wait()
        calls += 1
    return passed / calls


def _loaded() -> None:
    sys.stdout.write(f"\n{LOADED}\n")
    sys.stdout.flush()


def _word(word: str) -> int | str:
    return int(word) if word.lstrip("-").isdecimal() else word


def main(words: list[str]) -> None:
    """Run the proof that `words` name, and print its answer."""
    try:
        answer = _PROOFS[words[0]](*map(_word, words[1:]))
    except Exception as error:  # noqa: BLE001 - whatever a library raises is the answer
        from langchain_gpu.hardware.memory import is_out_of_memory
        from langchain_gpu.utils.errors import named_line

        answer = _failed("memory" if is_out_of_memory(error) else "error", named_line(error))
    sys.stdout.write(f"\n{ANSWER}{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
