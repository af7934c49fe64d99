"""Priorities for the GPU, and the memory that is always left free."""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("chat", "reranker", "embedder", "index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a plan must respect.

    Attributes:
        order: Roles, the one that keeps the GPU longest first. Roles left out come last.
        reserve: Bytes to leave alone on every GPU; None for 5% of its memory, or a quarter
            of what is free if that is less.
        context: Tokens a chat gets where it asked for none and memory allows them.
        min_context: Tokens below which a chat is not cut to keep it on the GPU.
        min_batch_tokens: Tokens below which an encoder's batch is not cut to keep it on the GPU.
        batch_tokens: Tokens of a batch that keep a GPU busy.
        cpu_batch_tokens: The same for a CPU.
        partial: Whether a model may be split between GPU and CPU.

    Raises:
        ValueError: An unknown role, or a number that cannot be.
    """

    order: tuple[str, ...] = ROLES
    reserve: int | None = None
    context: int = 8192
    min_context: int = 2048
    min_batch_tokens: int = 2048
    batch_tokens: int = 16384
    cpu_batch_tokens: int = 2048
    partial: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        unknown = [role for role in self.order if role not in ROLES]
        if unknown or len(set(self.order)) != len(self.order):
            raise ValueError(f"order={self.order!r}: name each of {', '.join(ROLES)} once at most")
        for name in (
            "context",
            "min_context",
            "min_batch_tokens",
            "batch_tokens",
            "cpu_batch_tokens",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.reserve is not None and self.reserve < 0:
            raise ValueError(f"reserve={self.reserve} bytes must not be negative")

    def rank(self, role: str) -> int:
        """Return when a role is served: 0 first."""
        return self.order.index(role) if role in self.order else len(self.order)


__all__ = ["ROLES", "Policy"]
