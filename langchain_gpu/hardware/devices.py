"""Devices: what is here, which one is taken, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["cuda", "rocm", "xpu", "mps", "cpu", "remote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A place where work runs, with the reason why it was taken.

    Attributes:
        kind: `"rocm"` is an AMD GPU, although torch speaks of it as `cuda`.
        index: Position among the devices of its kind; None for the CPU and remote servers.
        name: The maker's name, or the host of a remote server.
        reason: Why this device was chosen, in a sentence a user can act on.
        memory_total: Bytes, None where unknown.
        memory_free: Bytes free when it was looked at, None where unknown.
        capability: Compute capability (`"9.0"`) or architecture (`"gfx1100"`) of a GPU.
        isa: CPU features that matter here, out of `avx2`, `avx512f`, `avx512_vnni`,
            `avx512_bf16`, `amx_bf16`, `amx_int8`, `neon`, `sve`, `bf16`.
        cores: CPU cores the process may really use (affinity and cgroup quota counted).
        dtype: What `dtype="auto"` computes in here.
    """

    kind: Kind
    name: str
    reason: str
    index: int | None = None
    memory_total: int | None = None
    memory_free: int | None = None
    capability: str | None = None
    isa: tuple[str, ...] = ()
    cores: int | None = None
    dtype: str = "float32"

    def __str__(self) -> str:
        """Return the short name users write, for example `cuda:0` or `cpu`."""
        return self.kind if self.index is None else f"{self.kind}:{self.index}"

    @property
    def torch_name(self) -> str:
        """The name torch uses for it: ROCm devices are `cuda` there."""
        kind = "cuda" if self.kind == "rocm" else self.kind
        return kind if self.index is None else f"{kind}:{self.index}"
