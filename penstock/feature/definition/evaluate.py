"""feature: what an expression's operations do, and the function of a row that one becomes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from penstock.feature.definition import text
from penstock.feature.definition.expression import Expression, Op
from penstock.record.codec import moment
from penstock.record.errors import DefinitionError

Row = Any
Read = Callable[[Row], Any]
NUMBERS: frozenset[type] = frozenset((int, float, bool))
WORD: frozenset[type] = frozenset((str,))
WHEN: frozenset[type] = frozenset((datetime,))
ANY: frozenset[type] = frozenset()
LARGEST = 2**63


class Kind(msgspec.Struct, frozen=True):
    """What an operation does to values that are not null, and to which types; `gives`: None for its
    first argument's. A calendar part takes a time and a zone."""

    run: Callable[..., Any]
    takes: frozenset[type]
    gives: frozenset[type] | None
    spelled: str = ""


def _split(text: str, by: str, n: int) -> str | None:
    parts = text.split(by)
    return parts[n] if -len(parts) <= n < len(parts) else None


def _bucket(value: Any, n: int) -> int:
    text = value if isinstance(value, str) else repr(value)
    return zlib.crc32(text.encode()) % n


def aware(at: Any) -> Any:
    """A time with its zone; a naive one is UTC."""
    return at.replace(tzinfo=UTC) if isinstance(at, datetime) and at.tzinfo is None else at


def _calendar(part: Callable[[datetime], int]) -> Kind:
    def read(at: Any, zone: str) -> int:
        when = moment(at) if isinstance(at, int) else aware(at)
        return part(when.astimezone(time_zone(zone)))

    return Kind(read, WHEN | {int}, frozenset((int,)))


TRUTH = frozenset((bool,))
NUMBER = frozenset((float, int))
KINDS: dict[str, Kind] = {
    "+": Kind(lambda a, b: a + b, NUMBERS, NUMBER, "{} + {}"),
    "-": Kind(lambda a, b: a - b, NUMBERS, NUMBER, "{} - {}"),
    "*": Kind(lambda a, b: a * b, NUMBERS, NUMBER, "{} * {}"),
    "/": Kind(lambda a, b: a / b, NUMBERS, frozenset((float,)), "{} / {}"),
    "%": Kind(lambda a, b: a % b, NUMBERS, NUMBER, "{} % {}"),
    "neg": Kind(lambda a: -a, NUMBERS, NUMBER, "-{}"),
    "==": Kind(lambda a, b: a == b, ANY, TRUTH, "{} == {}"),
    "!=": Kind(lambda a, b: a != b, ANY, TRUTH, "{} != {}"),
    "<": Kind(lambda a, b: a < b, ANY, TRUTH, "{} < {}"),
    "<=": Kind(lambda a, b: a <= b, ANY, TRUTH, "{} <= {}"),
    ">": Kind(lambda a, b: a > b, ANY, TRUTH, "{} > {}"),
    ">=": Kind(lambda a, b: a >= b, ANY, TRUTH, "{} >= {}"),
    "is_in": Kind(lambda a, *values: a in values, ANY, TRUTH),
    "abs": Kind(abs, NUMBERS, NUMBER),
    "clip": Kind(lambda a, low, high: low if a < low else min(a, high), NUMBERS, NUMBER),
    "log": Kind(math.log, NUMBERS, frozenset((float,))),
    "sqrt": Kind(math.sqrt, NUMBERS, frozenset((float,))),
    "floor": Kind(math.floor, NUMBERS, frozenset((int,))),
    "length": Kind(len, WORD, frozenset((int,))),
    "lower": Kind(str.lower, WORD, WORD),
    "contains": Kind(lambda a, part: part in a, WORD, TRUTH),
    "part": Kind(lambda a, start, n: a[start : start + n], WORD, WORD),
    "split": Kind(_split, WORD, WORD),
    "bucket": Kind(_bucket, WORD | NUMBERS, frozenset((int,))),
    "tokens": Kind(text.number, WORD, frozenset((int,))),
    "hashed": Kind(text.place, WORD, frozenset((float,))),
    "year": _calendar(lambda at: at.year),
    "month": _calendar(lambda at: at.month),
    "day": _calendar(lambda at: at.day),
    "weekday": _calendar(lambda at: at.weekday()),
    "hour": _calendar(lambda at: at.hour),
    "minute": _calendar(lambda at: at.minute),
}
CALENDAR = ("year", "month", "day", "weekday", "hour", "minute")
BY_NULLS = ("&", "|", "~", "is_null", "coalesce", "case", "call")
"""These look at nulls themselves."""


