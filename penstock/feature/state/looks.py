"""feature: what each aggregate makes of the events of a window.

Sums are integers until the last step: one division and one root, or one correctly rounded division where
numbers are summed as they are.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock.feature.definition.language import SUMS, Aggregate
from penstock.feature.definition.plan import mixed
from penstock.feature.state.hops import Hops
from penstock.record.decisions import Value

HopLook = Callable[
    [Hops, int, Any, int, int, int], Value
]  # the hops, from which one on, series, low, high, t
Total = Callable[[int, int, int], Value]
UNIT_BITS = 1074
"""Numbers summed as they are, are counted in the smallest number there is, 2 ** -1074."""
MANY = 48
"""From so many numbers on, numpy finds the least of them sooner."""
LEAST, MOST = np.minimum.reduceat, np.maximum.reduceat


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


MOMENTS = {
    "count": "n{i}",
    "rate": "n{i} * {per_ms} / {window_ms}",
    "sum": "a{i} * q",
    "mean": "a{i} / n{i} * q if n{i} else None",
    "std": "root((n{i} * z{i} - a{i} * a{i}) / (n{i} * (n{i} - 1))) * q if n{i} > 1 else None",
}
"""Moments from the number of values `n`, the sum `a` and the sum of squares `z` of their integers."""
EXACT = MOMENTS | {
    "sum": "ratio(a{i}, 1 << bits)",
    "mean": "ratio(a{i}, n{i} << bits) if n{i} else None",
    "std": "exact_root(n{i} * z{i} - a{i} * a{i}, n{i} * (n{i} - 1) << 2 * bits) if n{i} > 1 else None",
}
"""The same where a number's integer is how often the smallest number goes into it."""
ENDS = {
    "first": "values[low{i}] if low{i} < high else None",
    "last": "newest if low{i} < high else None",
    "last_k": "values[high - {k}] if high - low{i} >= {k} else None",
    "since": "ago if low{i} < high else None",
}
"""What stands at the ends of a window, the events at [low, high)."""
OVER = {"min": "least{i}", "max": "most{i}", "distinct": "kinds{i}"}
"""What was found of all of a window's values."""


def text_of(one: Aggregate, i: int | str) -> str:
    """An aggregate over the `i`th window as an expression, in the words of `names_of`."""
    texts = (EXACT if one.exact else MOMENTS) | ENDS | OVER
    return texts[one.kind].format(i=i, k=one.k, per_ms=one.per_ms, window_ms=one.window_ms)


def names_of(quantum: float) -> dict[str, Any]:
    """What the expressions speak of, but for what is read of a window."""
    return {"q": quantum, "root": math.sqrt, "ratio": _ratio, "exact_root": _root, "bits": UNIT_BITS}


def total_of(one: Aggregate) -> Total:
    """A moment from the number of values, the sum and the sum of squares of their integers."""
    total: Total = eval(f"lambda n, a, z: {text_of(one, '')}", names_of(one.quantum))
    return total


# Of all values of windows that end together. Lows are given for the shortest window first, highs are the same.


def extremes(values: Any, lows: Sequence[int], high: int) -> tuple[list[Value], list[Value]]:
    """The least and the greatest value of each window. A window holds the shorter ones, so each event is looked
    at once: what a window has before the next shorter one is a part. One that has no more than that one sees its
    first value again."""
    empty = lows.count(high)
    leasts: list[Any] = [None] * empty
    mosts: list[Any] = [None] * empty
    if empty == len(lows):
        return leasts, mosts
    parts = lows[empty:][::-1]
    if high - parts[0] >= MANY and type(values) is array:
        held = np.frombuffer(values, values.typecode, high)
        at = np.array(parts)
        low_ones, high_ones = LEAST(held, at).tolist(), MOST(held, at).tolist()
    else:
        cut = [values[low : max(end, low + 1)] for low, end in zip(parts, (*parts[1:], high), strict=True)]
        low_ones, high_ones = list(map(min, cut)), list(map(max, cut))
    least, most = low_ones[-1], high_ones[-1]
    while low_ones:
        if (low_one := low_ones.pop()) < least:
            least = low_one
        if (high_one := high_ones.pop()) > most:
            most = high_one
        leasts.append(least)
        mosts.append(most)
    if least <= 0 <= most:
        return list(map(plain, leasts)), list(map(plain, mosts))
    return leasts, mosts


def plain(value: Any) -> Value:
    """The least or greatest value: of 0.0 and -0.0, which are equal, always 0.0."""
    return 0.0 if value == 0 and type(value) is float else value


def kinds(values: Any, lows: Sequence[int], high: int) -> list[int]:
    """How many different values each window holds."""
    seen: set[Any] = set()
    made: list[int] = []
    for low in lows:
        seen.update(values[low:high])
        high = low
        made.append(len(seen))
    return made


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
