"""laws: the replay is the fold: the same bits for every aggregate, compiled or not, and in whatever pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.feature import (
    FeatureSet,
    Fold,
    compile,
    count,
    distinct,
    feature,
    first,
    last,
    last_k,
    max,
    mean,
    min,
    rate,
    row,
    since,
    source,
    std,
    sum,
)
from penstock.feature import replay as replay_module
from penstock.feature.replay import Decoded, decoded, replay
from penstock.predict.verify import same
from penstock.record.codec import pack
from penstock.record.decisions import RETRACTIONS, Retraction, Value
from penstock.record.errors import Poison
from penstock.record.event import Event, key
from penstock.record.record import Draft, Record

HOUR_MS = 3_600_000
T0_MS = 1_000 * 86_400_000
W = ("1h", "2h", "5h")


class Paid(Event):
    payment: str
    card: str | None = key()
    at: int
    amount: float | None
    items: int | None = None
    shop: str | None = None


class Ask(Event):
    ask: str
    card: str | None = key()
    at: int


paid = source(Paid, id="payment", time="at")
ask = source(Ask, id="ask", time="at")


@row
def mixed(amount: float | None) -> Any:
    """Numbers of two kinds."""
    return int(amount) if amount is not None and 1 < amount < 2**40 else amount


DEFINED: dict[str, Any] = {
    "rows": count(paid, windows=W),
    "rows_all": count(paid),
    "some": count(paid.amount, windows=W),
    "total": sum(paid.amount, windows=W, quantum=2.0**-10),
    "total_all": sum(paid.amount, quantum=2.0**-10),
    "usual": mean(paid.amount, windows=W, default=-1, quantum=2.0**-10),
    "usual_all": mean(paid.amount, quantum=2.0**-10),
    "spread": std(paid.amount, windows=W, quantum=2.0**-10),
    "spread_all": std(paid.amount, quantum=2.0**-10),
    "items": mean(paid.items, windows=W),
    "items_spread": std(paid.items, window="2h", quantum=1e-9),
    "least": min(paid.amount, windows=W),
    "most": max(paid.amount, windows=W),
    "fewest": min(paid.items),
    "oldest": first(paid.amount, windows=W),
    "newest": last(paid.amount),
    "fresh": last(paid.shop, max_age="1h", default="none"),
    "three": last_k(paid.amount, 3, window="2h"),
    "shops": last_k(paid.shop, 2),
    "kinds": distinct(paid.amount, windows=W),
    "kinds_all": distinct(paid.shop),
    "ago": since(paid.amount, windows=W),
    "ago_all": since(paid),
    "often": rate(paid, windows=W, per="1d"),
    "hopped": sum(paid.items, window="3h", hop="2h"),
    "hopped_least": min(paid.items, window="3h", hop="2h"),
    "capped": mean(paid.items, window="5h", cap=3),
    "capped_kinds": distinct(paid.items, cap=2),
    "large": count(paid, window="2h", where=paid.amount > 1.0),
    "exact": sum(paid.amount, window="2h", exact=True),
    "mixed_most": max(mixed(paid.amount), window="2h"),
    "mixed_kinds": distinct(mixed(paid.amount), window="2h"),
}
DEFINED["share"] = DEFINED["total"]["1h"] / DEFINED["total"]["5h"]


@feature
def doubled(usual_1h: float, rows_all: int) -> Any:
    """A function of features."""
    return None if rows_all == 1 else usual_1h * 2 if rows_all % 2 else rows_all


DEFINED["doubled"] = doubled
FEATURES = compile(list(DEFINED.values()), ask, DEFINED)

AMOUNTS = st.one_of(
    st.sampled_from([None, math.nan, 0.0, -0.0, 1.5, -2.25, 1e-9, 123456.789, 3e7, 1.0, 4e15, -4e15, 1e300]),
    st.floats(-100, 100),
)
# Event times on a coarse grid around "now", so that ties, window edges, late and future events are common.
MOVES = st.one_of(
    st.tuples(
        st.just("event"), st.sampled_from(["a", "b", None]), st.integers(-12, 4), AMOUNTS,
        st.sampled_from([None, 0, 1, -5, 7, 2**30]), st.sampled_from([None, "x", "y"]),
    ),
    st.tuples(st.just("retract"), st.integers(0, 60)),
    st.tuples(st.just("ask"), st.sampled_from(["a", "b", "c", None]), st.integers(-2, 2)),
)  # fmt: skip


def recorded(moves: list[Any]) -> list[Record]:
    """The moves as records of a log."""
    log: list[Record] = []
    events: list[Record] = []
    for position, (kind, *what) in enumerate(moves):
        if kind == "event":
            card, grid, amount, items, shop = what
            at = T0_MS + grid * HOUR_MS // 2
            made = paid.draft(
                Paid(payment=str(position), card=card, at=at, amount=amount, items=items, shop=shop)
            )
            events.append(_placed(made, position))
            log.append(events[-1])
        elif kind == "ask":
            card, grid = what
            log.append(
                _placed(
                    ask.draft(Ask(ask=str(position), card=card, at=T0_MS + grid * HOUR_MS // 2)), position
                )
            )
        elif events:
            one = events[what[0] % len(events)]
            value = pack(Retraction(one.topic, one.id, one.position, one.time_ms, one.value))
            log.append(_placed(Draft(RETRACTIONS, one.id, one.time_ms, value), position))
    return log


def _placed(made: Draft, position: int) -> Record:
    return Record(made.topic, position, made.id, made.key, made.time_ms, made.value)


def folded(log: list[Record], features: FeatureSet = FEATURES) -> tuple[list[list[Value]], list[Record]]:
    """What the fold answers, one record after the other, and the records that are no poison."""
    fold, said, good = Fold(features, prune=False), [], []
    for record in log:
        try:
            if record.topic == ask.topic:
                said.append(fold.read(record))
            else:
                fold.add(record)
        except Poison:
            continue
        good.append(record)
    return said, good


def answered(found: Decoded, least: int = 0) -> list[list[Value]]:
    """What the replay answers."""
    columns = replay(found, least=least)
    assert list(columns) == list(found.features.names)
    return [list(values) for values in zip(*(one.tolist() for one in columns.values()), strict=True)]


def wrong(got: list[list[Value]], want: list[list[Value]]) -> set[str]:
    """The features whose bits differ."""
    assert len(got) == len(want)
    pairs = [
        (a, b) for mine, theirs in zip(got, want, strict=True) for a, b in zip(mine, theirs, strict=True)
    ]
    return {FEATURES.names[i % len(FEATURES.names)] for i, (a, b) in enumerate(pairs) if not same([a], [b])}


@settings(max_examples=150)
@given(st.lists(MOVES, max_size=60))
def test_the_compiled_replay_is_the_fold(moves: list[Any]) -> None:
    """Ties, edges, late, future, null, NaN, huge, retracted: every value has the bits of the fold."""
    want, log = folded(recorded(moves))
    assert wrong(answered(decoded(FEATURES, log)), want) == set()


@given(st.lists(MOVES, max_size=60))
def test_how_it_is_spread_changes_nothing(moves: list[Any]) -> None:
    """On one thread and on several, and whatever part ends first."""
    _, log = folded(recorded(moves))
    with ThreadPoolExecutor(3) as pool:
        found = [replay(decoded(FEATURES, log), least=0, spread=how) for how in (map, pool.map, backwards)]
    one, *others = [[column.tolist() for column in each.values()] for each in found]
    assert all(wrong(list(zip(*each, strict=True)), list(zip(*one, strict=True))) == set() for each in others)  # type: ignore[arg-type]


def backwards(do: Callable[[int], None], numbers: Sequence[int]) -> list[None]:
    """The last part first."""
    return [do(number) for number in reversed(numbers)]


@given(st.lists(MOVES, max_size=40))
def test_without_numba_it_is_the_same(moves: list[Any]) -> None:
    """Plain Python answers where the compiled kernels are not there."""
    want, log = folded(recorded(moves))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_module, "kernels", lambda: None)
        assert wrong(answered(decoded(FEATURES, log)), want) == set()


@given(st.lists(MOVES, max_size=60), st.integers(1, 20), st.booleans())
def test_a_replay_in_pieces_is_the_same(moves: list[Any], size: int, compiled: bool) -> None:
    """Requests answered a few at a time, what no later one sees forgotten in between: the same values."""
    want, log = folded(recorded(moves))
    found, got = Decoded(FEATURES), []
    for at in range(0, len(log), size):
        for record in log[at : at + size]:
            found.take(record, ask=record.topic == ask.topic)
        got += answered(found, 0 if compiled else 10**9)
        found.clear()
        found.forget(T0_MS)
    assert wrong(got, want) == set()


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 300), st.booleans()), min_size=1, max_size=300),
    st.data(),
)
def test_many_events_of_one_entity(events: list[tuple[int, int, bool]], data: Any) -> None:
    """Chunks, those that are cut in two, and their edges: one entity with hundreds of events, most of them late."""
    moves: list[Any] = []
    for grid, amount, asked in events:
        moves.append(("event", "a", -grid // 20, amount / 7, amount, str(amount % 5)))
        moves += [("ask", "a", -(grid % 9))] if asked else []
        moves += [("retract", grid)] if amount % 17 == 0 else []
    want, log = folded(recorded([*moves, ("ask", "a", 4)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_module, "CHUNK", data.draw(st.sampled_from([2, 5, 16, 256])))
        assert wrong(answered(decoded(FEATURES, log)), want) == set()


def test_late_events_no_more_hide_than_others() -> None:
    """The law finds a planted bug: an event that came after a request seen by it."""
    moves = [("event", "a", -1, 1.5, 1, "x"), ("ask", "a", 0)] * 2
    want, log = folded(recorded(moves))
    found = decoded(FEATURES, log)
    assert wrong(answered(found), want) == set()
    found.o[0] += 2
    assert "rows_1h" in wrong(answered(found), want)


def test_a_planted_bug_of_the_last_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiplied before it is divided, a mean has other bits now and then: the law sees it."""
    moves = [("event", "a", -1, 0.1 * n, n, "x") for n in range(20)] + [("ask", "a", 0)]
    want, log = folded(recorded(moves))
    assert wrong(answered(decoded(FEATURES, log)), want) == set()
    real = replay_module._FINALS["std"]
    monkeypatch.setitem(
        replay_module._FINALS,
        "std",
        lambda look, one: replay_module.Answers(
            np.nextafter(real(look, one).values, 0), real(look, one).valid
        ),
    )
    assert wrong(answered(decoded(FEATURES, log)), want) >= {"spread_1h", "spread_all"}


WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 64).map(lambda n: 2**n - 1),
    st.integers(0, 63).map(lambda n: 2**n),
)


@settings(max_examples=250)
@given(
    st.one_of(st.integers(0, 2**126 - 1), WORDS, st.integers(0, 125).map(lambda n: 2**n + 1)),
    st.one_of(st.integers(1, 2**63 - 1), st.integers(0, 62).map(lambda n: 2**n)),
)
def test_a_division_is_correctly_rounded(above: int, below: int) -> None:
    """128 bits by 63 gives the bits of Python's int / int, halfway cases among them."""
    from penstock.feature.kernels import divided

    for number in (above, above | 1, (below * (2**53 + 1) << 1) % 2**126, below * (2**54 + 1) % 2**126):
        got = divided(np.uint64(number >> 64), np.uint64(number & (2**64 - 1)), np.uint64(below))
        assert got == number / below == float(Fraction(number, below))


def test_what_would_wrap_is_folded_in_plain_python() -> None:
    """Sums beyond 64 bits are not for the kernels: they say so, and the answer is the fold's."""
    moves = [("event", "a", -1, 4e15, 1, "x")] * 60 + [("ask", "a", 0)]
    want, log = folded(recorded(moves))
    found = decoded(FEATURES, log)
    (taken,) = [
        one for one in found.taken if one.table.key.column == "amount" and one.table.key.quantum == 2.0**-10
    ]
    groups = [group for group in found.reading.groups if group.table is taken.table]
    assert len(taken.times) * taken.units[0] > 2**63  # type: ignore[index]
    assert replay_module._laid(replay_module.kernels(), taken, groups, found) is None
    assert wrong(answered(found), want) == set()


def test_few_are_not_worth_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small replay does not load numba."""
    monkeypatch.setattr(replay_module, "kernels", lambda: pytest.fail("loaded"))
    log = recorded([("event", "a", -1, 1.5, 1, "x"), ("ask", "a", 0)])
    monkeypatch.setattr(replay_module, "_by_entity", lambda taken: pytest.fail("laid out"))
    assert answered(decoded(FEATURES, log), replay_module.WORTH)
