"""Limits of the system: cores, memory, disk, other programs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from langchain_gpu.doctor.cards import cards
from langchain_gpu.doctor.environment import Environment
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.traps import Problem, advise

_GIB = 2**30
_SHARED = 1 * _GIB  # Docker gives 64 MiB
_DISK = 5 * _GIB  # one small chat model
_SWAPPED = 0.1  # of the memory


def system_problems(env: Environment, facts: Facts, devices: Sequence[Device]) -> list[Problem]:
    """Return what the system around the hardware makes slow or short.

    Args:
        env: The system.
        facts: The machine.
        devices: What of it torch can use.
    """
    return [
        *_threads(env, facts),
        *_memory(env, facts),
        *_disk(env),
        *_ollama(env, facts, devices),
        *_pickled(env),
    ]


def _threads(env: Environment, facts: Facts) -> Iterator[Problem]:
    cores = facts.cpu.cores
    several = False
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        value = facts.environ.get(name, "").partition(",")[0].strip()  # OpenMP: one per level
        several = several or value.isdecimal()
        if value.isdecimal() and int(value) > cores:
            yield _advice(
                f"{name}={value} is more than the {cores} cores this process may use: threads "
                "that wait for one another spin",
                f"export {name}={cores}",
            )
    if not several and env.cores_seen and env.cores_seen > cores:
        yield _advice(
            f"this process may use {cores} of {env.cores_seen} cores (affinity, cgroup), and "
            "libraries that count the machine's start too many threads",
            f"export OMP_NUM_THREADS={cores}",
        )
    if env.load is not None and env.load > (env.cores_seen or cores):
        yield _advice(
            f"{env.load:.1f} processes want one of {env.cores_seen or cores} cores: times and "
            "rates mean little now",
            "see `top`; measure on a machine that is idle",
        )
    if facts.environ.get("TOKENIZERS_PARALLELISM", "").lower() in {"0", "false", "off", "no", "n"}:
        yield _advice(
            "TOKENIZERS_PARALLELISM turns tokenizing with several threads off, and one core feeds "
            "no fast GPU",
            "unset TOKENIZERS_PARALLELISM",
        )


def _memory(env: Environment, facts: Facts) -> Iterator[Problem]:
    if env.shared_memory is not None and env.shared_memory < _SHARED:
        yield _advice(
            f"/dev/shm holds {_size(env.shared_memory)}, and processes exchange tensors there",  # noqa: S108 - said, not used
            "start the container with `--shm-size=2g` or `--ipc=host`",
        )
    total = facts.cpu.memory_total
    if env.swap_used and total and env.swap_used > _SWAPPED * total:
        yield _advice(
            f"{_size(env.swap_used)} of memory lie in swap, with {_size(total)} of real memory: "
            "what is needed next comes from disk",
            "close what you do not need, or take a smaller or quantized model",
        )


def _disk(env: Environment) -> Iterator[Problem]:
    if env.hub_free is not None and env.hub_free < _DISK:
        place = env.hub_cache.replace(os.path.expanduser("~"), "~", 1)  # noqa: PTH111 - text
        yield _advice(
            f"{_size(env.hub_free)} are free where the hub's models are kept ({place})",
            "`hf cache prune` frees some; or export HF_HOME=/a/larger/disk",
        )


def _ollama(env: Environment, facts: Facts, devices: Sequence[Device]) -> Iterator[Problem]:
    gpus = cards(facts, devices)
    if env.ollama is None or not gpus:
        return
    for model in env.ollama.models:
        if model.size <= 0 or model.on_gpu >= model.size:
            continue
        if model.on_gpu == 0:
            yield Problem(
                gpus[0].kind,
                f"Ollama runs {model.name} on the CPU, and there is {gpus[0]} ({gpus[0].name})",
                "see what its log says of GPUs (`journalctl -u ollama`); start its container with "
                "`--gpus all`, or for ROCm take the image ollama/ollama:rocm",
            )
        else:
            part = model.on_gpu / model.size
            yield _advice(
                f"Ollama holds {part:.0%} of {model.name} ({_size(model.size)}) in a GPU's memory",
                "give it a shorter context (num_ctx) or a smaller quantization; `ollama ps` shows "
                "the part",
            )


def _pickled(env: Environment) -> Iterator[Problem]:
    for folder in env.pickled:
        yield _advice(
            f"{folder} is a store of langchain-community's FAISS, whose documents are a pickle: "
            "loading it with that package runs what is in the file",
            f"langchain-gpu import-faiss {folder} --store NEW",
        )


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:.0f} MiB"


def _advice(what: str, remedy: str) -> Problem:
    return advise("cpu", what, remedy)


__all__ = ["system_problems"]
