"""laws: what every value must be, said a second time: SQL over the records, joined by entity and position.

DuckDB takes the sums of integers, orders and counts. The last step, where SQL has no exact one, is
taken here with fractions. Nothing of the fold, its plan or its expressions is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import duckdb
import msgspec
import pyarrow as pa


class Meant(msgspec.Struct, frozen=True):
    """What a feature means. `value`, `where`: SQL of a row ("" for rows, for all); `mine`, `asked`: the columns
    that name the entity in the events and in the request; `made`: of other values, by their names."""

    kind: str
    source: str = ""
    value: str = ""
    where: str = ""
    mine: str = "card"
    asked: str = "card"
    window_ms: int = 0
    hop_ms: int = 0
    cap: int = 0
    k: int = 0
    per_ms: int = 1000
    default: Any = None
    quantum: float = 2.0**-20
    exact: bool = False
    needs: tuple[str, ...] = ()
    made: Callable[..., Any] | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """Which events it reads."""
        return (
            self.source,
            self.value,
            self.where,
            self.mine,
            self.asked,
            self.window_ms,
            self.hop_ms,
            self.cap,
        )


SUMS = ("sum", "mean", "std")
MACROS = """
create macro finite(x) as case when isfinite(x) then x end;
create macro berlin(ms) as timezone('Europe/Berlin', make_timestamptz(ms * 1000));
"""
READS = {
    "count": "count(*)",
    "rate": "count(*)",
    "min": "min(v)",
    "max": "max(v)",
    "first": "first(v order by t, o)",
    "last": "last(v order by t, o)",
    "distinct": "count(distinct v)",
    "since": "max(t)",
}
UNITS = "cast(round_even(cast(v as double) / {quantum!r}, 0) as hugeint)"
HALF = "18446744073709551616::hugeint"  # squares are summed in two halves, so that 128 bits hold any number of them


class Oracle:
    """The records of one log as tables. `tables`: the rows of each topic as columns; a NaN is a null there."""

    def __init__(self, tables: dict[str, pa.Table]) -> None:
        self.db = duckdb.connect()
        self.db.execute("set threads to 1; set timezone to 'UTC'")
        self.db.execute(MACROS)
        for name, table in tables.items():
            self.db.register(f"raw_{name}", table)
            self.db.execute(f"create table {name} as from raw_{name}")
        self.asks: list[tuple[int, int]] = self.db.execute("select o, t from ask order by o").fetchall()

    def values(self, meant: dict[str, Meant]) -> dict[int, list[Any]]:
        """Every feature's value for every request, by the request's position."""
        columns: dict[str, list[Any]] = {}
        shapes: dict[tuple[Any, ...], list[str]] = {}
        for name, one in meant.items():
            shapes.setdefault(one.shape, []).append(name)
        for names in shapes.values():
            if meant[names[0]].made is None:
                columns |= self._shape({name: meant[name] for name in names})
        for name, one in meant.items():
            if one.made is not None:
                columns[name] = [one.made(*row) for row in zip(*(columns[n] for n in one.needs), strict=True)]
        rows = zip(*(columns[name] for name in meant), strict=True)
        return {o: list(row) for (o, _), row in zip(self.asks, rows, strict=True)}

    def _shape(self, meant: dict[str, Meant]) -> dict[str, list[Any]]:
        """The values of features that read the same events."""
        reads = {name: _reads(one) for name, one in meant.items()}
        text = query(next(iter(meant.values())), [read for parts in reads.values() for read in parts])
        found = {row[0]: row[1:] for row in self.db.execute(text).fetchall()}
        columns, at = {}, 0
        for name, one in meant.items():
            part = slice(at, at := at + len(reads[name]))
            columns[name] = [_answer(one, t, found[o][part] if o in found else None) for o, t in self.asks]
        return columns

    def unsummable(self, meant: dict[str, Meant]) -> set[int]:
        """The positions of the events that some sum cannot take."""
        found: set[int] = set()
        for one in meant.values():
            if one.kind in SUMS and one.made is None:
                large = f"abs(cast(v as double) / {one.quantum!r}) >= 4611686018427387904.0"
                bad = "not isfinite(cast(v as double))" if one.exact else f"({large})"
                found |= {
                    o for (o,) in self.db.execute(f"{_taken(one)} select o from taken where {bad}").fetchall()
                }
        return found


def _taken(one: Meant) -> str:
    """The events that a feature takes: somebody's, where the condition is true, with a value."""
    return f"""with taken as (
        select o, t, {one.mine} as entity, {one.value or "1"} as v from {one.source}
        where {one.mine} is not null and ({one.where or "true"}) and ({one.value or "1"}) is not null
    )"""


