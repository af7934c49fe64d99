"""The settings of chat and completion models, and what engines and requests take of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from typing_extensions import override

from langchain_gpu.events import Fallback, Listener
from langchain_gpu.generators.registry import SERVERS, Options, check_name, names
from langchain_gpu.hardware.names import as_dtype, as_names
from langchain_gpu.language_models.elsewhere import ARGUMENTS, BACKENDS
from langchain_gpu.planner import ComponentPlan, Plan
from langchain_gpu.planner.drive import component_of, main_device
from langchain_gpu.servers.server import Server
from langchain_gpu.utils.arguments import check_arguments, check_backend
from langchain_gpu.utils.paths import text_of
from langchain_gpu.utils.redaction import redacted, redacted_url

PER_CALL = ("max_tokens", "temperature", "top_p", "seed", "timeout")
"""Fields that are sampling settings of one call, and may be given with the call too."""
_PLACING = (
    "device",
    "dtype",
    "fallback",
    "n_ctx",
    "n_parallel",
    "n_gpu_layers",
    "n_threads",
    "keep_alive",
)
# Seconds a server may take for an answer when nobody said: the openai client's own default.
_SERVER_SECONDS = 600.0

_SEEDS = 2**31

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


class GeneratorSettings(BaseModel):
    """Fields of a class that generates text with a model."""

    model: str = Field(validation_alias=AliasChoices("model", "model_name"), min_length=1)
    """A `.gguf` file, a folder, or the name of a model: on the hub, or on the server."""
    backend: str = "auto"
    """What runs the model: `"llama_cpp"`, `"transformers"`, `"ollama"`, `"openai"` or `"triton"`.
    `"auto"` takes the first for GGUF, the second for safetensors, and asks the server at `base_url`
    whether it is Ollama."""
    device: str = "auto"
    """Where to run: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"rocm"`, `"xpu"` or `"mps"`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What Transformers computes in: `"auto"` (half precision where the device is fast at it),
    `"float32"`, `"bfloat16"` or `"float16"`. A GGUF file brings its own."""
    fallback: Fallback = "cpu"
    """When the device is missing or too small: `"cpu"` goes on there with a warning, `"error"`
    raises."""
    n_ctx: int | None = Field(default=None, ge=1)
    """Window of one chat in tokens, prompt and answer together. None is 4,096 for llama.cpp, which
    allocates it for every slot, and the model's own for Transformers."""
    n_parallel: int | None = Field(default=None, ge=1)
    """Chats at the same time: None is 4 slots of llama.cpp, 16 rows of a batch with Transformers,
    4 requests to Ollama, and 64 to other servers."""
    n_gpu_layers: int | None = Field(default=None, ge=-1)
    """With llama.cpp and Ollama, layers on the GPU; None and -1 take as many as fit."""
    n_threads: int | None = Field(default=None, ge=1)
    """With llama.cpp and Ollama, CPU threads; None leaves them to Ollama, and takes the cores that
    are free when llama.cpp loads the model."""

    temperature: float | None = Field(default=None, ge=0)
    """0 takes the likeliest token; None is the engine's default."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling; None is the engine's default."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; None leaves it the rest of the window."""
    stop: list[str] | None = None
    """Strings that end the answer, and are not part of it; those given with a call replace them."""
    seed: int | None = None
    """Makes sampling repeatable on one machine."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds from the call to the last token, loading not counted; None waits, and 600 seconds
    for a server."""
    streaming: bool = False
    """Stream inside `invoke` too, for callbacks that want every token."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More options for every call, under the engine's own names: `{"min_p": 0.1}`."""
    load_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More options for loading the model, which only one engine knows: docs/chat.md lists them."""
    base_url: str | None = None
    """A server that runs the model instead of this process."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """The key that this server asks for; an engine in this process asks for none."""
    max_retries: int = Field(default=2, ge=0)
    """Further attempts when a server is overloaded, fails or breaks off before it has answered;
    what fails in this process would fail again."""
    keep_alive: float | str | None = None
    """How long the model stays loaded after a call: seconds, or `"5m"`. None and -1 are forever;
    with None a server keeps it as long as it likes."""
    plan: Plan | ComponentPlan | None = Field(default=None, exclude=True)
    """Where the model goes, by `langchain_gpu.planner.plan`; None has a file planned when it is
    loaded, against what is free then. Ollama is told its layers and its window."""
    on_event: Listener | None = Field(default=None, exclude=True)
    """Called for fallbacks and wrong plans; see `langchain_gpu.events`."""

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
            check_arguments(cls.__name__, values, [*cls.model_fields, "model_name"], ARGUMENTS)
        return values

    @field_validator("model", mode="before")
    @classmethod
    def _take_paths(cls, name: Any) -> Any:
        return text_of(name)

    @field_validator("backend")
    @classmethod
    def _known(cls, backend: str) -> str:
        check_backend(cls.__name__, backend, names(), BACKENDS)
        check_name(backend)
        return backend

    @field_validator("dtype", mode="before")
    @classmethod
    def _without_torch(cls, dtype: Any) -> Any:
        return as_dtype(dtype)

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: Any) -> Any:
        """A single text is one stop string, as with a call and in other models' classes."""
        return [stop] if isinstance(stop, str) else stop

    @field_validator("device", mode="before")
    @classmethod
    def _named(cls, device: Any) -> Any:
        return as_names(device)

    @field_validator("keep_alive")
    @classmethod
    def _duration(cls, keep_alive: float | str | None) -> float | str | None:
        seconds_of(keep_alive)
        return keep_alive

    @property
    def model_name(self) -> str:
        """The model, under the name other models' classes give it."""
        return self.model

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What tells one model's answers from another's, for LangChain's caches."""
        names = ("model", "backend", "base_url", "stop", "model_kwargs", *PER_CALL)
        weights = ("dtype", "n_ctx", "load_kwargs")
        settings = {name: redacted(getattr(self, name)) for name in (*names, *weights)}
        # LangChain writes the stop strings of the call over `stop`, even where there are none.
        return {**settings, "base_url": redacted_url(self.base_url), "own_stop": self.stop}

    @override
    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redacted_url(value) if name == "base_url" else redacted(value)

    def _options(self) -> Options:
        placing = {name: getattr(self, name) for name in _PLACING}
        server = Server(
            url=self.base_url,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            timeout=self.timeout or _SERVER_SECONDS,
            max_retries=self.max_retries,
        )
        planned = None
        if self.plan is not None:
            planned = component_of(self.plan, "chat", self.model)
            here = self.backend not in SERVERS and self.base_url is None
            if placing["device"] == "auto" and here:
                placing["device"] = main_device(planned)
        return Options(
            **placing,
            load=self.load_kwargs,
            server=server,
            plan=planned,
            listener=self.on_event,
        )

    def _asked(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what every `Request` holds, from the settings and those of the call."""
        extra = {**self.model_kwargs, **kwargs}
        extra.pop("stream", None)  # LangChain's word for which of our methods it calls
        if extra.pop("model", self.model) != self.model:
            raise ValueError(
                f"this {type(self).__name__} holds {self.model}: make another one for another model"
            )
        settings = {name: extra.pop(name, getattr(self, name)) for name in PER_CALL}
        if type(settings["seed"]) is int:
            # Engines truncate it to 32 bits, and some take -1 for a random seed.
            settings["seed"] %= _SEEDS
        return {
            "response_format": extra.pop("response_format", None),
            "stop": _stops(stop if stop is not None else self.stop),
            "extra": extra,
            **settings,
        }


def _stops(stop: Any) -> tuple[Any, ...]:
    """Return stop strings as they were given; a single text is one of them, not its letters."""
    if stop is None:
        return ()
    if not isinstance(stop, (str, list, tuple)):
        raise ValueError(  # noqa: TRY004 - as for every other wrong setting
            f"stop must be a list of texts, not {stop!r}"
        )
    return (stop,) if isinstance(stop, str) else tuple(stop)


def seconds_of(keep_alive: float | str | None) -> float | None:
    """Return how many seconds an idle model stays loaded; None forever.

    Raises:
        ValueError: It is neither a number nor a number with `ms`, `s`, `m` or `h`.
    """
    if keep_alive is None:
        return None
    if isinstance(keep_alive, str):
        if keep_alive.strip().startswith("-"):
            return None
        match = _DURATION.fullmatch(keep_alive.strip())
        if match is None:
            raise ValueError(f"keep_alive={keep_alive!r}: write seconds, or '30s', '5m', '1h'")
        return float(match[1]) * _SECONDS[match[2]]
    return None if keep_alive < 0 else float(keep_alive)


__all__ = ["PER_CALL", "GeneratorSettings", "seconds_of"]
