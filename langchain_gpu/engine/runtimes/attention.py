"""An attention function for packed rows, registered with transformers.

A batch is one row of tokens and the offsets where its texts begin. On a GPU in half precision one
flash kernel takes all of them; elsewhere the texts are computed one after another by torch's own
attention, which is what the kernel is compared with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.wheels import version

NAME = "langchain_gpu_packed"
HALVES = (torch.float16, torch.bfloat16)
# What a model may ask of its attention and what is not computed here.
_REFUSED = ("softcap", "s_aux", "position_bias", "cache")
_FLASH = (8, 0)  # the compute capability from which on flash attention runs
_TILE = 8  # flash kernels want the width of a head in multiples of this


class NotPackableError(ValueError):
    """A model needs a feature of attention that does not work with packed rows."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Which tokens of a packed row attend to each other.

    Attributes:
        offsets: Where texts begin and the last one ends, shape [texts + 1], int32.
        longest: Tokens of the longest text, or more.
        scale: Of the scores.
        window: Tokens seen to the left and to the right; -1 for all.
    """

    offsets: torch.Tensor
    longest: int
    scale: float
    window: tuple[int, int]


# query, key and value of the shape [tokens, heads, width]
Flash = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Segments], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A flash kernel that takes rows of different lengths.

    Attributes:
        name: Of the function, for people.
        run: Calls it.
    """

    name: str
    run: Flash


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each text of a packed row; transformers' interface.

    Args:
        module: The attention layer.
        query: Shape [1, heads, tokens, width].
        key: The same, perhaps with fewer heads, each shared by a group of the query's.
        value: Like `key`.
        attention_mask: None: offsets take its place.
        scaling: Of the scores; 1 / sqrt(width) where it is None.
        sliding_window: Tokens seen to each side, itself counted; None for all.
        is_causal: Only what stands before is seen; None to ask the layer.
        cu_seq_lens_q: Where texts begin and the last one ends, shape [texts + 1], int32.
        max_length_q: Tokens of the longest text, or more.
        **kwargs: What else the model passes on.

    Returns:
        Shape [1, tokens, heads, width], and no weights.

    Raises:
        NotPackableError: The model wants a bias, a mask or a cache, or passes no offsets on.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise NotPackableError("the model does not pass offsets on to its attention")
    asked = [name for name in _REFUSED if kwargs.get(name) is not None]
    if attention_mask is not None or asked:
        raise NotPackableError(f"its attention needs {asked[0] if asked else 'a mask of its own'}")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    reach = -1 if sliding_window is None else sliding_window - 1
    window = (reach, 0 if causal else reach)
    segments = Segments(cu_seq_lens_q, max_length_q, scale, window)
    kernel = kernel_for(query.device.type, query.dtype)
    if kernel is None:
        out = by_row(query, key, value, segments)
        return out.transpose(1, 2), None
    width = value.shape[-1]
    tiles = -(-max(query.shape[-1], width) // _TILE) * _TILE
    q, k, v = (_widened(each[0].transpose(0, 1), tiles) for each in (query, key, value))
    out = kernel.run(q, k, v, segments)
    return out[None, ..., :width], None


def _widened(heads: torch.Tensor, width: int) -> torch.Tensor:
    missing = width - heads.shape[-1]
    return pad(heads, (0, missing)) if missing else heads


def by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments
) -> torch.Tensor:
    """Compute attention text by text: slow, exact, on every device and in every dtype.

    Args:
        query: Shape [1, heads, tokens, width].
        key: The same, perhaps with fewer heads.
        value: Like `key`.
        segments: The texts.
    """
    out = query.new_empty((*query.shape[:3], value.shape[-1]))
    for start, stop in pairwise(segments.offsets.tolist()):
        if start == stop:
            continue
        out[:, :, start:stop] = scaled_dot_product_attention(
            query[:, :, start:stop],
            key[:, :, start:stop],
            value[:, :, start:stop],
            attn_mask=_mask(stop - start, segments.window, query.device),
            is_causal=segments.window == (-1, 0),
            scale=segments.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return out


def _mask(length: int, window: tuple[int, int], device: torch.device) -> torch.Tensor | None:
    """Return what each token of a text sees, shape [length, length]; None where a flag says it."""
    left, right = window
    if left < 0:
        return None
    place = torch.arange(length, device=device)
    distance = place[None, :] - place[:, None]
    return (distance >= -left) & (distance <= right)


def kernel_for(device: str, dtype: torch.dtype) -> Kernel | None:
    """Return the flash kernel that takes tensors of this kind; None where there is none.

    Args:
        device: torch's name for the kind of device.
        dtype: What is computed in.
    """
    return flash_kernel() if device == "cuda" and dtype in HALVES else None


def is_too_old(device: Device) -> bool:
    """Whether a device is an NVIDIA card without the instructions of flash attention."""
    return (
        device.kind == "cuda"
        and device.capability is not None
        and version(device.capability) < _FLASH
    )


def why_no_kernel(device: Device, dtype: torch.dtype) -> str:
    """Return why no flash kernel takes rows end to end there.

    Args:
        device: One for which `kernel_for` has none, or that is too old.
        dtype: What is computed in.
    """
    if is_too_old(device):
        return (
            f"flash attention needs compute capability {'.'.join(map(str, _FLASH))}, and "
            f"{device.name} has {device.capability}"
        )
    if not device.torch_name.startswith("cuda"):
        return f"no attention kernel takes rows end to end on {device.kind}"
    if dtype not in HALVES:
        return "attention kernels for rows end to end compute in float16 and bfloat16 only"
    return "this torch has no complete varlen_attn, and flash-attn is not installed"


@cache
def flash_kernel() -> Kernel | None:
    """Return torch's own kernel, else the one of flash-attn, else None."""
    return _torch_kernel() or _flash_attn_kernel()


def _torch_kernel() -> Kernel | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters.keys()
    if not {"scale", "window_size"} <= known:
        return None  # torch 2.10 has neither
    # torch 2.11 takes groups of heads without being told; later releases refuse them then.
    told = "enable_gqa" in known

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> torch.Tensor:
        offsets, longest = segments.offsets, segments.longest
        options: dict[str, Any] = {"scale": segments.scale, "window_size": segments.window}
        if told:
            options["enable_gqa"] = q.shape[1] != k.shape[1]
        found: Any = varlen_attn(q, k, v, offsets, offsets, longest, longest, **options)
        out: torch.Tensor = found
        return out

    return Kernel("varlen_attn", run)


def _flash_attn_kernel() -> Kernel | None:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> torch.Tensor:
        offsets, longest, window = segments.offsets, segments.longest, segments.window
        out: torch.Tensor = flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens_q=offsets,
            cu_seqlens_k=offsets,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=segments.scale,
            causal=window[1] == 0,
            window_size=window,
        )
        return out

    return Kernel("flash_attn", run)


# Registered for the attention alone: to a name without a mask function transformers gives no mask,
# and building one would cost a square of all tokens and a wait for the device.
AttentionInterface.register(NAME, packed_attention)
