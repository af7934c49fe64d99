"""TypedDicts in a form of which LangChain makes a JSON schema: it knows no `NotRequired`."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, Field, create_model
from typing_extensions import TypedDict, get_type_hints, is_typeddict

_MARKS = (Required, NotRequired)


def unmarked(schema: Any) -> tuple[Any, set[str]]:
    """Return a TypedDict without `Required` and `NotRequired`, and the keys it may lack.

    One with others in it that may lack keys becomes a pydantic class, which lacks nothing to tell.

    Raises:
        TypeError: One of those holds itself.
    """
    fields, optional = _fields(schema)
    if any(_fields(each)[1] for kind in fields.values() for each in _within(kind, {schema})):
        return _modeled(schema, ()), set()
    if not optional:
        return schema, optional
    plain = TypedDict(schema.__name__, fields)  # type: ignore[misc]  # known only now
    plain.__doc__ = schema.__doc__
    return plain, optional


def _fields(schema: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the kinds of the fields without their marks, and the keys that may be lacking."""
    fields: dict[str, Any] = get_type_hints(schema, include_extras=True)
    optional: set[str] = set()
    for key, kind in fields.items():
        mark: Any = get_origin(kind)
        if mark in _MARKS:
            fields[key] = get_args(kind)[0]
        if mark is NotRequired or (mark is not Required and key in schema.__optional_keys__):
            optional.add(key)
    return fields, optional


def _within(kind: Any, seen: set[Any]) -> Iterator[Any]:
    """Find the TypedDicts that a kind of field holds, each once."""
    parts = get_args(kind)
    if is_typeddict(kind) and kind not in seen:
        seen.add(kind)
        yield kind
        parts = tuple(_fields(kind)[0].values())
    for part in parts:
        yield from _within(part, seen)


def _modeled(kind: Any, above: tuple[Any, ...]) -> Any:
    """Put pydantic classes in the place of TypedDicts."""
    if is_typeddict(kind):
        return _model(kind, above)
    origin, parts = get_origin(kind), get_args(kind)
    if not parts or origin is Literal:
        return kind
    if origin is Annotated:
        return Annotated[_modeled(parts[0], above), *parts[1:]]
    made = tuple(_modeled(part, above) for part in parts)
    return Union[made] if origin is UnionType else origin[made]  # noqa: UP007 - known only now


def _model(schema: Any, above: tuple[Any, ...]) -> type[BaseModel]:
    if schema in above:
        raise TypeError(f"{schema.__name__} contains itself, which only a pydantic class may")
    kinds, optional = _fields(schema)
    fields: dict[str, Any] = {}
    for key, kind in kinds.items():
        # LangChain writes Annotated[kind, default, description].
        said = kind.__metadata__[1] if len(getattr(kind, "__metadata__", ())) > 1 else None
        described: dict[str, Any] = {"description": said} if isinstance(said, str) else {}
        # A default itself would stand in the schema.
        lacking: dict[str, Any] = {"default_factory": type(None)} if key in optional else {}
        fields[key] = (_modeled(kind, (*above, schema)), Field(**lacking, **described))
    return create_model(schema.__name__, __doc__=schema.__doc__, **fields)


__all__ = ["unmarked"]
