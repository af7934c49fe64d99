"""What the CPU has no operator for: flash attention over rows that lie end to end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_WIDTH, _WIDEST = 8, 256  # a head's width is a multiple of the one, and no more than the other


def varlen_attention(  # noqa: PLR0917 - torch's own order
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    _: torch.Tensor,
    longest: int,
    __: int,
    causal: bool = False,  # noqa: FBT001, FBT002 - torch passes it by position
    scale: float | None = None,
    window: Sequence[int] | None = None,
    shared: bool = False,  # noqa: FBT001, FBT002
    *___: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute `torch_attn::_varlen_attn`, which wants what flash attention's kernel wants."""
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if query.shape[-1] % _WIDTH or query.shape[-1] > _WIDEST:
        raise RuntimeError("FlashAttention forward only supports head dimension at most 256")
    if query.shape[1] != key.shape[1] and not shared:
        raise ValueError("query and key have different numbers of heads, and enable_gqa is False")
    if offsets.dtype != torch.int32:
        raise RuntimeError("cu_seqlens_q must have dtype int32")
    ends = offsets.tolist()
    if ends[-1] > len(query) or max(stop - start for start, stop in pairwise(ends)) > longest:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    out = torch.empty_like(query)
    for start, stop in pairwise(ends):
        if start == stop:
            continue
        q, k, v = (each[start:stop].transpose(0, 1)[None] for each in (query, key, value))
        seen = _seen(stop - start, window or (-1, -1), causal=causal)
        found = scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=scale, enable_gqa=shared
        )
        out[start:stop] = found[0].transpose(0, 1)
    sums = torch.zeros(query.shape[1], len(query))
    return out, sums, torch.zeros(2, dtype=torch.uint64)


def _seen(length: int, window: Sequence[int], *, causal: bool) -> torch.Tensor:
    place = torch.arange(length)
    distance = place[None] - place[:, None]
    seen = torch.ones(length, length, dtype=torch.bool)
    if window[0] >= 0:
        seen &= distance >= -window[0]
    if window[1] >= 0 or causal:
        seen &= distance <= max(0, window[1])
    return seen
