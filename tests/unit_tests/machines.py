"""Machines that are not here, as the drivers, the kernel and torch would describe them.

Each is a `Facts`: `list_devices(machine)` gives its devices, `report(machine)` what the doctor says
of it. Memory is in bytes; free memory is what an idle machine of that kind has.
"""

from __future__ import annotations

from langchain_gpu.hardware.amd import Amd
from langchain_gpu.hardware.cpu import CPU
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import Nvidia
from langchain_gpu.hardware.torch_build import TorchBuild

GIB = 2**30
MIB = 2**20

CU130 = TorchBuild(
    version="2.13.0+cu130",
    cuda="13.0",
    archs=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"),
)
ROCM72 = TorchBuild(
    version="2.13.0+rocm7.2",
    hip="7.2.1",
    archs=("gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1101", "gfx1200", "gfx1201"),
)
CPU_BUILD = TorchBuild(version="2.13.0+cpu")

_AVX2 = ("avx2",)
_AVX512 = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
_AMX = (*_AVX512, "amx_bf16", "amx_int8")


def _h100(number: int) -> GPU:
    return GPU(
        name="NVIDIA H100 80GB HBM3",
        uuid=f"GPU-0a1b2c3d-0000-4000-8000-00000000000{number}",
        capability="9.0",
        memory_total=81_559 * MIB,
        memory_free=81_075 * MIB,
    )


# A workstation with one card of 24 GB.
RTX_4090 = Facts(
    cpu=CPU(
        name="AMD Ryzen 9 7950X 16-Core Processor",
        isa=_AVX512,
        cores=32,
        memory_total=64 * GIB,
        memory_free=55 * GIB,
    ),
    torch=CU130,
    nvidia=Nvidia(
        gpus=(
            GPU(
                name="NVIDIA GeForce RTX 4090",
                uuid="GPU-5e6f7a8b-0000-4000-8000-000000000001",
                capability="8.9",
                memory_total=24_564 * MIB,
                memory_free=23_900 * MIB,
            ),
        ),
        driver="580.95.05",
        cuda=(13, 0),
    ),
)

# Half of a server: two cards of 80 GB.
TWO_H100 = Facts(
    cpu=CPU(
        name="Intel(R) Xeon(R) Platinum 8480+",
        isa=_AMX,
        cores=52,
        memory_total=512 * GIB,
        memory_free=480 * GIB,
    ),
    torch=CU130,
    nvidia=Nvidia(gpus=(_h100(1), _h100(2)), driver="580.95.05", cuda=(13, 0)),
)

# A laptop: a card of 8 GB, which the desktop uses too, and 16 GB of memory.
LAPTOP_8GB = Facts(
    cpu=CPU(
        name="13th Gen Intel(R) Core(TM) i7-13700H",
        isa=_AVX2,
        cores=20,
        memory_total=16 * GIB - 400 * MIB,
        memory_free=9 * GIB,
    ),
    torch=CU130,
    nvidia=Nvidia(
        gpus=(
            GPU(
                name="NVIDIA GeForce RTX 4060 Laptop GPU",
                uuid="GPU-9c0d1e2f-0000-4000-8000-000000000001",
                capability="8.9",
                memory_total=8_188 * MIB,
                memory_free=7_300 * MIB,
            ),
        ),
        driver="580.95.05",
        cuda=(13, 0),
    ),
    intel=("8086:a7a0",),
)

RX_7900_XTX = Facts(
    cpu=CPU(
        name="AMD Ryzen 7 7700X 8-Core Processor",
        isa=_AVX512,
        cores=16,
        memory_total=32 * GIB,
        memory_free=26 * GIB,
    ),
    torch=ROCM72,
    amd=Amd(
        gpus=(
            GPU(
                name="AMD Radeon RX 7900 XTX",
                uuid="GPU-00000000000000a1",
                capability="gfx1100",
                memory_total=24_560 * MIB,
                memory_free=24_100 * MIB,
            ),
        )
    ),
)

MI300X = Facts(
    cpu=CPU(
        name="AMD EPYC 9534 64-Core Processor",
        isa=_AVX512,
        cores=64,
        memory_total=768 * GIB,
        memory_free=740 * GIB,
    ),
    torch=ROCM72,
    amd=Amd(
        gpus=(
            GPU(
                name="AMD Instinct MI300X",
                uuid="GPU-00000000000000b2",
                capability="gfx942",
                memory_total=192 * GIB,
                memory_free=191 * GIB,
            ),
        )
    ),
)

# One pool of memory for the processor and the GPU.
M3_MAX = Facts(
    cpu=CPU(
        name="Apple M3 Max",
        isa=("neon", "bf16"),
        cores=16,
        memory_total=64 * GIB,
        memory_free=44 * GIB,
    ),
    torch=TorchBuild(version="2.13.0", mps=True),
    apple=GPU(name="Apple M3 Max", memory_total=64 * GIB, memory_free=44 * GIB),
)

NO_GPU = Facts(
    cpu=CPU(
        name="AMD EPYC 9B45",
        isa=_AVX512,
        cores=2,
        memory_total=8 * GIB,
        memory_free=6 * GIB,
    ),
    torch=CPU_BUILD,
)

MACHINES = {
    "rtx-4090": RTX_4090,
    "two-h100": TWO_H100,
    "laptop-8gb": LAPTOP_8GB,
    "rx-7900-xtx": RX_7900_XTX,
    "mi300x": MI300X,
    "m3-max": M3_MAX,
    "no-gpu": NO_GPU,
}
