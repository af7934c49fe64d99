"""Numpy arrays to Triton tensors, and back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput

from langchain_gpu.servers.errors import BadAnswerError

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Input:
    """What one input tensor is filled with.

    Attributes:
        name: The tensor.
        datatype: As the protocol writes it.
        values: Texts are `bytes` in an array of objects.
    """

    name: str
    datatype: str
    values: NDArray[Any]

    def sent(self) -> Any:
        """Return it as the official client wants it."""
        tensor = InferInput(self.name, list(self.values.shape), self.datatype)
        tensor.set_data_from_numpy(np.ascontiguousarray(self.values))
        return tensor


def read(result: Any, names: Sequence[str], host: str) -> Arrays:
    """Return those of the outputs that a response holds.

    Args:
        result: The official client's.
        names: The outputs.
        host: Who answered, for messages.

    Raises:
        BadAnswerError: One cannot be read.
    """
    found: Arrays = {}
    for name in names:
        try:
            array = result.as_numpy(name)
        except (ValueError, TypeError, KeyError, struct.error) as error:
            raise BadAnswerError(
                f"{host} returned a tensor {name} that cannot be read: {error}"
            ) from None
        if array is not None:
            found[name] = array
    return found


__all__ = ["Arrays", "Input", "read"]
