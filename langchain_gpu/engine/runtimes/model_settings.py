"""What a converted model's program does not hold: tokenizer, prompts, activation.

They are kept beside the program, so that a model that was converted once starts without torch,
transformers and sentence-transformers, which take ten times as long to import as all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from langchain_gpu.engine.batching import PADDED, BatchRules
from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.tasks.activations import activate
from langchain_gpu.engine.tasks.embed import TextTokenizer
from langchain_gpu.engine.tasks.padding import Features
from langchain_gpu.engine.tasks.score import PairTokenizer
from langchain_gpu.engine.tasks.yes_no import QWEN3, PromptTokenizer

_TOKENIZER, _SETTINGS = "tokenizer.json", "settings.json"  # names of files


class FastTokenizer(Protocol):
    """Items to rows of tokens, and rows to padded features, without a Python step per token.

    Attributes:
        kind: By which `ModelSettings` finds its class again.
    """

    kind: ClassVar[str]

    @property
    def window(self) -> int | None:
        """Tokens the model reads at most, special tokens included; None where it has no limit."""

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, beside what `to_json` returns."""

    def to_json(self) -> str:
        """Return the `tokenizers.Tokenizer` inside, as that library stores it."""

    def count(self, items: Sequence[Any], /) -> list[int]:
        """Return the tokens of each item, nothing cut off."""

    def tokenize(self, items: Sequence[Any], options: Any, /, *, start: int = 0) -> Tokenized:
        """See `Encoder.tokenize`."""

    def batch(
        self, tokens: Tokenized, rows: NDArray[np.int64], rules: BatchRules = PADDED
    ) -> Features:
        """Pad some rows to the longest of them."""

    def merge(self, tokens: Tokenized, vectors: Vectors, /) -> Vectors:
        """See `Encoder.merge`."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """A model without its weights.

    Attributes:
        tokenizer: Items to features.
        inputs: Which of the features the program takes, in its order.
        prompts: The prompts the model ships, by name.
        default_prompt_name: The prompt its authors want where none is named.
        instructed: Whether a reranker is told what makes a document relevant.
        activation: What a reranker's authors want done to its logits, as `activations` names it;
            None for an embedder.
    """

    tokenizer: FastTokenizer
    inputs: tuple[str, ...]
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    instructed: bool = False
    activation: str | None = None

    def features(self, items: Sequence[Any], options: Any) -> Features:
        """Return what the program takes, padded to the longest item. Shapes (items, width)."""
        tokens = self.tokenizer.tokenize(items, options)
        features = self.tokenizer.batch(tokens, np.arange(len(items)))
        return {name: features[name] for name in self.inputs}

    def activate(self, logits: Vectors) -> Vectors:
        """Do to a reranker's logits what its authors want done. Any shape."""
        return logits if self.activation is None else activate(self.activation, logits)

    def save(self, folder: Path) -> None:
        """Write it into a folder, for `read`."""
        stored = {
            "tokenizer": {"kind": self.tokenizer.kind, **self.tokenizer.settings},
            "inputs": self.inputs,
            "prompts": dict(self.prompts),
            "default_prompt_name": self.default_prompt_name,
            "instructed": self.instructed,
            "activation": self.activation,
        }
        (folder / _TOKENIZER).write_text(self.tokenizer.to_json(), encoding="utf-8")
        (folder / _SETTINGS).write_text(json.dumps(stored), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ModelSettings:
        """Read what `save` wrote."""
        stored = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        words = stored.pop("tokenizer")
        make = _MAKERS[words.pop("kind")]
        tokenizer = make(Tokenizer.from_str((folder / _TOKENIZER).read_text("utf-8")), **words)
        return cls(tokenizer=tokenizer, **stored | {"inputs": tuple(stored["inputs"])})


_MAKERS: dict[str, Callable[..., Any]] = {
    TextTokenizer.kind: TextTokenizer,
    PairTokenizer.kind: PairTokenizer.framed,
    PromptTokenizer.kind: partial(PromptTokenizer, prompt=QWEN3),
}

__all__ = ["FastTokenizer", "ModelSettings"]
