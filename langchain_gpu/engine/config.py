"""What decides how an embedder or a reranker is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_gpu.events import Fallback, Listener
from langchain_gpu.planner.terms import ComponentPlan
from langchain_gpu.servers.server import Server

Asked = Literal["embed", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderConfig:
    """All settings that decide how a model is loaded.

    Attributes:
        model: Path or name; see `models.resolve`. For a server, the name it knows the model by.
        device: A name, `"auto"`, `"all"`, or several names to spread the work over.
        backend: Which library, or which kind of server, runs the model.
        dtype: What is computed in; `"auto"` asks the device.
        fallback: `"cpu"` moves there with a warning when a device is missing or too small,
            `"error"` raises.
        max_batch_tokens: Computed tokens per batch; None for a default by device.
        where: More arguments of `resolve`: revision, cache_folder, token and so on.
        options: More arguments for the back end's library.
        calibration: Texts that show an integer quantization which values to expect; empty for
            texts drawn by the back end.
        server: Set where a server runs the model.
        task: What it is asked to do: vectors of texts, or scores of pairs.
        plan: Where the model goes, by `planner.plan`; None has it planned when it is loaded.
        on_event: Told when a back end falls back while it loads.
    """

    model: str
    device: str | Sequence[str] = "auto"
    backend: str = "auto"
    dtype: str = "auto"
    fallback: Fallback = "cpu"
    max_batch_tokens: int | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    calibration: Sequence[str] = ()
    server: Server = field(default_factory=Server)
    task: Asked = "embed"
    plan: ComponentPlan | None = None
    on_event: Listener | None = field(default=None, repr=False, compare=False)
