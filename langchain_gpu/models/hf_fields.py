"""Typed access to a configuration's fields; errors name the file and the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_gpu.models.info import HeaderError

_TEXT_PARTS = ("text_config", "llm_config", "language_config")
_MAX_NUMBER = 1 << 40  # no size of a model comes near it
# What transformers' classes take where a nested configuration says nothing: a model with a vision
# part saves only what differs from these.
_NESTED: Mapping[str, Mapping[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
    "llama": {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
}


@dataclass(frozen=True, slots=True)
class Fields:
    """The part of a configuration that describes its language model.

    Attributes:
        values: The fields, those of `text_config` where there is one.
        outer: The fields of the whole file.
        file: What errors call it.
    """

    values: Mapping[str, Any]
    outer: Mapping[str, Any]
    file: str

    @classmethod
    def of(cls, config: Mapping[str, Any], file: str) -> Fields:
        """Find the language model's part of `config`."""
        for key in _TEXT_PARTS:
            inner = config.get(key)
            if isinstance(inner, Mapping):
                kind = inner.get("model_type")
                defaults = _NESTED.get(kind, {}) if isinstance(kind, str) else {}
                return cls({**defaults, **inner}, config, file)
        return cls(config, config, file)

    @property
    def family(self) -> str:
        """The `model_type`."""
        return self.text("model_type")

    def number(self, *names: str) -> int:
        """Return the first of the fields `names` that is there.

        Raises:
            HeaderError: None is there, or it is not a whole number of at least 1.
        """
        found = self.optional(*names)
        if found is None:
            raise HeaderError(
                f"{self.file} has no field {' or '.join(map(repr, names))}, which is needed to "
                f"know the model's size; use the config.json of the model itself"
            )
        return found

    def optional(self, *names: str, least: int = 1) -> int | None:
        """Return the first of the fields `names` that is there and not null, or None.

        Raises:
            HeaderError: It is not a whole number of at least `least`.
        """
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return self._whole(name, value, least)
        return None

    def most(self, *names: str) -> int | None:
        """Return the largest number of the first of `names` that is there; it may be one a layer.

        Raises:
            HeaderError: As for `optional`.
        """
        for name in names:
            value = self.values.get(name)
            if isinstance(value, list) and value:
                return max(self._whole(name, item, 1) for item in value)
            if value is not None:
                return self._whole(name, value, 1)
        return None

    def _whole(self, name: str, value: object, least: int) -> int:
        if type(value) is not int or not least <= value <= _MAX_NUMBER:
            raise HeaderError(
                f"{self.file}: {name!r} is {_short(value)}, not a whole number from {least} up"
            )
        return value

    def text(self, name: str) -> str:
        """Return a field that is text, of the inner part or else of the outer.

        Raises:
            HeaderError: It is missing, or no text.
        """
        value = self.values.get(name, self.outer.get(name))
        if not isinstance(value, str) or not value:
            raise HeaderError(f"{self.file}: {name!r} is {_short(value)}, not a text")
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a field that is true or false; null counts as missing.

        Raises:
            HeaderError: It is something else.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise HeaderError(f"{self.file}: {name!r} is {_short(value)}, not true or false")
        return value

    def listed(self, name: str, length: int) -> list[Any] | None:
        """Return a field that holds one item for every layer, or None where it is missing.

        Raises:
            HeaderError: It is not a list of that length.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length:
            raise HeaderError(
                f"{self.file}: {name!r} is not a list with one item for each of {length} layers"
            )
        return value


def _short(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]


__all__ = ["Fields"]
