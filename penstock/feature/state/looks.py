"""feature: what each aggregate reads of windows that end together.

A look is a function of a series, of the places where they begin, the shortest window first, and of the
place where they end.

Sums are integers until the last step: one division and one root, or one correctly rounded division where
numbers are summed as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import gt, lt
from typing import Any

from penstock.feature.definition.language import SUMS, Aggregate
from penstock.feature.definition.plan import mixed
from penstock.feature.state.hops import Hops
from penstock.feature.state.series import Series
from penstock.record.decisions import Value

Look = Callable[[Series, Sequence[int], int, int], list[Value]]  # a series, lows, high, t
HopLook = Callable[
    [Hops, int, Any, int, int, int], Value
]  # the hops, from which one on, series, low, high, t
Total = Callable[[int, int, int], Value]
UNIT_BITS = 1074
"""Numbers summed as they are, are counted in the smallest number there is, 2 ** -1074."""


def whole(value: float) -> int:
    """A number in the smallest units there are."""
    above, below = value.as_integer_ratio()
    return above * ((1 << UNIT_BITS) // below)


def _ratio(above: int, below: int) -> float:
    try:
        return above / below
    except OverflowError:
        return math.inf if above > 0 else -math.inf


def _root(above: int, below: int) -> float:
    """The correctly rounded root of a ratio: the root of enough of its bits, with a last one for the rest."""
    bits = max(0, 128 + below.bit_length() - above.bit_length()) // 2
    part, rest = divmod(above << 2 * bits, below)
    root = math.isqrt(part)
    inexact = rest > 0 or root * root != part
    return _ratio(2 * root + inexact, 2 << bits)


def total_of(one: Aggregate) -> Total:
    """A moment from the number of values, the sum and the sum of squares of their integers."""
    q = one.quantum

    def rate(n: int, total: int, square: int) -> Value:
        return n * one.per_ms / one.window_ms

    def mean(n: int, total: int, square: int) -> Value:
        return total / n * q if n else None

    def std(n: int, total: int, square: int) -> Value:
        return math.sqrt((n * square - total * total) / (n * (n - 1))) * q if n > 1 else None

    def exact_sum(n: int, total: int, square: int) -> Value:
        return _ratio(total, 1 << UNIT_BITS)

    def exact_mean(n: int, total: int, square: int) -> Value:
        return _ratio(total, n << UNIT_BITS) if n else None

    def exact_std(n: int, total: int, square: int) -> Value:
        return _root(n * square - total * total, n * (n - 1) << 2 * UNIT_BITS) if n > 1 else None

    exact = one.exact
    return {
        "count": lambda n, total, square: n,
        "rate": rate,
        "sum": exact_sum if exact else lambda n, total, square: total * q,
        "mean": exact_mean if exact else mean,
        "std": exact_std if exact else std,
    }[one.kind]  # fmt: skip


MOMENTS = ("count", "rate", *SUMS)


def look_of(one: Aggregate, *, forgotten: bool = False) -> Look:
    """How an aggregate reads the events at [low, high), for each low of some; `forgotten`: with those that the
    series has let go."""
    if one.kind in MOMENTS:
        return _over_all(one) if forgotten else _moment(one)
    if one.kind == "last_k":
        k = one.k
        return lambda s, lows, high, t: [s.values[high - k] if high - low >= k else None for low in lows]
    look = _LOOKS[one.kind]
    if one.kind in ("min", "max") and mixed(one):
        return lambda s, lows, high, t: [None if v is None else float(v) for v in look(s, lows, high, t)]
    return look


def _moment(one: Aggregate) -> Look:
    """As `total_of`, without a call for each window where that is what costs."""
    total, q = total_of(one), one.quantum
    if one.kind == "count":
        return lambda s, lows, high, t: [high - low for low in lows]
    if one.kind == "rate":
        return lambda s, lows, high, t: [total(high - low, 0, 0) for low in lows]
    if one.kind == "std":
        return _spread(total, None if one.exact else q)

    def added(s: Series, lows: Sequence[int], high: int, t: int) -> list[Value]:
        sums: Any = s.sums
        top = sums[high]
        if one.exact:
            return [total(high - low, top - sums[low], 0) for low in lows]
        if one.kind == "sum":
            return [(top - sums[low]) * q for low in lows]
        return [(top - sums[low]) / (high - low) * q if high > low else None for low in lows]

    return added


def _spread(total: Total, q: float | None) -> Look:
    root = math.sqrt

    def look(s: Series, lows: Sequence[int], high: int, t: int) -> list[Value]:
        sums: Any = s.sums
        top, square, squared = sums[high], s.squared(high), s.squared
        made: list[Value] = []
        for low in lows:
            n, added = high - low, top - sums[low]
            if n < 2:
                made.append(None)
            elif q is None:
                made.append(total(n, added, square - squared(low)))
            else:
                made.append(root((n * (square - squared(low)) - added * added) / (n * (n - 1))) * q)
        return made

    return look


def _over_all(one: Aggregate) -> Look:
    total, summed, squared = total_of(one), one.kind in SUMS, one.kind == "std"

    def look(s: Series, lows: Sequence[int], high: int, t: int) -> list[Value]:
        sums: Any = s.sums
        return [
            total(
                s.gone + high - low,
                s.total + sums[high] - sums[low] if summed else 0,
                s.square + s.squared(high) - s.squared(low) if squared else 0,
            )
            for low in lows
        ]

    return look


def plain(value: Any) -> Value:
    """The least or greatest value: of 0.0 and -0.0, which are equal, always 0.0."""
    return 0.0 if value == 0 and type(value) is float else value


def _extreme(best: Callable[..., Any], better: Callable[[Any, Any], bool]) -> Look:
    """The least or the greatest. A window holds the shorter ones, so each event is looked at once."""

    def look(s: Series, lows: Sequence[int], high: int, t: int) -> list[Value]:
        values, found, made = s.values, None, []
        for low in lows:
            if low < high:
                part = best(values[low:high])
                if found is None or better(part, found):
                    found = plain(part)
                high = low
            made.append(found)
        return made

    return look


def _oldest(s: Series, lows: Sequence[int], high: int, t: int) -> list[Value]:
    return [s.values[low] if high > low else None for low in lows]


def _newest(s: Series, lows: Sequence[int], high: int, t: int) -> list[Value]:
    value = s.values[high - 1] if high > lows[-1] else None
    return [value if high > low else None for low in lows]


def _ago(s: Series, lows: Sequence[int], high: int, t: int) -> list[Value]:
    value = (t - s.times[high - 1]) / 1000 if high > lows[-1] else None
    return [value if high > low else None for low in lows]


def _kinds(s: Series, lows: Sequence[int], high: int, t: int) -> list[Value]:
    seen: set[Any] = set()
    made: list[Value] = []
    for low in lows:
        seen.update(s.values[low:high])
        high = low
        made.append(len(seen))
    return made


_LOOKS: dict[str, Look] = {
    "min": _extreme(min, lt), "max": _extreme(max, gt),
    "first": _oldest, "last": _newest, "distinct": _kinds, "since": _ago,
}  # fmt: skip


# Where old events are held as hops.


def hop_look_of(one: Aggregate) -> HopLook:
    """How an aggregate reads the hops from a place on together with the events at [low, high)."""
    if one.kind in MOMENTS:
        return _hop_moment(one)
    look = _HOPS[one.kind]
    if one.kind in ("min", "max") and mixed(one):
        return lambda *read: None if (value := look(*read)) is None else float(value)
    return look


def _hop_moment(one: Aggregate) -> HopLook:
    total, summed, squared = total_of(one), one.kind in SUMS, one.kind == "std"

    def look(hops: Hops, at: int, s: Any, low: int, high: int, t: int) -> Value:
        return total(
            sum(hops.counts[at:]) + high - low,
            sum(hops.totals[at:]) + s.sums[high] - s.sums[low] if summed else 0,
            sum(hops.squares[at:]) + s.squared(high) - s.squared(low) if squared else 0,
        )

    return look


def _ends(hops: Hops, at: int, s: Any, low: int, high: int) -> list[tuple[int, int, Any]]:
    """Time, position and value of the first and the last event: of the hops, then of the series."""
    ends: list[tuple[int, int, Any]] = []
    if at < len(hops.keys):
        ends += [hops.firsts[at], hops.lasts[-1]]
    if high > low:
        values = s.values
        ends += [
            (s.times[i], s.positions[i], values[i] if values is not None else None) for i in (low, high - 1)
        ]
    return ends


def _when(end: tuple[int, int, Any]) -> tuple[int, int]:
    return end[0], end[1]


def _first(hops: Hops, at: int, s: Any, low: int, high: int, t: int) -> Value:
    ends = _ends(hops, at, s, low, high)
    return min(ends, key=_when)[2] if ends else None


def _last(hops: Hops, at: int, s: Any, low: int, high: int, t: int) -> Value:
    ends = _ends(hops, at, s, low, high)
    return max(ends, key=_when)[2] if ends else None


def _since(hops: Hops, at: int, s: Any, low: int, high: int, t: int) -> Value:
    ends = _ends(hops, at, s, low, high)
    return (t - max(ends, key=_when)[0]) / 1000 if ends else None


_HOPS: dict[str, HopLook] = {
    "min": lambda hops, at, s, low, high, t: plain(
        min([*hops.leasts[at:], *s.values[low:high]], default=None)
    ),
    "max": lambda hops, at, s, low, high, t: plain(
        max([*hops.mosts[at:], *s.values[low:high]], default=None)
    ),
    "first": _first,
    "last": _last,
    "since": _since,
    "distinct": lambda hops, at, s, low, high, t: len(set(s.values[low:high]).union(*hops.kinds[at:])),
}
