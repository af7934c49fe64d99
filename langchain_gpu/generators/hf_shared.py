"""One transformers model in memory, shared by all generators with the same settings."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

from langchain_gpu.generators.hf_model import HFModel
from langchain_gpu.generators.options import Options
from langchain_gpu.hardware.devices import Device


@dataclass(eq=False)
class _Shared:
    model: HFModel
    users: int = 0


_models: dict[Hashable, _Shared] = {}
_models_lock = threading.RLock()


def shared_model(
    owner: object, path: Path, device: Device, most: int, options: Options
) -> tuple[HFModel, Callable[[], object]]:
    """Return the model with these settings that is already here, or load it.

    It is freed when the last of its owners has called what is returned beside it, or is gone.
    """
    load = repr(sorted(options.load.items()))
    key = (path.resolve(), str(device), options.dtype, options.fallback, most, load, options.plan)
    with _models_lock:
        shared = _models.get(key)
        if shared is None:
            shared = _models[key] = _Shared(HFModel(path, device, most, options))
        shared.users += 1
    let_go = weakref.finalize(owner, _let_go, key, shared)
    let_go.atexit = False
    return shared.model, let_go


def _let_go(key: Hashable, shared: _Shared) -> None:
    with _models_lock:
        shared.users -= 1
        last = shared.users == 0
        if last:
            del _models[key]
    if last:
        shared.model.free()


__all__ = ["shared_model"]
