"""A Triton model's configuration: its tensors, and its largest batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TEXT = "BYTES"  # the protocol's name for what a configuration calls TYPE_STRING


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output.

    Attributes:
        name: Its name.
        datatype: As the protocol writes it: `"BYTES"`, `"FP32"`, `"INT32"`.
        dims: Its shape without the dimension of the batch; -1 is any number.
        optional: A request may leave it out.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False

    def __str__(self) -> str:
        dims = ", ".join(map(str, self.dims))
        return f"{self.name} ({self.datatype} [{dims}]{', optional' if self.optional else ''})"


@dataclass(frozen=True, slots=True)
class TritonModel:
    """A model's configuration, as far as a request depends on it.

    Attributes:
        name: Its name.
        max_batch: Items of one request at most; 0 for a model without a dimension for the batch.
        decoupled: One request may have several responses.
        inputs: By name, in the order of the configuration.
        outputs: The same.
    """

    name: str
    max_batch: int
    decoupled: bool
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    @classmethod
    def of(cls, name: str, config: Any) -> TritonModel:
        """Read the configuration that a server returned."""
        return cls(
            name=name,
            max_batch=config.max_batch_size,
            decoupled=config.model_transaction_policy.decoupled,
            inputs=_tensors(config.input),
            outputs=_tensors(config.output),
        )

    def shape(self, tensor: Tensor, items: int) -> tuple[int, ...]:
        """Return the shape in which a tensor holds one value for each of `items` items.

        Raises:
            ValueError: It has no room for them.
        """
        dims = (-1, *tensor.dims) if self.max_batch else tensor.dims
        if not dims or dims[0] not in (-1, items) or any(size not in (-1, 1) for size in dims[1:]):
            raise ValueError(
                f"the tensor {tensor} of {self.name} does not hold {items} texts, one for each item"
            )
        return (items, *(1 for _ in dims[1:]))

    def most(self, tensor: Tensor) -> int | None:
        """Return how many items one request may hold in `tensor`; None where nothing bounds it."""
        if self.max_batch:
            return self.max_batch
        return None if tensor.dims and tensor.dims[0] == -1 else 1

    def pick(
        self, kind: str, datatypes: Sequence[str], option: str, named: str | None = None
    ) -> Tensor:
        """Return the tensor an option names, or the only one that it can be.

        Args:
            kind: `"input"` or `"output"`.
            datatypes: What it may hold.
            option: What names it, for messages: `"model_kwargs['input']"`.
            named: What the option names.

        Raises:
            ValueError: There is none, or more than one; the message lists the tensors.
        """
        tensors = self.inputs if kind == "input" else self.outputs
        if named is not None:
            found = [tensors[named]] if named in tensors else []
        else:
            found = [each for each in tensors.values() if each.datatype in datatypes]
            if kind == "input":
                found = [each for each in found if not each.optional] or found
        if len(found) == 1 and found[0].datatype in datatypes:
            return found[0]
        wanted = " or ".join(datatypes)
        problem = f"no {kind} of type {wanted}"
        if named is not None:
            problem = f"no {kind} {named!r} of type {wanted}"
        elif found:
            problem = f"{len(found)} {kind}s of type {wanted}"
        raise ValueError(
            f"{self.name} has {problem} (it has {self.tensors()}): name the one to take in {option}"
        )

    def check_filled(self, *filled: Tensor) -> None:
        """Refuse a model that needs more inputs than these.

        Raises:
            ValueError: It does; names them.
        """
        known = {each.name for each in filled}
        left = [
            str(each)
            for each in self.inputs.values()
            if not each.optional and each.name not in known
        ]
        if left:
            raise ValueError(
                f"{self.name} needs inputs that nothing fills: {', '.join(left)}; have them marked "
                f"optional in its config.pbtxt, or take a model that reads text alone"
            )

    def tensors(self) -> str:
        """List inputs and outputs, for messages."""
        inputs = ", ".join(map(str, self.inputs.values())) or "none"
        return f"inputs {inputs}; outputs {', '.join(map(str, self.outputs.values())) or 'none'}"


def _tensors(found: Any) -> dict[str, Tensor]:
    tensors = {}
    for each in found:
        kind = each.DESCRIPTOR.fields_by_name["data_type"].enum_type
        datatype = kind.values_by_number[each.data_type].name.removeprefix("TYPE_")
        datatype = _TEXT if datatype == "STRING" else datatype
        optional = bool(getattr(each, "optional", False))
        tensors[each.name] = Tensor(each.name, datatype, tuple(each.dims), optional)
    return tensors


__all__ = ["Tensor", "TritonModel"]
