"""Chats as Triton tensors: vLLM's names, TensorRT-LLM's two sets, and messages as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from langchain_gpu.generators.base import Request
from langchain_gpu.servers.triton_model import Tensor, TritonModel

Filled = dict[str, Any]
"""Values by the names of inputs: a list for each."""

_MESSAGES, _PROMPT, _TEXT = "messages", "text_input", "text_output"
_SAMPLING = "sampling_parameters"
# Where a model has a tensor for each setting: names of TensorRT-LLM's ensemble and of its LLM API.
_NAMES = {
    "max_tokens": ("max_tokens", "sampling_param_max_tokens"),
    "temperature": ("temperature", "sampling_param_temperature"),
    "top_p": ("top_p", "runtime_top_p", "sampling_param_top_p"),
    "top_k": ("top_k", "runtime_top_k", "sampling_param_top_k"),
    "seed": ("random_seed", "seed", "sampling_param_seed"),
    "stop": ("stop_words", "sampling_param_stop"),
}
_STREAM = ("stream", "streaming")
# Switches that are on wherever a model has them.
_ON = (
    "exclude_input_in_output",
    "sampling_param_exclude_input_from_output",
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
)
_SET_HERE = frozenset({_MESSAGES, _PROMPT, _SAMPLING, *_STREAM, *_ON})
_DTYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "FP64": np.float64,
    "FP16": np.float16,
}


@dataclass(frozen=True, slots=True)
class Form:
    """How a model wants to be asked.

    Attributes:
        model: Its configuration.
        prompt: The input for text; None where it takes messages only.
        messages: The input for messages as JSON; None where it takes text only.
        text: The output that holds the answer.
        cumulative: Every response repeats the answer so far (TensorRT-LLM's LLM API).
    """

    model: TritonModel
    prompt: Tensor | None
    messages: Tensor | None
    text: Tensor
    cumulative: bool

    @classmethod
    def of(cls, model: TritonModel, load: Mapping[str, Any]) -> Form:
        """Find the form in a model's configuration.

        Args:
            model: The configuration.
            load: `input` and `output` name the text's tensors where they are called otherwise.

        Raises:
            ValueError: It has no such tensors; the message lists those it has.
        """
        texts = ("BYTES",)
        messages = None if load.get("input") else model.inputs.get(_MESSAGES)
        prompt = model.inputs.get(load.get("input") or _PROMPT)
        if (prompt is None and messages is None) or load.get("input"):
            prompt = model.pick("input", texts, "load_kwargs['input']", load.get("input"))
        named = load.get("output") or (_TEXT if _TEXT in model.outputs else None)
        return cls(
            model=model,
            prompt=prompt,
            messages=messages,
            text=model.pick("output", texts, "load_kwargs['output']", named),
            cumulative="sampling_param_max_tokens" in model.inputs,
        )

    @property
    def outputs(self) -> list[str]:
        """The outputs that are read."""
        more = ("finish_reason", "num_input_tokens", "num_output_tokens")
        return [self.text.name, *(name for name in more if self._says(name))]

    @property
    def says_why(self) -> bool:
        """Whether the model says why an answer ended."""
        return self._says("finish_reason")

    @property
    def counts(self) -> bool:
        """Whether the model says how many tokens a chat took."""
        return self._says("num_input_tokens") and self._says("num_output_tokens")

    def fill(self, request: Request, prompt: str | None) -> Filled:
        """Return the values of the inputs.

        Args:
            request: The chat, or the plain prompt.
            prompt: The chat as text; None where the model takes the messages themselves.

        Raises:
            ValueError: The request asks for what the model has no input for, or the model needs an
                input that the request does not fill.
        """
        filled: Filled = {}
        if prompt is None:
            filled[_MESSAGES] = [json.dumps(list(request.messages))]
            if request.callable_tools:
                filled["tools"] = [json.dumps(list(request.tools))]
        elif self.prompt is not None:
            filled[self.prompt.name] = [prompt]
        if request.response_format is not None:
            filled["response_format"] = [json.dumps(request.response_format)]
        filled |= self._settings(request)
        filled |= {name: [self.model.decoupled] for name in _STREAM if name in self.model.inputs}
        filled |= {name: [True] for name in _ON if name in self.model.inputs}
        self._check(filled)
        return filled

    def arrays(self, filled: Filled) -> list[tuple[Tensor, Any]]:
        """Return each input with its values as an array.

        Raises:
            ValueError: A value does not go into its tensor.
        """
        return [
            (self.model.inputs[name], self._array(self.model.inputs[name], values))
            for name, values in filled.items()
        ]

    def _says(self, name: str) -> bool:
        return name in self.model.outputs and f"return_{name}" in self.model.inputs

    def _settings(self, request: Request) -> Filled:
        wanted = request.settings
        for name, value in request.extra.items():
            if name in wanted or name in _SET_HERE or name in {"n", "logprobs", "best_of"}:
                raise ValueError(f"{name}={value!r} cannot be given in model_kwargs here")
        if _SAMPLING in self.model.inputs:
            return {_SAMPLING: [json.dumps({**request.extra, **wanted})]}
        if wanted.get("temperature") == 0 and self._tensor("top_k") is not None:
            # The likeliest token: TensorRT-LLM divides by the temperature.
            del wanted["temperature"]
            wanted["top_k"] = 1
        filled: Filled = {}
        for name, value in {**wanted, **request.extra}.items():
            tensor = self._tensor(name)
            if tensor is not None:
                filled[tensor] = value if isinstance(value, list) else [value]
            elif name != "stop":  # stop strings are looked for here too
                raise ValueError(
                    f"{self.model.name} has no input for {name!r}: leave it out, or have its "
                    f"config.pbtxt take it (it has {self.model.tensors()})"
                )
        return filled

    def _tensor(self, setting: str) -> str | None:
        names = (*_NAMES.get(setting, (setting,)), f"sampling_param_{setting}")
        return next((name for name in names if name in self.model.inputs), None)

    def _check(self, filled: Filled) -> None:
        """Refuse what the model has no input for, and a model that needs more."""
        for name in filled:
            if name not in self.model.inputs:
                raise ValueError(
                    f"{self.model.name} has no input {name!r} (it has {self.model.tensors()})"
                )
        for tensor in self.model.inputs.values():
            if tensor.optional or tensor.name in filled:
                continue
            if tensor.name in _NAMES["max_tokens"]:
                raise ValueError(f"{self.model.name} wants to know max_tokens: give it")
            if tensor.datatype == "BYTES" and tensor.name in {"bad_words", *_NAMES["stop"]}:
                filled[tensor.name] = [""]  # ensembles of old want one, and read "" as none
                continue
            raise ValueError(
                f"{self.model.name} needs the input {tensor}: give it in model_kwargs, or have it "
                f"marked optional in its config.pbtxt"
            )

    def _array(self, tensor: Tensor, values: list[Any]) -> Any:
        shape = ([1] if self.model.max_batch else []) + [len(values)]
        if tensor.datatype == "BYTES":
            array = np.empty(len(values), object)
            array[:] = [str(value).encode() for value in values]
            return array.reshape(shape)
        try:
            return np.array(values, _DTYPES[tensor.datatype]).reshape(shape)
        except (ValueError, TypeError, OverflowError, KeyError):
            raise ValueError(f"{values} does not go into the input {tensor}") from None


__all__ = ["Filled", "Form"]