def query(one: Meant, reads: Sequence[str]) -> str:
    """SQL of the features of one shape: a row for every request that sees an event."""
    start = f"s.at - {one.window_ms}"
    if one.hop_ms:
        start = f"(({start}) // {one.hop_ms}) * {one.hop_ms}"
    inside = f"and s.t > {start}" if one.window_ms else ""
    newest = f"and s.back <= {one.cap}" if one.cap else ""
    return f"""{_taken(one)}, seen as (
        select a.o as ask, a.t as at, x.o, x.t, x.v, row_number() over (partition by a.o order by x.o desc) as back
        from ask a join taken x on x.entity = a.{one.asked} and x.o < a.o
    ), inside as (
        select * from seen s where s.t <= s.at {inside} {newest} and not exists (
            from gone g where g.topic = '{one.source}' and g.position = s.o and g.o < s.ask and g.o > s.o)
    ) select ask, {", ".join(reads)} from inside group by ask"""


def _reads(one: Meant) -> list[str]:
    if one.kind == "last_k":
        return [f"list(v order by t desc, o desc)[{one.k}]"]
    if one.kind not in SUMS:
        return [READS[one.kind]]
    if one.exact:
        return ["list(cast(v as double))"]
    units = UNITS.format(quantum=one.quantum)
    square = f"({units}) * ({units})"
    return ["count(*)", f"sum({units})", f"sum(({square}) // {HALF})", f"sum(({square}) % {HALF})"]


def _answer(one: Meant, t_ms: int, row: Sequence[Any] | None) -> Any:
    value = _last_step(one, t_ms, row)
    return one.default if value is None else value


def _last_step(one: Meant, t_ms: int, row: Sequence[Any] | None) -> Any:
    if row is None:
        return {"count": 0, "distinct": 0, "sum": 0.0, "rate": 0.0}.get(one.kind)
    if one.kind in SUMS:
        return _exact(one.kind, row[0]) if one.exact else _quantised(one, *map(int, row))
    value = row[0]
    if one.kind == "rate":
        return value * one.per_ms / one.window_ms
    if one.kind == "since":
        return (t_ms - value) / 1000
    if one.kind in ("min", "max") and isinstance(value, float):
        return value + 0.0  # of 0.0 and -0.0, which are equal, 0.0
    return value


def _quantised(one: Meant, n: int, total: int, high: int, low: int) -> Any:
    """The three moments of integers: one division, one root, one product, each correctly rounded."""
    if one.kind == "sum":
        return rounded(Fraction(total)) * one.quantum
    if one.kind == "mean":
        return rounded(Fraction(total, n)) * one.quantum
    square = high * 2**64 + low
    if n < 2:
        return None
    return root(Fraction(rounded(Fraction(n * square - total * total, n * (n - 1))))) * one.quantum


def _exact(kind: str, values: list[float]) -> Any:
    """The correctly rounded moments of the numbers as they are."""
    numbers = [Fraction(value) for value in values]
    n, total = len(numbers), sum(numbers, Fraction())
    if kind == "sum":
        return rounded(total)
    if kind == "mean":
        return rounded(total / n)
    if n < 2:
        return None
    return root((n * sum((x * x for x in numbers), Fraction()) - total * total) / (n * (n - 1)))


def rounded(exact: Fraction) -> float:
    """The nearest double; of two, the even one."""
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def root(exact: Fraction) -> float:
    """The nearest double to a square root: the one whose midpoints to both neighbours enclose it."""
    if not exact:
        return 0.0
    scale = 2**1200
    near = rounded(Fraction(math.isqrt(exact.numerator * scale**2 // exact.denominator), scale))
    for found in (near, math.nextafter(near, 0.0), math.nextafter(near, math.inf)):
        mine = Fraction(found)
        low = (mine + Fraction(math.nextafter(found, -math.inf))) / 2
        high = (mine + Fraction(math.nextafter(found, math.inf))) / 2
        if max(low, Fraction()) ** 2 < exact < high**2:
            return found
    raise AssertionError("No double is nearest.")
