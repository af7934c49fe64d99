"""An embedding table that stays in the CPU's memory while the rest of a model is on a GPU.

It is a third and more of a small multilingual model (bge-m3: 256 of 568 million numbers), and a
batch needs only the rows of its tokens. Looking a row up takes no arithmetic, so vectors are the
same to the bit. An idea of transformers' users (huggingface/transformers issue 47705).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class HostTable(torch.nn.Module):
    """Looks tokens up on the CPU, and moves what it found to where the ids are.

    Args:
        table: The model's own table, on the CPU.
    """

    def __init__(self, table: torch.nn.Embedding) -> None:
        super().__init__()
        self._held = (table,)  # in a tuple, where the model's `to` does not find it

    @property
    def weight(self) -> torch.Tensor:
        """The table, shape [vocabulary, width], on the CPU."""
        return self._held[0].weight

    @property
    def padding_idx(self) -> int | None:
        """Id of the token that fills rows up."""
        return self._held[0].padding_idx

    def _apply(
        self,
        fn: Callable[[torch.Tensor], torch.Tensor],
        recurse: bool = True,  # noqa: ARG002, FBT001, FBT002 - torch's signature
    ) -> HostTable:
        """Follow the model to another dtype, and not to another device."""
        self._held[0].to(fn(self.weight.new_empty(0)).dtype)
        return self  # it has no tensors of its own

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of `ids`, shape [*ids.shape, width], on the device of `ids`."""
        rows: torch.Tensor = self._held[0](ids.cpu())
        return rows.to(ids.device)


def keep_on_cpu(model: Any) -> HostTable:
    """Replace a transformers model's table of token embeddings.

    Raises:
        ValueError: The model has no such table, or uses it a second time to predict words.
    """
    get = getattr(model, "get_input_embeddings", None)
    table = None if get is None else get()
    if not isinstance(table, torch.nn.Embedding):
        raise ValueError(  # noqa: TRY004 - it is the model that is wrong, not its type
            f"{type(model).__name__} has no table of token embeddings to offload"
        )
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if output is not None and output.weight is table.weight:
        raise ValueError(f"{type(model).__name__} predicts words with the table itself")
    held = HostTable(table)
    model.set_input_embeddings(held)
    return held


__all__ = ["HostTable", "keep_on_cpu"]
