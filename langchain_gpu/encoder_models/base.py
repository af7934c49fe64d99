"""The base of embedding and reranking models: settings, and loading at first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    contextmanager,
)
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import override

from langchain_gpu.encoder_models import elsewhere
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.keeper import Held, Keeper
from langchain_gpu.events import Fallback, Listener
from langchain_gpu.hardware.names import as_dtype, as_names, check_names
from langchain_gpu.planner import ComponentPlan, Plan
from langchain_gpu.planner.drive import component_of
from langchain_gpu.servers.server import Server
from langchain_gpu.utils.arguments import check_arguments, check_backend
from langchain_gpu.utils.paths import text_of
from langchain_gpu.utils.redaction import redacted, redacted_url

# Arguments of sentence-transformers' classes that say where a model's files are.
_WHERE = ("revision", "token", "local_files_only")

ModelT = TypeVar("ModelT")
FutureT = TypeVar("FutureT", bound=Future[Any])


class Loaded:
    """The model, once it is loaded. A deep copy or an unpickled object loads its own."""

    def __init__(self) -> None:
        self.keeper: Keeper[Any] = Keeper()
        self.config: EmbedderConfig | None = None
        self.warned_of_truncation = False

    def __reduce__(self) -> tuple[type[Loaded], tuple[()]]:
        return Loaded, ()


class RunsModel(BaseModel):
    """Base of a class that computes with a model, which is loaded at its first use.

    A subclass gives `model` a default, and `backend` its allowed names.
    """

    model: str
    """A folder, a `.gguf` file, or the name of a model: on the hub, or on the server."""
    backend: str = "auto"
    """Which library, or which kind of server, runs the model."""
    cache_folder: str | None = None
    """Where models of the hub are kept; SENTENCE_TRANSFORMERS_HOME does the same."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of sentence-transformers' class: `device`, `prompts`, `revision`, `token`,
    `trust_remote_code` (only with a full commit as `revision`), `model_kwargs` and so on."""
    device: str | list[str] = "auto"
    """Where to run: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"rocm"`, `"xpu"` or `"mps"`; a list
    of them, or `"all"` for all GPUs, shares the work."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """What the model computes in: `"auto"` (half precision where the device is fast at it),
    `"float32"`, `"bfloat16"`, `"float16"`, or `"int8"` (embedders only)."""
    fallback: Fallback = "cpu"
    """When a device is missing or too small: `"cpu"` goes on there with a warning, `"error"`
    raises."""
    plan: Plan | ComponentPlan | None = Field(default=None, exclude=True)
    """Where the model goes, by `langchain_gpu.planner.plan`; None has it planned when it is loaded,
    against what is free then."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward pass, padding included; None takes a default for the device."""
    idle_timeout: float | None = Field(default=None, gt=0)
    """Seconds without use after which the model's memory is freed; the next use loads it again."""
    base_url: str | None = None
    """A server that runs the model instead of this process."""
    api_key: SecretStr | None = None
    """The key that this server asks for."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds that a request to the server may take."""
    max_retries: int = Field(default=3, ge=0)
    """Further attempts when the server is overloaded, fails or breaks off."""
    max_concurrency: int = Field(default=8, ge=1)
    """Requests to the server in flight at the same time."""
    on_event: SkipJsonSchema[Listener | None] = Field(default=None, exclude=True)
    """Called for batches, fallbacks and budget changes; see `langchain_gpu.events`."""

    _role: ClassVar[str] = "embedder"  # what a plan calls it
    # What other classes call our settings, and what is taken for a back end.
    _elsewhere: ClassVar[Mapping[str, str]] = elsewhere.ARGUMENTS
    _backends: ClassVar[Mapping[str, str]] = {}
    _loaded: Loaded = PrivateAttr(default_factory=Loaded)

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,  # what was given beside the wrong item may be a secret
    )

    @model_validator(mode="before")
    @classmethod
    def _say_ours(cls, values: Any) -> Any:
        if isinstance(values, dict):
            check_arguments(cls.__name__, values, [*cls.model_fields, "model_name"], cls._elsewhere)
        return values

    @field_validator("model", "cache_folder", mode="before")
    @classmethod
    def _take_paths(cls, name: Any) -> Any:
        return text_of(name)

    @field_validator("backend", mode="before")
    @classmethod
    def _say_which(cls, backend: Any) -> Any:
        known = get_args(cls.model_fields["backend"].annotation)
        check_backend(cls.__name__, backend, known, cls._backends)
        return backend

    @field_validator("dtype", mode="before")
    @classmethod
    def _without_torch(cls, dtype: Any) -> Any:
        return as_dtype(dtype)

    @field_validator("device", mode="before")
    @classmethod
    def _named(cls, device: Any) -> Any:
        return as_names(device)

    @override
    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redacted_url(value) if name == "base_url" else redacted(value)

    def close(self) -> None:
        """Free the model's memory, once calls under way are done. The next use loads it again."""
        self._loaded.keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hold(self, load: Callable[[EmbedderConfig], Any]) -> AbstractContextManager[Any]:
        """Use the model while the context is open, loaded with `load` if necessary."""
        config = self._current()
        return self._loaded.keeper.use(lambda: load(config))

    def _ahold(
        self, load: Callable[[EmbedderConfig], Any]
    ) -> AbstractAsyncContextManager[Held[Any]]:
        """Do the same as `_hold` without blocking the event loop."""
        config = self._current()
        return self._loaded.keeper.hold_async(lambda: load(config))

    def _current(self) -> EmbedderConfig:
        """Return the settings; drop a model that was loaded with different ones."""
        config = self._config()
        if self._loaded.config not in (None, config):
            # A copy with other settings, or settings that were changed: they need another model.
            self._loaded = Loaded()
        self._loaded.config = config
        self._loaded.keeper.idle_timeout = self.idle_timeout
        return config

    def _config(self) -> EmbedderConfig:
        """Read the settings.

        Raises:
            TypeError: The device in `model_kwargs` is not a name.
            ValueError: The device is named in two places, and they disagree.
        """
        options = dict(self.model_kwargs)
        where = {name: options.pop(name) for name in _WHERE if name in options}
        where["remote_code"] = bool(options.get("trust_remote_code", False))
        where["cache_folder"] = options.pop("cache_folder", None) or self.cache_folder
        backend = options.pop("backend", self.backend)
        device = self._device(as_names(options.pop("device", None)))
        plan = None if self.plan is None else component_of(self.plan, self._role, self.model)
        dtype = _take_dtype(options) or self.dtype
        if dtype == "auto" and plan is not None and plan.dtype is not None:
            dtype = plan.dtype
        return EmbedderConfig(
            model=self.model,
            device=device,
            backend=backend,
            dtype=dtype,
            fallback=self.fallback,
            max_batch_tokens=self.max_batch_tokens,
            where=where,
            options=options,
            plan=plan,
            server=Server(
                url=self.base_url,
                api_key=self.api_key.get_secret_value() if self.api_key else None,
                timeout=self.timeout,
                max_retries=self.max_retries,
                concurrency=self.max_concurrency,
            ),
        )

    def _device(self, other: str | list[str] | None) -> str | list[str]:
        """Return the device, which `model_kwargs` may name too."""
        device = self.device if other is None else other
        check_names("model_kwargs['device']", device)
        if self.device not in ("auto", device):
            raise ValueError(
                f"device={self.device!r} and model_kwargs['device']={device!r} disagree"
            )
        return device


def _take_dtype(options: dict[str, Any]) -> str | None:
    """Take the dtype out of the arguments of transformers in `options`; None if they name none."""
    weights = dict(options.pop("model_kwargs", None) or {})
    found = None
    for name in ("torch_dtype", "dtype"):
        if (named := weights.pop(name, None)) is not None:
            found = str(named).removeprefix("torch.")
    if weights:
        options["model_kwargs"] = weights
    return found


@contextmanager
def started(
    hold: AbstractContextManager[ModelT], start: Callable[[ModelT], FutureT]
) -> Iterator[tuple[ModelT, FutureT]]:
    """Keep a model in use until a call on it is done, even if the task is canceled before.

    Leaving the context cancels a call that has not begun. One that has begun goes on, and the model
    must not be freed meanwhile.
    """
    with ExitStack() as stack:
        model = stack.enter_context(hold)
        future = start(model)
        held = stack.pop_all()
    try:
        yield model, future
    finally:
        future.cancel()
        future.add_done_callback(lambda _: held.close())
