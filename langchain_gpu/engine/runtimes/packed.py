"""Batches without padding: rows end to end, with the offsets at which they begin.

sentence-transformers' modules understand such batches; what is ours is building them without a
Python step per token, the attention they go through (`attention.py`), and the proof that a model
computes the same with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.runtimes.attention import NAME, NotPackableError
from langchain_gpu.engine.runtimes.likeness import cosines
from langchain_gpu.engine.tasks.padding import Packed
from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.utils.errors import first_line

logger = logging.getLogger(__name__)

# What the model has to let through to its attention.
_PASSED_ON = {"cu_seq_lens_q", "max_length_q"}
# Two batches of different lengths: one token, a few, more than the local windows of any model. The
# engine sorts rows; nothing here may depend on that.
PROOFS = ((3, 1, 300, 17), (140, 2, 9))
# Half precision rounds the two ways differently: by 1e-4 in bfloat16 with MiniLM, where positions
# that are off by two cost from 2e-2 to 5e-1.
LEAST_COSINE = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.995}


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Rows end to end.

    Attributes:
        features: What the modules take: `input_ids`, `position_ids` and `seq_idx` of the shape
            [1, tokens], `cu_seq_lens_q` [rows + 1], `max_length_q`, and what else the model wants.
        rows: How many.
        tokens: All their tokens.
        longest: Tokens of the longest row.
        empty: Rows without a token, ascending. One pad token stands for each; a batch cannot hold
            none, and the vector is zero, as it is with padding.
    """

    features: dict[str, Any]
    rows: int
    tokens: int
    longest: int
    empty: NDArray[np.int64]

    def with_features(self, features: dict[str, Any]) -> PackedBatch:
        """Return the same rows with other features."""
        return replace(self, features=features)


class Packer:
    """Builds packed batches for one model and leads them through its attention.

    Args:
        transformer: sentence-transformers' `Transformer`.

    Raises:
        NotPackableError: Its attention cannot be replaced.
    """

    def __init__(self, transformer: Any) -> None:
        model = transformer.model
        if not isinstance(model, PreTrainedModel):
            raise NotPackableError(f"{type(model).__name__} is not a transformers model")
        self._model: Any = model
        self._own: str = self._model.config._attn_implementation  # noqa: SLF001 - its only name
        self._typed = "token_type_ids" in transformer.tokenizer.model_input_names
        self._pad = int(transformer.tokenizer.pad_token_id or 0)
        self._counted_from = _counted_from(self._model)
        self._use(NAME)
        self._use(self._own)
        if transformer.model_forward_params is not None:
            transformer.model_forward_params |= _PASSED_ON

    def pack(self, tokens: Tokenized, rows: NDArray[np.int64]) -> PackedBatch:
        """Build the features of a batch in host memory."""
        packed: Packed = tokens.payload
        lengths = tokens.lengths[rows]
        empty = np.flatnonzero(lengths == 0)
        sizes = np.maximum(lengths, 1)
        ends = np.cumsum(sizes)
        starts, total = ends - sizes, int(ends[-1])
        places = np.arange(total) - np.repeat(starts, sizes)
        source = places + np.repeat(packed.offsets[rows], sizes)
        source[starts[empty]] = 0
        ids = packed.ids[source].astype(np.int64) if len(packed.ids) else np.zeros(total, np.int64)
        ids[starts[empty]] = self._pad
        if self._counted_from is not None:
            # These models count the tokens that are not padding, wherever they stand.
            counted = ids != self._counted_from
            before = np.cumsum(counted) - counted
            inside = before - np.repeat(before[starts], sizes) + 1
            places = inside * counted + self._counted_from
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids)[None],
            "position_ids": torch.from_numpy(places)[None],
            "seq_idx": torch.from_numpy(np.repeat(np.arange(len(rows)), sizes))[None],
            "cu_seq_lens_q": torch.from_numpy(np.append(0, ends).astype(np.int32)),
            "max_length_q": int(sizes.max()),
        }
        if self._typed:
            features["token_type_ids"] = torch.zeros(1, total, dtype=torch.int64)
        return PackedBatch(features, len(rows), total, int(sizes.max()), empty)

    def switch(self, *, packed: bool) -> None:
        """Let the model attend within packed rows, or in its own way; cheap where it does."""
        self._use(NAME if packed else self._own)

    def _use(self, name: str) -> None:
        if self._model.config._attn_implementation == name:  # noqa: SLF001
            return
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # a refusal is a warning there, an error here
        try:
            self._model.set_attn_implementation(name)
        finally:
            transformers_logging.set_verbosity(level)
        if self._model.config._attn_implementation != name:  # noqa: SLF001
            raise NotPackableError(
                f"{type(self._model).__name__} has its own attention, which cannot be replaced"
            )


def prove(
    padded: Callable[[Tokenized, NDArray[np.int64]], Vectors],
    packed: Callable[[Tokenized, NDArray[np.int64]], Vectors],
    fill: Callable[[list[int]], Tokenized],
    *,
    longest: int,
    dtype: str,
) -> str | None:
    """Compare packed batches with padded ones; return the difference in words, None if equal.

    Args:
        padded: Vectors of rows the safe way.
        packed: The way to prove.
        fill: Makes rows of these lengths.
        longest: Tokens a row may have.
        dtype: What is computed in.

    Raises:
        Exception: Memory ran out; anything else is a reason.
    """
    least = LEAST_COSINE[dtype]
    for lengths in PROOFS:
        sizes = [min(length, longest) for length in lengths]
        tokens = fill(sizes)
        rows = np.arange(len(sizes))
        wanted = padded(tokens, rows)
        try:
            found = packed(tokens, rows)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            logger.info("packed rows are not possible", exc_info=True)
            return first_line(error)
        cosine = _least_cosine(wanted, found)
        if not cosine >= least:
            return f"packed rows give different results (cosine {cosine:.5f}, {least} wanted)"
    return None


def _least_cosine(wanted: Vectors, found: Vectors) -> float:
    if wanted.shape != found.shape:
        return float("nan")
    return float(cosines(wanted, found).min())


def positions_of(model: torch.nn.Module) -> int | None:
    """Return the tokens a row may have before a model runs out of positions; None if unknown.

    A tokenizer may promise more. Beyond the end of its table a card stops the whole process.
    """
    for table, padding in _tables(model):
        return table.num_embeddings - (0 if padding is None else padding + 1)
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


def _counted_from(model: torch.nn.Module) -> int | None:
    """Return the padding id above which models like RoBERTa count positions; None for others."""
    return next((padding for _, padding in _tables(model)), None)


def _tables(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Embedding, int | None]]:
    """Yield learned positions, and the id of padding where they are counted from that."""
    for module in model.modules():
        table, padding = (
            getattr(module, "position_embeddings", None),
            getattr(module, "padding_idx", None),
        )
        if isinstance(table, torch.nn.Embedding):
            yield table, padding if isinstance(padding, int) else None