@cache
def time_zone(name: str) -> ZoneInfo:
    """A time zone by the rules of the package `tzdata`, not by the machine's: these have a version."""
    try:
        where = resources.files("tzdata.zoneinfo").joinpath(*name.split("/"))
        with where.open("rb") as file:
            return ZoneInfo.from_file(file, key=name)
    except (OSError, ValueError):
        raise DefinitionError(
            f'"{name}" is not a time zone.', code="time_zone", hint='Write "Europe/Berlin", for example.'
        ) from None


def zones_version() -> str:
    """The version of the time zones' rules; it is part of the meaning of calendar parts."""
    import tzdata

    return str(tzdata.IANA_VERSION)


# From a description to a function of a row.


def compiled(one: Any, leaf: Callable[[Expression], Read]) -> Read:
    """The function of a row that works an expression out; `leaf` says how one that is no operation is read."""
    if not isinstance(one, Expression):
        return lambda row: one
    if not isinstance(one, Op):
        return leaf(one)
    reads = [compiled(arg, leaf) for arg in one.args]
    if one.op in BY_NULLS:
        return _nullable(one, reads)
    run = KINDS[one.op].run
    if len(reads) == 2:
        return _finite(_two(run, *reads))
    return _finite(_many(run, reads))


def _two(run: Callable[..., Any], left: Read, right: Read) -> Read:
    def read(row: Row) -> Any:
        a = left(row)
        if a is None:
            return None
        b = right(row)
        return None if b is None else run(a, b)

    return read


def _many(run: Callable[..., Any], reads: list[Read]) -> Read:
    def read(row: Row) -> Any:
        values = [one(row) for one in reads]
        return None if None in values else run(*values)

    return read


def _finite(read: Read) -> Read:
    """What has no finite answer is null; a whole number beyond 64 bits is a float."""

    def bounded(row: Row) -> Any:
        try:
            value = read(row)
        except (ArithmeticError, ValueError):
            return None
        return bound(value)

    return bounded


def bound(value: Any) -> Any:
    """A value that a record can hold, or null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        try:
            return float(value)
        except OverflowError:
            return None
    return value


def _nullable(one: Op, reads: list[Read]) -> Read:
    match one.op:
        case "is_null":
            return lambda row: reads[0](row) is None
        case "~":
            return lambda row: None if (value := reads[0](row)) is None else not value
        case "coalesce":
            return lambda row: next((value for read in reads if (value := read(row)) is not None), None)
        case "case":
            return _case(reads)
        case "call":
            assert one.function is not None
            function = one.function
            return lambda row: bound(function(*[read(row) for read in reads]))
    decisive = one.op == "|"

    def both(row: Row) -> bool | None:
        """One value of `decisive` decides; else a null leaves it open."""
        unknown = False
        for read in reads:
            value = read(row)
            if value is None:
                unknown = True
            elif bool(value) == decisive:
                return decisive
        return None if unknown else not decisive

    return both


def _case(reads: list[Read]) -> Read:
    branches = list(zip(reads[:-1:2], reads[1:-1:2], strict=True))
    otherwise = reads[-1]

    def read(row: Row) -> Any:
        for condition, value in branches:
            if condition(row):
                return value(row)
        return otherwise(row)

    return read
