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
_models_lock = threading.RLock()  # a collected generator lets go of its model in any thread
# Apart from the other: while one model loads, others are shared, closed and freed.
_loading_lock = threading.Lock()


def shared_model(
    owner: object, path: Path, device: Device, most: int, options: Options
) -> tuple[HFModel, Callable[[], object]]:
    """Return the model with these settings that is already here, or load it.

    It is freed when the last of its owners has called what is returned beside it, or is gone.
    """
    load = repr(sorted(options.load.items()))
    key = (path.resolve(), str(device), options.dtype, options.fallback, most, load, options.plan)
    shared = _join(key)
    if shared is None:
        with _loading_lock:  # one load at a time: of two callers, the second joins the first
            shared = _join(key)
            if shared is None:
                shared = _Shared(HFModel(path, device, most, options), users=1)
                with _models_lock:
                    _models[key] = shared
    let_go = weakref.finalize(owner, _let_go, key, shared)
    let_go.atexit = False
    return shared.model, let_go


def _join(key: Hashable) -> _Shared | None:
    """Count one more user of a loaded model, and return it; None if it is not loaded."""
    with _models_lock:
        shared = _models.get(key)
        if shared is not None:
            shared.users += 1
        return shared


def _let_go(key: Hashable, shared: _Shared) -> None:
    with _models_lock:
        shared.users -= 1
        last = shared.users == 0
        if last:
            del _models[key]
    if last:
        shared.model.free()


__all__ = ["shared_model"]
