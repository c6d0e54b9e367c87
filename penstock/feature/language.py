"""feature: the words that a pipeline file defines features with. They only describe; `plan` checks, `fold` computes.

Some of them are named like Python's own functions, as the field names them; nothing here needs those.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from penstock.record.codec import span
from penstock.record.decisions import Value
from penstock.record.errors import DefinitionError
from penstock.record.event import Column, Source

Kind = Literal["count", "sum", "mean", "std", "min", "max", "first", "last", "distinct", "since"]
Entity = str | tuple[str, str] | None

QUANTUM = 2.0**-20
"""Sums are sums of integers: each number is first rounded to a multiple of this, so that they are
exact, the same in any order, and do not drift as events expire."""


class Aggregate(msgspec.Struct, frozen=True, eq=False):
    """An aggregate over the events of one entity in the window (t - window, t]; 0: over all history."""

    kind: Kind
    source: Source
    column: str
    window_ms: int
    entity: Entity
    default: Value
    quantum: float
    line: int


class Function(msgspec.Struct, frozen=True, eq=False):
    """A plain function of request columns and other features, by the names of its arguments."""

    function: Callable[..., Any]
    arguments: tuple[str, ...]
    line: int


def feature(function: Callable[..., Any]) -> Function:
    """A feature worked out at the request from columns and other features, named by the arguments.

    It returns a number, a bool, a text or None, and must depend on nothing but its arguments.
    """
    code = function.__code__
    if code.co_flags & 0x0C or code.co_kwonlyargcount:
        raise DefinitionError(
            "A feature's arguments are names of columns and features.",
            code="arguments", where=f"line {code.co_firstlineno}", hint="Write them out, without * or **.",
        )  # fmt: skip
    return Function(function, code.co_varnames[: code.co_argcount], code.co_firstlineno)


def count(of: Source | Column, *, window: str = "", entity: Entity = None) -> Aggregate:
    """How many events; of a column: how many whose value is not null."""
    return _aggregate("count", of, window, entity, None)


def sum(of: Column, *, window: str = "", entity: Entity = None, quantum: float = QUANTUM) -> Aggregate:
    """The sum of a column; 0.0 over an empty window."""
    return _aggregate("sum", of, window, entity, None, quantum)


def mean(
    of: Column, *, window: str = "", entity: Entity = None, default: Value = None, quantum: float = QUANTUM
) -> Aggregate:
    """The mean of a column; null (or `default`) over an empty window."""
    return _aggregate("mean", of, window, entity, default, quantum)


def std(
    of: Column, *, window: str = "", entity: Entity = None, default: Value = None, quantum: float = QUANTUM
) -> Aggregate:
    """The sample standard deviation of a column; null (or `default`) below two values."""
    return _aggregate("std", of, window, entity, default, quantum)


def min(of: Column, *, window: str = "", entity: Entity = None, default: Value = None) -> Aggregate:
    """The least value of a column."""
    return _aggregate("min", of, window, entity, default)


def max(of: Column, *, window: str = "", entity: Entity = None, default: Value = None) -> Aggregate:
    """The greatest value of a column."""
    return _aggregate("max", of, window, entity, default)


def first(of: Column, *, window: str = "", entity: Entity = None, default: Value = None) -> Aggregate:
    """The oldest value of a column; of equal times, the one that came first."""
    return _aggregate("first", of, window, entity, default)


def last(
    of: Column, *, window: str = "", max_age: str = "", entity: Entity = None, default: Value = None
) -> Aggregate:
    """The newest value of a column, at most `max_age` old: also the look-up of a row that changes slowly."""
    return _aggregate("last", of, window or max_age, entity, default)


def distinct(of: Column, *, window: str = "", entity: Entity = None) -> Aggregate:
    """How many different values of a column."""
    return _aggregate("distinct", of, window, entity, None)


def since(
    of: Source | Column, *, window: str = "", entity: Entity = None, default: Value = None
) -> Aggregate:
    """Seconds since the newest event; of a column: since the newest one whose value is not null."""
    return _aggregate("since", of, window, entity, default)


def _aggregate(
    kind: Kind, of: Source | Column, window: str, entity: Entity, default: Value, quantum: float = QUANTUM
) -> Aggregate:
    line = sys._getframe(2).f_lineno
    where = f"line {line}"
    if isinstance(of, Column):
        source, column = of.source, of.name
    elif isinstance(of, Source) and kind in ("count", "since"):
        source, column = of, ""
    else:
        raise DefinitionError(
            f"{kind}() takes a column of a source.",
            code="arguments", where=where, hint=f"Write {kind}(payment.amount, ...), for example.",
        )  # fmt: skip
    if not quantum > 0:
        raise DefinitionError("quantum= is a positive number.", code="arguments", where=where)
    return Aggregate(kind, source, column, _window(window, where), entity, default, quantum, line)


def _window(text: object, where: str) -> int:
    """Milliseconds; 0 for all history."""
    if text == "":
        return 0
    try:
        if not isinstance(text, str):
            raise ValueError(f'{text!r} has no unit: write a text such as "1h"')
        length_ms = span(text)
    except ValueError as error:
        raise DefinitionError(f"{error}.", code="unit", where=where) from None
    if length_ms <= 0:
        raise DefinitionError("A window is longer than nothing.", code="unit", where=where)
    return length_ms
