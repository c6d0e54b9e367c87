"""laws: the fold's values are the definition's values, whatever order, tick, restart or pruning."""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.feature import (
    FeatureSet,
    Fold,
    Past,
    compile,
    count,
    distinct,
    first,
    last,
    max,
    mean,
    min,
    since,
    source,
    std,
    sum,
)
from penstock.feature.state import written as written_module
from penstock.predict.refold import same
from penstock.record.codec import moment
from penstock.record.event import Event, key
from penstock.record.record import Record

HOUR_MS = 3_600_000
T0_MS = 1_000 * 86_400_000


class Paid(Event):
    payment: str
    card: str | None = key()
    at: int
    amount: float | None


paid = source(Paid, id="payment", time="at")

KINDS = {
    "rows": count(paid, window="1h"),
    "rows_all": count(paid),
    "some": count(paid.amount, window="2h"),
    "total": sum(paid.amount, window="1h"),
    "total_all": sum(paid.amount),
    "usual": mean(paid.amount, window="2h"),
    "usual_all": mean(paid.amount),
    "spread_all": std(paid.amount),
    "spread": std(paid.amount, window="2h"),
    "least": min(paid.amount, window="1h"),
    "most": max(paid.amount, window="2h"),
    "oldest": first(paid.amount, window="2h"),
    "newest": last(paid.amount),
    "fresh": last(paid.amount, max_age="1h", default=-1.0),
    "kinds": distinct(paid.amount, window="2h"),
    "ago": since(paid),
    "ago_hour": since(paid.amount, window="1h"),
}
FEATURES = compile(list(KINDS.values()), paid, KINDS)


def row(position: int, card: str | None, t_ms: int, amount: float | None) -> Record:
    """A payment on the log."""
    made = paid.draft(Paid(payment=str(position), card=card, at=t_ms, amount=amount))
    return Record(made.topic, position, made.id, made.key, made.time_ms, made.value)


def oracle(
    name: str, events: list[tuple[int, int, str | None, float | None]], ask: tuple[int, int, str | None]
) -> Any:
    """The definition, word for word: distinct events of the entity below O with time in (t - w, t]."""
    t_ms, o, card = ask
    one = KINDS[name]
    mine = sorted(
        (at, place, amount)
        for at, place, whose, amount in events
        if whose == card and card is not None and place < o
    )
    inside = [e for e in mine if e[0] <= t_ms and (not one.window_ms or e[0] > t_ms - one.window_ms)]
    if one.column:
        inside = [e for e in inside if e[2] is not None and not math.isnan(e[2])]
    values = [e[2] for e in inside]
    summed = one.kind in ("sum", "mean", "std")
    units = [round(Fraction(v) / Fraction(one.quantum)) for v in values if v is not None] if summed else []
    n = len(inside)
    match one.kind:
        case "count":
            return n
        case "sum":
            return float(Fraction(_add(units)) * Fraction(one.quantum))
        case "mean":
            return _add(units) / n * one.quantum if n else None
        case "std":
            squares = _add([u * u for u in units])
            return (
                math.sqrt((n * squares - _add(units) ** 2) / (n * (n - 1))) * one.quantum if n > 1 else None
            )
        case "min":
            return sorted(values)[0] if n else None  # type: ignore[type-var]
        case "max":
            return sorted(values)[-1] if n else None  # type: ignore[type-var]
        case "first":
            return values[0] if n else None
        case "last":
            return values[-1] if n else one.default
        case "distinct":
            return len(set(values))
    return (t_ms - inside[-1][0]) / 1000 if n else None


def _add(numbers: list[int]) -> int:
    total = 0
    for number in numbers:
        total += number
    return total


