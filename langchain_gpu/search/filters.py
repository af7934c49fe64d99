"""Filters over metadata: a dictionary of conditions, or any function of the metadata.

`{"lang": "en", "year": {"$gte": 2020, "$lt": 2025}}` asks for both. A missing field counts as None,
so `{"lang": None}` and `{"lang": {"$ne": "en"}}` admit documents without it; `$exists` tells
missing from None. `$gt $gte $lt $lte` admit no missing value, and none that cannot be compared (a
string with a number). `{"tags": {"$contains": "new"}}` admits a list that has this value, and a
text that has this part; `{"tags": "new"}` compares the whole.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

Metadata = dict[str, Any]
Predicate = Callable[[Metadata], bool]
Filter = Mapping[str, Any] | Predicate


def _tolerant(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    def test(value: Any, operand: Any) -> bool:
        try:
            return bool(compare(value, operand))
        except TypeError:
            return False

    return test


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": _tolerant(operator.gt),
    "$gte": _tolerant(operator.ge),
    "$lt": _tolerant(operator.lt),
    "$lte": _tolerant(operator.le),
    "$contains": _tolerant(operator.contains),
}
_LOGIC = ("$and", "$or", "$not")
OPERATORS = (*_TESTS, "$in", "$nin", "$exists", *_LOGIC)


def compile_filter(spec: Filter) -> Predicate:
    """Turn a filter into a function of the metadata.

    Raises:
        TypeError: `spec` is neither a dictionary nor callable.
        ValueError: An unknown operator, or an operand that its operator cannot take.
    """
    if callable(spec):
        return spec
    return _all(_conditions(spec))


def _conditions(spec: Any) -> list[Predicate]:
    if not isinstance(spec, Mapping):
        raise TypeError(f"a filter is a dictionary or a callable, not {type(spec).__name__}")
    return [_condition(key, value) for key, value in spec.items()]


def _condition(key: Any, value: Any) -> Predicate:
    if not isinstance(key, str):
        raise TypeError(f"a filter's keys are names of fields, not {type(key).__name__}: {key!r}")
    if not key.startswith("$"):
        return _field(key, value)
    if key == "$not":
        inner = compile_filter(value)
        return lambda metadata: not inner(metadata)
    if key not in _LOGIC:
        if key not in OPERATORS:
            raise _unknown(key)
        raise ValueError(
            f"filter operator {key!r} belongs inside a field: {{'year': {{{key!r}: ...}}}}"
        )
    parts = [compile_filter(part) for part in _sequence(key, value)]
    return _all(parts) if key == "$and" else _any(parts)


def _field(name: str, condition: Any) -> Predicate:
    if isinstance(condition, list | tuple | set):
        raise ValueError(  # noqa: TRY004 - the type is right for {"$eq": [...]}
            f"filter field {name!r} holds a bare list: write {{'$in': [...]}} for any of these "
            "values, or {'$eq': [...]} for this very list"
        )
    if isinstance(condition, Mapping) and any(str(key).startswith("$") for key in condition):
        return _all([_test(name, key, operand) for key, operand in condition.items()])
    if isinstance(condition, Mapping) and condition and all(map(_lacks_dollar, condition)):
        key = next(iter(condition))
        raise ValueError(
            f"filter field {name!r} holds {key!r}: write {{'${key}': ...}} for the operator, or "
            f"{{'$eq': {{{key!r}: ...}}}} for this very dictionary"
        )
    return _test(name, "$eq", condition)


def _test(name: str, key: str, operand: Any) -> Predicate:
    if key == "$exists":
        if not isinstance(operand, bool):
            raise TypeError(f"filter operator '$exists' takes True or False, not {operand!r}")
        return lambda metadata: (name in metadata) is operand
    if key == "$not":
        inner = _field(name, operand)
        return lambda metadata: not inner(metadata)
    if key in ("$in", "$nin"):
        among, wanted = _among(_sequence(key, operand)), key == "$in"
        return lambda metadata: among(metadata.get(name)) is wanted
    if key not in _TESTS:
        raise _unknown(key)
    test = _TESTS[key]
    return lambda metadata: test(metadata.get(name), operand)


def _lacks_dollar(key: Any) -> bool:
    """Whether a key is an operator's name but for the dollar sign, as it is written elsewhere."""
    return f"${key}" in OPERATORS


def _sequence(key: str, operand: Any) -> Sequence[Any]:
    if not isinstance(operand, list | tuple | set | frozenset):
        raise TypeError(f"filter operator {key!r} takes a list, not {type(operand).__name__}")
    return list(operand)


def _among(values: Sequence[Any]) -> Callable[[Any], bool]:
    try:
        quick = frozenset(values)
    except TypeError:  # a list or dictionary among them
        return lambda value: value in values
    return lambda value: value in (quick if isinstance(value, Hashable) else values)


def _unknown(key: str) -> ValueError:
    return ValueError(f"unknown filter operator {key!r}; known: {' '.join(OPERATORS)}")


def _all(parts: list[Predicate]) -> Predicate:
    if len(parts) == 1:
        return parts[0]
    return lambda metadata: all(part(metadata) for part in parts)


def _any(parts: list[Predicate]) -> Predicate:
    return lambda metadata: any(part(metadata) for part in parts)


__all__ = ["OPERATORS", "Filter", "Metadata", "Predicate", "compile_filter"]
