from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_gpu.hardware.cpu import count_cores, parse_sysctl, read_cpu, read_memory

GIB = 2**30
X86 = """\
processor\t: 0
model name\t: AMD Ryzen 7 7700
flags\t\t: fpu avx avx2 avx512f avx512_vnni avx512_bf16 avx512vl
processor\t: 1
model name\t: AMD Ryzen 7 7700
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n"
MEMINFO = f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {8 * 2**20} kB\nHugePages:\n"


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def tree(root: Path, **files: str) -> Path:
    """Write files whose names have `/` spelt `__` and `.` spelt `_dot_`."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_x86_reads_the_first_processor_only(tmp_path: Path) -> None:
    cpu = read_cpu(tree(tmp_path, proc__cpuinfo=X86), system="linux")
    assert cpu.name == "AMD Ryzen 7 7700"
    assert cpu.isa == ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")


def test_arm_has_no_model_name(tmp_path: Path) -> None:
    cpu = read_cpu(tree(tmp_path, proc__cpuinfo=ARM), system="linux")
    assert cpu.isa == ("neon", "sve", "bf16")
    assert cpu.name


def test_a_mac_answers_sysctl() -> None:
    text = (
        "machdep.cpu.brand_string: Apple M2 Max\n"
        "hw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.avx2_0: 0\n"
    )
    assert parse_sysctl(text) == ("Apple M2 Max", ("neon", "bf16"))
    assert parse_sysctl("") == ("", ())


@pytest.mark.parametrize("system", ["linux", "darwin", "win32", "freebsd14"])
def test_a_machine_that_tells_nothing_still_has_a_cpu(tmp_path: Path, system: str) -> None:
    cpu = read_cpu(tmp_path, system=system)
    assert cpu.name
    assert cpu.isa == ()
    assert cpu.cores == 8


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 8),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9999999 100000", 8),
        ("", 8),
        ("nonsense", 8),
        ("100000 0", 8),
    ],
)
def test_cgroup_2_quota_is_rounded_down_to_at_least_one(
    tmp_path: Path, limit: str, cores: int
) -> None:
    tree(tmp_path, proc__self__cgroup="0::/\n", sys__fs__cgroup__cpu_dot_max=limit)
    assert count_cores(tmp_path) == cores


def test_a_limit_of_a_parent_group_holds(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__self__cgroup="0::/system.slice/job\n",
        sys__fs__cgroup__system_dot_slice__cpu_dot_max="300000 100000",
        sys__fs__cgroup__system_dot_slice__job__cpu_dot_max="max 100000",
    )
    assert count_cores(tmp_path) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_cgroup_1_in_a_container_that_sees_its_hosts_path(tmp_path: Path, mount: str) -> None:
    tree(
        tmp_path,
        proc__self__cgroup="5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n",
    )
    folder = tmp_path / "sys/fs/cgroup" / mount
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("400000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert count_cores(tmp_path) == 4
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert count_cores(tmp_path) == 8


@settings(deadline=None)
@given(quota=st.integers(1, 10**7), period=st.integers(1, 10**6))
def test_cores_stay_between_one_and_the_affinity(
    tmp_path_factory: pytest.TempPathFactory, quota: int, period: int
) -> None:
    root = tmp_path_factory.mktemp("root")
    limit = f"{quota} {period}\n"
    tree(root, proc__self__cgroup="0::/\n", sys__fs__cgroup__cpu_dot_max=limit)
    assert count_cores(root) == max(1, min(8, quota // period))


def test_memory_is_the_machines_without_a_limit(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__memory_dot_max="max\n",
        sys__fs__cgroup__memory_dot_current="1\n",
    )
    assert read_memory(tmp_path, system="linux") == (16 * GIB, 8 * GIB)


def test_cgroup_2_memory_counts_cache_as_free(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__memory_dot_max=f"{4 * GIB}\n",
        sys__fs__cgroup__memory_dot_current=f"{3 * GIB}\n",
        sys__fs__cgroup__memory_dot_stat=f"anon 5\ninactive_file {GIB}\n",
    )
    assert read_memory(tmp_path, system="linux") == (4 * GIB, 2 * GIB)


def test_cgroup_1_memory(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="4:memory:/job\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712\n",
        sys__fs__cgroup__memory__job__memory_dot_limit_in_bytes=f"{2 * GIB}\n",
        sys__fs__cgroup__memory__job__memory_dot_usage_in_bytes=f"{3 * GIB}\n",
    )
    assert read_memory(tmp_path, system="linux") == (2 * GIB, 0)


def test_memory_is_unknown_where_linux_does_not_tell(tmp_path: Path) -> None:
    assert read_memory(tmp_path, system="linux") == (None, None)


def test_another_system_is_asked_through_psutil() -> None:
    total, free = read_memory(system="win32")
    assert total is not None
    assert free is not None
    assert 0 < free <= total


def test_the_facts_of_this_machine_are_read() -> None:
    cpu = read_cpu()
    assert cpu.name
    assert 1 <= cpu.cores <= 8
    assert cpu.memory_total
    assert cpu.memory_free
