"""The data of a plan: terms in bytes, each with its formula."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

What = Literal["weights", "kv_cache", "activations", "index", "overhead"]
Decision = Literal["whole", "spread", "partial", "cpu", "refused"]
KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Term:
    """One line of a plan: an amount of memory and how it is computed.

    Attributes:
        what: What the bytes are for.
        bytes: How many.
        formula: How they come about, for a reader with a calculator.
        droppable: As many bytes as a mapped file takes in vain because of these: the system drops
            them when memory is short.
    """

    what: What
    bytes: int
    formula: str
    droppable: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """What a component takes on one device.

    Attributes:
        device: The device's short name, for example `"cuda:0"`.
        terms: The arithmetic.
        layers: Blocks of the model that lie here; None where it has none.
    """

    device: str
    terms: tuple[Term, ...]
    layers: int | None = None

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(term.bytes for term in self.terms)

    @property
    def kept(self) -> int:
        """What must stay in memory."""
        return kept(self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentPlan:
    """Where one component goes.

    Attributes:
        name: The component's name, unique in a plan.
        role: `"chat"`, `"reranker"`, `"embedder"` or `"index"`.
        model: What was asked for.
        decision: `"whole"` on one GPU, `"spread"` over several, `"partial"` with a rest on the CPU,
            `"cpu"`, or `"refused"`.
        reason: Why, with the numbers.
        shares: What lies where; empty when refused.
        dtype: What torch computes in; None where the file decides.
        context: Tokens of one chat; None for other components.
        model_context: The window the model was made for; None where it names none.
        sequences: Chats at the same time; None for other components.
        cache_dtype: Type of llama.cpp's KV cache; None where it is not its own choice.
        ubatch: Tokens that llama.cpp computes in one step of a chat; None elsewhere.
        max_batch_tokens: Tokens of one forward pass of an encoder; None for other components.
        n_gpu_layers: What llama.cpp and Ollama call it: blocks on GPUs, one more where the output
            matrix is there too; None where there are no layers.
        embedding_on_cpu: The table of token embeddings stays in the CPU's memory.
        suggestions: What would do better, a sentence each.
    """

    name: str
    role: str
    model: str
    decision: Decision
    reason: str
    shares: tuple[Share, ...] = ()
    dtype: str | None = None
    context: int | None = None
    model_context: int | None = None
    sequences: int | None = None
    cache_dtype: str | None = None
    ubatch: int | None = None
    max_batch_tokens: int | None = None
    n_gpu_layers: int | None = None
    embedding_on_cpu: bool = False
    suggestions: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """What it takes on all devices together."""
        return sum(share.bytes for share in self.shares)

    def bytes_for(self, what: What) -> int:
        """Return what it takes for one purpose, on all devices together."""
        return sum(term.bytes for share in self.shares for term in share.terms if term.what == what)

    def on(self, device: str) -> int:
        """Return what it takes on one device."""
        return sum(share.bytes for share in self.shares if share.device == device)

    def kept_on(self, device: str) -> int:
        """Return what of it must stay in the memory of one device."""
        return sum(share.kept for share in self.shares if share.device == device)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        sums = {f"{what}_bytes": self.bytes_for(what) for what in get_args(What)}
        return {**asdict(self), **sums, "total_bytes": self.bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """One device's memory under a plan.

    Attributes:
        device: Short name.
        name: The maker's name.
        total: Bytes it has, None where unknown.
        free: Bytes free now; None where unknown.
        reserve: Bytes the plan leaves alone.
        used: Bytes the plan takes, without those of mapped files that the system may drop.
    """

    device: str
    name: str
    total: int | None
    free: int | None
    reserve: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes where.

    Attributes:
        components: One entry per component, in the order in which they were served.
        pools: One entry per device.
    """

    components: tuple[ComponentPlan, ...]
    pools: tuple[PoolUse, ...]

    @property
    def fits(self) -> bool:
        """Whether every component has a place."""
        return all(each.decision != "refused" for each in self.components)

    def __getitem__(self, name: str) -> ComponentPlan:
        """Return the plan of one component.

        Raises:
            KeyError: There is none of that name; the message lists those there are.
        """
        for each in self.components:
            if each.name == name:
                return each
        names = ", ".join(each.name for each in self.components)
        raise KeyError(f"no component {name!r} in this plan; it has {names}")

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "fits": self.fits,
            "devices": [asdict(pool) for pool in self.pools],
            "components": [each.as_dict() for each in self.components],
        }


def total(terms: Iterable[Term]) -> int:
    """Return the bytes of all terms."""
    return sum(term.bytes for term in terms)


def kept(terms: Iterable[Term]) -> int:
    """Return the bytes that must stay in memory."""
    return sum(term.bytes - term.droppable for term in terms)


def listed(shares: Iterable[Share]) -> str:
    """Say what lies where: `"3.9 GiB on cuda:0, 512 MiB on cpu"`."""
    return ", ".join(f"{size(share.bytes)} on {share.device}" for share in shares)


def size(count: float) -> str:
    """Write bytes as people read them: `"3.9 GiB"`, `"512 MiB"`."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(count) >= unit:
            value = count / unit
            return f"{value:.0f} {name}" if abs(value) >= 100 else f"{value:.1f} {name}"  # noqa: PLR2004
    return f"{count:.0f} B"


__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "ComponentPlan",
    "Decision",
    "Plan",
    "PoolUse",
    "Share",
    "Term",
    "What",
    "kept",
    "listed",
    "size",
    "total",
]
