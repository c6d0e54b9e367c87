"""feature: what each aggregate reads of a window. A look is a function of a series and two places in it.

Sums are integers until the last step: one division and one root, or one correctly rounded division where
numbers are summed as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from penstock.feature.hops import Hops
from penstock.feature.language import SUMS, Aggregate
from penstock.record.decisions import Value

Look = Callable[[Any, int, int, int], Value]  # a series that holds what this look needs, low, high, t
HopLook = Callable[[Hops, int, Any, int, int, int], Value]  # the hops, from which one on, and as before
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
        spread = n * square - total * total
        return math.sqrt(_ratio(spread, n * (n - 1) << 2 * UNIT_BITS)) if n > 1 else None

    exact = one.exact
    return {
        "count": lambda n, total, square: n,
        "rate": rate,
        "sum": exact_sum if exact else lambda n, total, square: total * q,
        "mean": exact_mean if exact else mean,
        "std": exact_std if exact else std,
    }[one.kind]  # fmt: skip


MOMENTS = ("count", "rate", *SUMS)


def look_of(one: Aggregate) -> Look:
    """How an aggregate reads the events at [low, high)."""
    if one.kind in MOMENTS:
        return _moment(one)
    if one.kind == "last_k":
        k = one.k
        return lambda s, low, high, t: s.values[high - k] if high - low >= k else None
    return _ENDS[one.kind]


def _moment(one: Aggregate) -> Look:
    total, q = total_of(one), one.quantum
    if one.kind == "count":
        return lambda s, low, high, t: high - low
    if one.kind == "sum" and not one.exact:
        return lambda s, low, high, t: (s.sums[high] - s.sums[low]) * q
    if one.kind == "std":
        return lambda s, low, high, t: total(
            high - low, s.sums[high] - s.sums[low], s.squared(high) - s.squared(low)
        )
    if one.kind == "rate":
        return lambda s, low, high, t: total(high - low, 0, 0)
    return lambda s, low, high, t: total(high - low, s.sums[high] - s.sums[low], 0)


def plain(value: Any) -> Value:
    """The least or greatest value: of 0.0 and -0.0, which are equal, always 0.0."""
    return 0.0 if value == 0 and type(value) is float else value


_ENDS: dict[str, Look] = {
    "min": lambda s, low, high, t: plain(min(s.values[low:high], default=None)),
    "max": lambda s, low, high, t: plain(max(s.values[low:high], default=None)),
    "first": lambda s, low, high, t: s.values[low] if high > low else None,
    "last": lambda s, low, high, t: s.values[high - 1] if high > low else None,
    "distinct": lambda s, low, high, t: len(set(s.values[low:high])),
    "since": lambda s, low, high, t: (t - s.times[high - 1]) / 1000 if high > low else None,
}


# Where old events are held as hops.


def hop_look_of(one: Aggregate) -> HopLook:
    """How an aggregate reads the hops from a place on together with the events at [low, high)."""
    if one.kind in MOMENTS:
        return _hop_moment(one)
    return _HOPS[one.kind]


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
