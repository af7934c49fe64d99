"""Move a torch model to a device and dtype, keeping what must stay in float32."""

from __future__ import annotations

import torch


def move_model(model: torch.nn.Module, device: str, dtype: torch.dtype) -> None:
    """Move a model in place, and cast it as transformers would have loaded it in `dtype`.

    `Module.to` casts every tensor of floats. Those that a model computes for itself and does not
    save are not weights: transformers keeps the frequencies of rotary positions in float32 whatever
    the model computes in. Rounded to bfloat16 they are off by up to 0.4%, which is a radian after a
    few hundred tokens, and widening them again does not bring them back. Nor are weights cast that
    a model's class keeps in float32, as what they compute leaves float16's range (T5).

    Args:
        model: Any module.
        device: As torch names it.
        dtype: Of the weights, of saved buffers, and of others that are in half precision by now.
    """
    saved = model.state_dict().keys()
    exact = {
        name: buffer
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if name not in saved and buffer.dtype == torch.float32
    }
    words = _kept_exact(model, dtype)
    weights = [
        (weight, weight.data)
        for name, weight in model.named_parameters()
        if weight.dtype == torch.float32 and words.intersection(name.split("."))
    ]
    model.to(device=device, dtype=dtype)
    for name, buffer in exact.items():
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, buffer.to(device))
    for weight, values in weights:
        weight.data = values.to(device)


def _kept_exact(model: torch.nn.Module, dtype: torch.dtype) -> set[str]:
    """Return the names that transformers' classes keep in float32 beside `dtype`."""
    words: set[str] = set()
    for module in model.modules():
        if dtype == torch.float16:
            words.update(getattr(module, "_keep_in_fp32_modules", None) or ())
        if dtype in (torch.float16, torch.bfloat16):
            words.update(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    return words


__all__ = ["move_model"]