AMOUNTS = st.sampled_from([None, math.nan, 0.0, 1.5, -2.25, 1e-9, 123456.789, 1.5])
CARDS = st.sampled_from(["a", "b", None])
# Event times on a coarse grid around "now", so that ties, window edges, late and future events are common.
MOVES = st.one_of(
    st.tuples(st.just("event"), CARDS, st.integers(-8, 3), AMOUNTS),
    st.tuples(st.just("ask"), CARDS, st.integers(-1, 1), st.none()),
    st.tuples(st.just("tick"), st.none(), st.integers(0, 60), st.none()),
    st.tuples(st.just("restart"), st.none(), st.just(0), st.none()),
)


def play(moves: list[Any], features: FeatureSet, prune: bool = True) -> list[str]:
    """Play moves on a fold and on the oracle; the disagreements."""
    fold, now_ms, wrong = Fold(features, prune=prune), T0_MS, []
    events: list[tuple[int, int, str | None, float | None]] = []
    for position, (kind, card, grid, amount) in enumerate(moves):
        t_ms = now_ms + grid * HOUR_MS // 2
        if kind == "event":
            fold.add(row(position, card, t_ms, amount))
            events.append((t_ms, position, card, amount))
        elif kind == "tick":
            now_ms = t_ms
            fold.tick(now_ms)
        elif kind == "restart" and prune:
            fold = Fold.load(features, fold.dump())
        elif kind == "ask":
            got = fold.read(row(position, card, t_ms, None))
            want = [oracle(name, events, (t_ms, position, card)) for name in KINDS]
            wrong += [name for name, a, b in zip(KINDS, got, want, strict=True) if not same([a], [b])]
    return wrong


@given(st.lists(MOVES, max_size=60))
def test_the_fold_is_the_definition(moves: list[Any]) -> None:
    """Live, pruned and restarted, every value has the bits of the definition."""
    assert play(moves, FEATURES) == []


@given(st.lists(MOVES, max_size=40))
def test_an_unpruned_fold_is_the_definition(moves: list[Any]) -> None:
    """The look-up of the past, which forgets nothing, agrees, too."""
    assert play(moves, FEATURES, prune=False) == []


@given(st.lists(MOVES, max_size=40), st.integers(0, 40))
def test_a_restart_changes_no_byte(moves: list[Any], at: int) -> None:
    """Folding in one go, and folding, writing, reading and folding on, end in the same bytes."""
    whole, parts = Fold(FEATURES), Fold(FEATURES)
    for position, (kind, card, grid, amount) in enumerate(moves):
        t_ms = T0_MS + position * HOUR_MS + grid * HOUR_MS // 2
        for fold in (whole, parts):
            if kind == "event":
                fold.add(row(position, card, t_ms, amount))
            elif kind == "tick":
                fold.tick(t_ms)
        if position == at:
            parts = Fold.load(FEATURES, parts.dump())
    assert whole.dump() == parts.dump()


def test_a_closed_window_start_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law finds a planted bug: an event exactly at the window's start counted in."""
    moves = [("event", "a", -2, 1.5), ("event", "a", -1, 2.5), ("ask", "a", 0, None)]
    assert play(moves, FEATURES) == []
    monkeypatch.setattr(written_module, "bisect_right", bisect_left)
    assert play(moves, compile(list(KINDS.values()), paid, KINDS)) != []  # a set that was read keeps its plan


def test_a_request_from_long_ago_is_not_answered_from_live_state() -> None:
    """Behind the slack the live state has forgotten; it says so instead of answering wrongly."""
    fold = Fold(FEATURES)
    fold.tick(T0_MS)
    with pytest.raises(Past):
        fold.read(row(0, "a", T0_MS - 3 * 24 * HOUR_MS, None))


def test_pruning_forgets() -> None:
    """A series of windows does not grow for ever."""
    windowed = {"rows": count(paid, window="1h")}
    fold = Fold(compile([windowed["rows"]], paid, windowed))
    for position in range(5000):
        fold.add(row(position, "a", T0_MS + position * HOUR_MS, 1.0))
        fold.tick(T0_MS + position * HOUR_MS)
    assert len(fold.dump()) < 5_000
    assert moment(fold.now_ms).year > 1970
