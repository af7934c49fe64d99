"""Reads the pickle of a document store without executing anything.

`pickle` is not used, not even a restricted one: a file that names a class which is not on a list is
refused. A class is represented by its name only, an object by that name and its state; dates are
the only objects that are constructed, out of bytes and numbers. The same code checks and builds, so
the bytes cannot be read in one way and used in another.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any, BinaryIO

from langchain_gpu.store.errors import StoreError


class RefusedPickleError(StoreError):
    """A pickle holds what a document store does not hold. Nothing of it was run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a pickle may ask for.

    Attributes:
        size: Bytes of the file.
        steps: Instructions; a document takes 20 to 60.
        containers: Lists, dictionaries, sets and tuples; a document takes at least four. An empty
            one is a byte of the file and up to 216 of memory.
        text: Bytes of one text.
        depth: Levels of lists and dictionaries in a document's metadata.
        values: Values in the metadata of one document, each counted as often as it is met.
        growth: Bytes of all documents written out, as a multiple of the file's (beyond 16 MiB):
            what a file says once and points to a thousand times is a thousand times as large.
    """

    size: int = 8 << 30
    steps: int = 200_000_000
    containers: int = 20_000_000
    text: int = 256 << 20
    depth: int = 64
    values: int = 1_000_000
    growth: int = 32


class Name(str):
    """A class that a pickle names: `"module.Class"`. Only a word."""

    __slots__ = ()


class Thing:
    """An object of a pickle: the name of its class, and its state."""

    __slots__ = ("name", "state")

    def __init__(self, name: Name) -> None:
        """Make one without state."""
        self.name = name
        self.state: Any = None


class _Mark:
    """Where on the stack a list, a dictionary or a tuple starts."""


_MARK = _Mark()
_PROTOCOLS = range(2, 6)  # what `pickle.dump` wrote by default since Python 3.0
_SETS = {"builtins.set", "__builtin__.set"}  # before protocol 4 a set is a call
_DATES: dict[str, Callable[..., Any]] = {
    "datetime.datetime": datetime,
    "datetime.date": date,
    "datetime.timezone": timezone,
    "datetime.timedelta": timedelta,
}
_OF_DATES = (bytes, int, timedelta, timezone)  # what these are made of
_ATOMS = (str, int, float, bool, type(None))
_WIDEST = 1 << 60  # larger whole numbers can be made to have one hash
# What decoding may raise for bytes that are not a pickle.
_BROKEN = (ValueError, OverflowError, IndexError, KeyError, AttributeError, struct.error)


def read(file: BinaryIO, *, allowed: frozenset[str], limits: Limits) -> Any:
    """Return what a pickle holds, with a `Thing` for each of its objects.

    Args:
        file: The pickle.
        allowed: The classes it may name, as `"module.Class"`.
        limits: How much it may ask for.

    Raises:
        RefusedPickleError: It names another class, calls something, is broken or too large.
    """
    return _Machine(allowed, limits).run(_steps(file))


def _steps(file: BinaryIO) -> Iterator[tuple[str, Any, int | None]]:
    try:
        for step, value, position in pickletools.genops(file):
            yield step.name, value, position
    except _BROKEN as error:
        raise RefusedPickleError(f"is not a complete pickle ({error})") from error


class _Machine:
    """The stack and the memo of pickle's own, over plain containers."""

    def __init__(self, allowed: frozenset[str], limits: Limits) -> None:
        self._allowed = allowed
        self._limits = limits
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._containers = 0
        self._calls: dict[str, Callable[[Any], None]] = {
            "PROTO": self._protocol,
            "FRAME": _nothing,
            "MARK": lambda _: self._stack.append(_MARK),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "GLOBAL": lambda name: self._name(*name.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._stack_global(),
            "NEWOBJ": lambda _: self._new(),
            "BUILD": lambda _: self._build(),
            "REDUCE": lambda _: self._reduce(),
            "EMPTY_LIST": lambda _: self._contain([]),
            "EMPTY_DICT": lambda _: self._contain({}),
            "EMPTY_SET": lambda _: self._contain(set()),
            "EMPTY_TUPLE": lambda _: self._contain(()),
            "TUPLE": lambda _: self._contain(tuple(self._popped())),
            "FROZENSET": lambda _: self._contain(frozenset(map(_key, self._popped()))),
            "APPEND": lambda _: self._append([self._pop()]),
            "APPENDS": lambda _: self._append(self._popped()),
            "SETITEM": lambda _: self._set_items(self._pop_last(2)),
            "SETITEMS": lambda _: self._set_items(self._popped()),
            "ADDITEMS": lambda _: self._add_items(self._popped()),
            "TUPLE1": lambda _: self._contain(tuple(self._pop_last(1))),
            "TUPLE2": lambda _: self._contain(tuple(self._pop_last(2))),
            "TUPLE3": lambda _: self._contain(tuple(self._pop_last(3))),
        }
        self._calls |= dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember)
        self._calls |= dict.fromkeys(("BINGET", "LONG_BINGET"), self._recall)
        self._calls |= dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), self._push)
        self._calls |= dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT"), self._push)
        self._calls |= dict.fromkeys(("LONG1", "LONG4"), self._push)
        self._calls |= dict.fromkeys(
            ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), self._push_text
        )
        self._calls |= dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), self._push_text)

    def run(self, steps: Iterable[tuple[str, Any, int | None]]) -> Any:
        calls, most = self._calls, self._limits.steps
        constants = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
        for count, (name, value, position) in enumerate(steps, 1):
            if count > most:
                raise RefusedPickleError(f"has more than {most:,} instructions")
            if name == "STOP":
                if len(self._stack) != 1 or self._stack[0] is _MARK:
                    raise RefusedPickleError("is broken: it does not end with one value")
                return self._stack[0]
            call = calls.get(name)
            if call is None:
                raise RefusedPickleError(
                    f"holds the instruction {name} at byte {position}, which no document store "
                    "needs"
                )
            try:
                call(constants.get(name, value))
            except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
                if isinstance(error, RefusedPickleError):
                    raise
                raise RefusedPickleError(f"is broken at byte {position} ({name})") from error
        raise RefusedPickleError("is broken: it does not end")

    def _protocol(self, version: int) -> None:
        if version not in _PROTOCOLS:
            raise RefusedPickleError(f"has protocol {version}, not one of 2 to 5")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _contain(self, value: Any) -> None:
        self._containers += 1
        if self._containers > self._limits.containers:
            raise RefusedPickleError(f"has more than {self._limits.containers:,} containers")
        self._stack.append(value)

    def _push_text(self, value: str | bytes) -> None:
        if len(value) > self._limits.text:
            raise RefusedPickleError(f"has a text of {len(value):,} bytes")
        self._stack.append(value)

    def _remember(self, number: int) -> None:
        value = self._stack[-1]
        if value is _MARK:
            raise IndexError
        self._memo[number] = value

    def _recall(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def _pop_last(self, count: int) -> list[Any]:
        values = [self._pop() for _ in range(count)]
        return values[::-1]

    def _popped(self) -> list[Any]:
        """Take off what lies above the last mark."""
        values: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def _top(self, kind: type) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise TypeError
        return value

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError
        self._top(dict).update(zip(map(_key, values[::2]), values[1::2], strict=True))

    def _add_items(self, values: list[Any]) -> None:
        self._top(set).update(map(_key, values))

    def _stack_global(self) -> None:
        module, name = self._pop_last(2)
        if type(module) is not str or type(name) is not str:
            raise TypeError
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self._allowed and full not in _SETS and full not in _DATES:
            raise RefusedPickleError(f"asks for {full[:100]!r}, which no document store needs")
        self._stack.append(Name(full))

    def _new(self) -> None:
        name, arguments = self._pop_last(2)
        if type(name) is not Name or name in _SETS or name in _DATES or arguments != ():
            raise RefusedPickleError("makes an object with arguments, as no document is made")
        self._contain(Thing(name))

    def _build(self) -> None:
        state = self._pop()
        thing = self._top(Thing)
        if type(state) is not dict or thing.state is not None:
            raise TypeError
        thing.state = state

    def _reduce(self) -> None:
        name, arguments = self._pop_last(2)
        if type(name) is Name and name in _DATES:
            self._contain(_date(name, arguments))
            return
        if type(name) is not Name or name not in _SETS:
            raise RefusedPickleError("calls a function, as no document store does")
        ((values,),) = (arguments,)
        if type(arguments) is not tuple or type(values) is not list:
            raise TypeError
        self._contain(set(map(_key, values)))


def _nothing(_: Any) -> None:
    """Do nothing."""


def _date(name: Name, arguments: Any) -> Any:
    if type(arguments) is not tuple or any(type(part) not in _OF_DATES for part in arguments):
        raise TypeError
    return _DATES[name](*arguments)


def _key(value: Any) -> Any:
    """Return a dictionary key, after a check that it cannot be chosen to make hashing slow."""
    if type(value) not in _ATOMS:
        raise RefusedPickleError(f"has a {type(value).__name__} as a key or in a set")
    if type(value) is int and abs(value) > _WIDEST:
        raise RefusedPickleError("has a number above 2^60 as a key or in a set")
    return value


__all__ = ["Limits", "Name", "RefusedPickleError", "Thing", "read"]
