"""feature: how one entity's series is read: a function written out for the windows and aggregates that are asked.

Every window is found once, and what several aggregates need of it is worked out once: no loop over windows or
aggregates, and no call for each. For the mean over 1h and 1d it reads, with the slots' numbers:

    def look(slots, t):
        series = held(slots[0], none)
        times, head, values = series.times, series.head, series.values
        high = len(times)
        if high and times[-1] > t: high = bisect_right(times, t, head)
        last = times[high - 1] if high > head else t
        low0 = high if last <= (start := t - 3600000) else bisect_right(times, start, head, high)
        low1 = high if last <= (start := t - 86400000) else bisect_right(times, start, head, low0)
        sums = series.sums; top = sums[high]
        n0 = high - low0; a0 = top - sums[low0]
        n1 = high - low1; a1 = top - sums[low1]
        slots[1] = a0 / n0 * q if n0 else None
        slots[2] = a1 / n1 * q if n1 else None

The text is made of our own words and of whole numbers; whatever the user wrote comes in as an object.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any

from penstock.feature.definition.language import Aggregate
from penstock.feature.definition.plan import mixed
from penstock.feature.state.looks import EXACT, extremes, kinds, names_of, text_of
from penstock.feature.state.series import Series
from penstock.feature.state.table import Table

Slots = list[Any]
Look = Callable[[Slots, int], None]
"""Puts the values as of a time into their slots; that of the entity has been filled."""
EXTREMES = ("min", "max")


def start_ms(t_ms: int, window_ms: int, hop_ms: int) -> int:
    """Where a window begins; what lies exactly there is not in it."""
    start = t_ms - window_ms
    return start // hop_ms * hop_ms if hop_ms else start


def written(
    table: Table, asked: int, windows: Sequence[int], nodes: Sequence[tuple[int, Aggregate]]
) -> Callable[[Table], Look]:
    """What makes, for any table of this one's key, the function that reads its series. `asked`: the entity's slot;
    `windows`: their lengths, the shortest first; `nodes`: the aggregates, with the slots of their values."""
    asks: list[set[str]] = [
        {one.kind for _, one in nodes if one.window_ms == window_ms} for window_ms in windows
    ]
    lines = [*_found(asked, windows, table.key.hop_ms), *_shared(asks, windows)]
    names: dict[str, Any] = names_of(table.key.quantum) | {
        "none": Series(table.shape), "bisect_right": bisect_right, "start_ms": start_ms, "extremes": extremes,
        "kinds": kinds,
    }  # fmt: skip
    for place, one in nodes:
        text = text_of(one, windows.index(one.window_ms))
        if one.kind in EXTREMES and mixed(one):
            text = f"None if (value := {text}) is None else float(value)"
        if one.default is not None:
            names[f"default{place}"] = one.default
            text = f"default{place} if (value := {text}) is None else value"
        lines.append(f"slots[{place}] = {text}")
    body = "\n  ".join(lines)
    exec(_compiled(f"def made(held):\n def look(slots, t):\n  {body}\n return look"), names)
    made: Callable[[Any], Look] = names["made"]
    return lambda table: made(table.series.get)


@lru_cache(maxsize=256)
def _compiled(text: str) -> CodeType:
    """Kept, since sets are opened again and again: by rebuilds, replays and looks into the past."""
    return compile(text, "<look>", "exec")


def _found(asked: int, windows: Sequence[int], hop_ms: int) -> Iterable[str]:
    """Where the windows lie in the entity's series: each begins where the shorter one does, or before."""
    yield f"series = held(slots[{asked}], none)"
    yield "times, head, values = series.times, series.head, series.values"
    yield "high = len(times)"
    yield "if high and times[-1] > t: high = bisect_right(times, t, head)"
    yield "last = times[high - 1] if high > head else t"
    end = "high"
    for i, window_ms in enumerate(windows):
        start = f"start_ms(t, {window_ms}, {hop_ms})" if hop_ms else f"t - {window_ms}"
        sought = f"high if last <= (start := {start}) else bisect_right(times, start, head, {end})"
        yield f"low{i} = {sought if window_ms else 'head'}"
        end = f"low{i}"


def _shared(asks: Sequence[set[str]], windows: Sequence[int]) -> Iterable[str]:
    """What several aggregates need."""
    if summed := _at(asks, "sum", "mean", "std"):
        yield "sums = series.sums; top = sums[high]"
    if squared := _at(asks, "std"):
        yield f"above, {_each('z', squared)} = series.squares((high, {_each('low', squared)}))"
    for i in _at(asks, *EXACT):
        n, a, z = f"high - low{i}", f"top - sums[low{i}]", f"above - z{i}"
        if not windows[i]:  # all history: and what was forgotten of it
            n, a, z = f"series.gone + {n}", f"series.total + {a}", f"series.square + {z}"
        yield f"n{i} = {n}"
        if i in summed:
            yield f"a{i} = {a}"
        if i in squared:
            yield f"z{i} = {z}"
    if at := _at(asks, *EXTREMES):
        least, most, lows = _each("least", at), _each("most", at), _each("low", at)
        yield f"({least}), ({most}) = extremes(values, ({lows}), high)"
    if at := _at(asks, "distinct"):
        yield f"{_each('kinds', at)} = kinds(values, ({_each('low', at)}), high)"
    if _at(asks, "last"):
        yield "newest = values[high - 1] if high > head else None"
    if _at(asks, "since"):
        yield "ago = (t - times[high - 1]) / 1000 if high > head else None"


def _at(asks: Sequence[set[str]], *some: str) -> list[int]:
    """Over which windows one of some kinds is asked."""
    return [i for i, asked in enumerate(asks) if not asked.isdisjoint(some)]


def _each(name: str, at: Iterable[int]) -> str:
    return "".join(f"{name}{i}, " for i in at)
