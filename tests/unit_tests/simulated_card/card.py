"""Tensors of the simulated card, and what they may not do."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from tests.unit_tests.simulated_card.kernels import varlen_attention
from tests.unit_tests.simulated_card.memory import MEMORIES

WAITS: Counter[str] = Counter()
"""Operations for which the CPU waited for the card, by name."""

# These take tensors of both devices.
_BETWEEN = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_"}
_BETWEEN |= {"aten::_index_put_impl_"}
# Their result is a number, or has a size that only the card knows.
_WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
_WAITING |= {"aten::is_nonzero", "aten::_unique2", "aten::unique_consecutive"}
_BY_MASK = (torch.bool, torch.uint8)

Step = tuple[Callable[..., Any], Any, Any, list[torch.Tensor | None]]
_thread = threading.local()


class Card(torch.Tensor):
    """A tensor on a card; `on_cpu` holds its values."""

    on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls: Any, inner: torch.Tensor, index: int = 0, **_: Any) -> Any:
        """Wrap a tensor of the CPU; a parameter is made of a tensor of a card."""
        if isinstance(inner, Card):
            return inner
        if inner.is_meta:  # accelerate makes it of a parameter's class, when its layer has run
            return torch.nn.Parameter(inner, requires_grad=False)
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("cuda", index),
        )
        MEMORIES[index].hold(made, inner.untyped_storage())
        made.on_cpu = inner
        return made

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # its annotations leave the class out
        cls, func: Any, _: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends every operation of a thread here, those that make tensors too."""

    def __torch_dispatch__(
        self, func: Any, _: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})


class Functions(TorchFunctionMode):
    """What torch does in C++ before there is an operation."""

    def __torch_function__(
        self, func: Any, _: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if type(named.get("device")) is int:
            named["device"] = torch.device("cuda", named["device"])
        if func in (torch.device, torch.Tensor.to):
            at = int(func is torch.Tensor.to)  # the tensor comes first
            if type((*args, "")[at]) is int:
                args = (*args[:at], torch.device("cuda", args[at]), *args[at + 1 :])
        if func in (torch.tensor, torch.as_tensor) and _is_card(named.get("device")):
            device = named.pop("device")
            return func(*args, **named).to(device)
        return func(*args, **named)


@contextmanager
def recording() -> Iterator[list[Step]]:
    """Collect what runs in this thread, and forbid it to wait."""
    _thread.steps = []
    try:
        yield _thread.steps
    finally:
        _thread.steps = None


def is_recording() -> bool:
    """Say whether this thread records."""
    return getattr(_thread, "steps", None) is not None


def repeat(steps: Sequence[Step]) -> None:
    """Run what was recorded once more, on the same memory."""
    with torch.no_grad():
        for func, args, kwargs, made in steps:
            found = tree_flatten(func(*args, **kwargs))[0]
            tensors = [each for each in found if isinstance(each, torch.Tensor)]
            for tensor, old in zip(tensors, made, strict=True):
                if old is not None:
                    old.copy_(tensor)


def wait_for(what: str) -> None:
    """Count a wait.

    Raises:
        torch.AcceleratorError: The thread records.
    """
    if is_recording():
        raise torch.AcceleratorError(
            f"CUDA error: operation not permitted when stream is capturing ({what})"
        )
    WAITS[what] += 1


def run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Compute one operation on the device its tensors are on.

    Raises:
        RuntimeError: They are on two.
        torch.AcceleratorError: It waits, and the thread records.
        torch.OutOfMemoryError: Its result does not fit.
    """
    flat, layout = tree_flatten((args, dict(kwargs)))
    cards = [each for each in flat if isinstance(each, Card)]
    target = kwargs.get("device")
    name: str = func._schema.name
    if not cards and not _is_card(target):
        named = kwargs if "pin_memory" not in kwargs else {**kwargs, "pin_memory": False}
        return func(*args, **named)
    if name == "aten::_fused_sdp_choice":
        return 0  # the plain computation, of operations that come here again
    _check_devices(name, cards, flat)
    _check_waits(name, args, kwargs)
    if target is None:
        target = args[0].device if name == "aten::copy_" else cards[0].device
    inner = [_inner(each) for each in flat]
    plain_args, plain_kwargs = tree_unflatten(inner, layout)
    if "pin_memory" in plain_kwargs:
        plain_kwargs["pin_memory"] = False
    call = varlen_attention if name == "torch_attn::_varlen_attn" else func
    return _wrapped(call, plain_args, plain_kwargs, flat, inner, target=torch.device(target))


def _wrapped(
    call: Callable[..., Any],
    args: Any,
    kwargs: Any,
    given: Sequence[Any],
    inner: Sequence[Any],
    *,
    target: torch.device,
) -> Any:
    """Call, and wrap what comes of it; what was given stays the same tensor."""
    results, layout = tree_flatten(call(*args, **kwargs))
    known = {id(plain): each for plain, each in zip(inner, given, strict=True)}
    storages = {each.untyped_storage().data_ptr() for each in inner if _is_tensor(each)}
    found: list[Any] = []
    made: list[torch.Tensor | None] = []
    for result in results:
        if not _is_tensor(result):
            found.append(result)
            continue
        is_view = result.untyped_storage().data_ptr() in storages
        made.append(None if is_view else result)
        found.append(known.get(id(result)) if id(result) in known else _placed(result, target))
    if is_recording():
        _thread.steps.append((call, args, kwargs, made))
    return tree_unflatten(found, layout)


def _placed(result: torch.Tensor, target: torch.device) -> Any:
    return Card(result, target.index or 0) if _is_card(target) else result


def _check_devices(name: str, cards: Sequence[Card], flat: Sequence[Any]) -> None:
    others = [each for each in flat if _is_tensor(each) and not isinstance(each, Card)]
    found = {str(each.device) for each in (*cards, *(each for each in others if each.dim()))}
    if name not in _BETWEEN and len(found) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(found, reverse=True))}! ({name})"
        )


def _check_waits(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if name in _WAITING or (
        name == "aten::repeat_interleave" and kwargs.get("output_size") is None
    ):
        wait_for(name)
    elif name in ("aten::index", "aten::index_put_", "aten::_index_put_impl_"):
        indices = [each for each in args[1] if each is not None]
        if not all(isinstance(each, Card) and each.dtype not in _BY_MASK for each in indices):
            wait_for(name)
    elif name == "aten::_to_copy":
        leaves = kwargs.get("device") is not None and not _is_card(kwargs["device"])
        arrives = not isinstance(args[0], Card)
        if (leaves and not kwargs.get("non_blocking")) or (arrives and is_recording()):
            wait_for(name)
    elif name == "aten::copy_":
        crosses = isinstance(args[0], Card) != isinstance(args[1], Card)
        if crosses and not (kwargs.get("non_blocking") or args[2:3] == (True,)):
            wait_for(name)


def _is_card(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _is_tensor(each: Any) -> bool:
    return isinstance(each, torch.Tensor)


def _inner(each: Any) -> Any:
    if isinstance(each, torch.device):
        return torch.device("cpu") if _is_card(each) else each
    return each.on_cpu if isinstance(each, Card) else each
