"""feature: expressions: what is worked out of one row, or of other features. They only describe; `evaluate` computes.

Null in, null out, as in SQL. A NaN reads as null, and what has no finite answer (x / 0, the log of -1) is
null. `&`, `|`, `~` know three values: true, false and null.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Self

import msgspec

from penstock.record.decisions import Value
from penstock.record.errors import DefinitionError
from penstock.record.event import Source


class Note(msgspec.Struct, frozen=True):
    """What people say of a definition. It is no part of its meaning."""

    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()


class Expression(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A value of a row, or of features. Operators and methods make larger ones; Python's `and`, `or`, `not`
    and `if` cannot, and say so."""

    line: int = 0
    note: Note = Note()

    def described(self, description: str, *, owner: str = "", tags: tuple[str, ...] = ()) -> Self:
        """The same with a description, for people."""
        return msgspec.structs.replace(self, note=Note(description, owner, tuple(tags)))

    def __bool__(self) -> bool:
        raise DefinitionError(
            "A definition is neither true nor false: it has a value for each row.",
            code="arguments", where=at_line(self.line), hint="Write &, | and ~ for and, or and not, and case() for if.",
        )  # fmt: skip

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Any:
        return _op("==", self, other)

    def __ne__(self, other: object) -> Any:
        return _op("!=", self, other)

    def __lt__(self, other: Any) -> Op:
        return _op("<", self, other)

    def __le__(self, other: Any) -> Op:
        return _op("<=", self, other)

    def __gt__(self, other: Any) -> Op:
        return _op(">", self, other)

    def __ge__(self, other: Any) -> Op:
        return _op(">=", self, other)

    def __add__(self, other: Any) -> Op:
        return _op("+", self, other)

    def __radd__(self, other: Any) -> Op:
        return _op("+", other, self)

    def __sub__(self, other: Any) -> Op:
        return _op("-", self, other)

    def __rsub__(self, other: Any) -> Op:
        return _op("-", other, self)

    def __mul__(self, other: Any) -> Op:
        return _op("*", self, other)

    def __rmul__(self, other: Any) -> Op:
        return _op("*", other, self)

    def __truediv__(self, other: Any) -> Op:
        return _op("/", self, other)

    def __rtruediv__(self, other: Any) -> Op:
        return _op("/", other, self)

    def __mod__(self, other: Any) -> Op:
        return _op("%", self, other)

    def __neg__(self) -> Op:
        return _op("neg", self)

    def __and__(self, other: Any) -> Op:
        return _op("&", self, other)

    def __or__(self, other: Any) -> Op:
        return _op("|", self, other)

    def __invert__(self) -> Op:
        return _op("~", self)

    def is_null(self) -> Op:
        """Whether there is no value."""
        return _op("is_null", self)

    def is_in(self, *values: Value) -> Op:
        """Whether it is one of some values."""
        return _op("is_in", self, *values)

    def coalesce(self, *others: Any) -> Op:
        """The first of it and the others that is not null."""
        return _op("coalesce", self, *others)

    def abs(self) -> Op:
        """Without its sign."""
        return _op("abs", self)

    def clip(self, low: float, high: float) -> Op:
        """Not below `low` and not above `high`."""
        return _op("clip", self, low, high)

    def log(self) -> Op:
        """The natural logarithm; null at and below 0."""
        return _op("log", self)

    def sqrt(self) -> Op:
        """The square root; null below 0."""
        return _op("sqrt", self)

    def floor(self) -> Op:
        """The greatest whole number not above it."""
        return _op("floor", self)

    def length(self) -> Op:
        """The number of characters."""
        return _op("length", self)

    def lower(self) -> Op:
        """In lower case."""
        return _op("lower", self)

    def contains(self, text: str) -> Op:
        """Whether a text is part of it."""
        return _op("contains", self, text)

    def part(self, start: int, length: int) -> Op:
        """`length` characters from `start` on, the first being 0."""
        return _op("part", self, start, length)

    def split(self, by: str, n: int) -> Op:
        """The n-th part, from 0, of what `by` separates; null where there are fewer."""
        return _op("split", self, by, n)

    def bucket(self, n: int) -> Op:
        """A number in [0, n) by the CRC-32 of its text: the same on every machine."""
        return _op("bucket", self, n)

    def year(self, zone: str = "UTC") -> Op:
        """The year of a time, in a named time zone."""
        return _op("year", self, zone)

    def month(self, zone: str = "UTC") -> Op:
        """1 to 12."""
        return _op("month", self, zone)

    def day(self, zone: str = "UTC") -> Op:
        """The day of the month, from 1."""
        return _op("day", self, zone)

    def weekday(self, zone: str = "UTC") -> Op:
        """0 on Mondays."""
        return _op("weekday", self, zone)

    def hour(self, zone: str = "UTC") -> Op:
        """0 to 23."""
        return _op("hour", self, zone)

    def minute(self, zone: str = "UTC") -> Op:
        """0 to 59."""
        return _op("minute", self, zone)


class Column(Expression, frozen=True, eq=False, kw_only=True):
    """One column of a source."""

    source: Source
    name: str


class Op(Expression, frozen=True, eq=False, kw_only=True):
    """An operation on expressions and plain values. `function`: the row function that a "call" calls."""

    op: str
    args: tuple[Any, ...]
    function: Callable[..., Any] | None = None


def case(*branches: tuple[Any, Any], otherwise: Any = None) -> Op:
    """The value of the first branch `(condition, value)` whose condition is true."""
    return _op("case", *(part for branch in branches for part in branch), otherwise)


def row(function: Callable[..., Any]) -> Callable[..., Op]:
    """The way out: a pure Python function of row values becomes an operation on expressions. It is called
    with nulls, too, and must depend on nothing but its arguments."""

    def call(*args: Any) -> Op:
        made = _op("call", *args)
        return msgspec.structs.replace(made, function=function)

    return call


def _op(op: str, *args: Any) -> Op:
    return Op(op=op, args=args, line=here())


def leaves(one: Any) -> Iterator[Expression]:
    """The expressions that are no operations, in order."""
    if isinstance(one, Op):
        for arg in one.args:
            yield from leaves(arg)
    elif isinstance(one, Expression):
        yield one


def here() -> int:
    """The line of the pipeline file that a definition is made at: the innermost one that is not of this package's
    own machinery."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_MACHINERY):
        frame = frame.f_back
    return frame.f_lineno if frame is not None else 0


_MACHINERY = ("penstock.feature", "penstock.app")


def at_line(line: int) -> str:
    """Where a definition stands, for messages."""
    return f"line {line}" if line else ""
