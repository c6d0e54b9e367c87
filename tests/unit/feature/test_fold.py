"""feature: the fold at its edges: what is summed exactly, refused, taken back, explained, forgotten."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.feature import (
    FeatureSet,
    Fold,
    compile,
    count,
    distinct,
    last,
    mean,
    min,
    row,
    source,
    std,
    sum,
)
from penstock.predict.verify import same
from penstock.record.codec import pack
from penstock.record.decisions import RETRACTIONS, Retraction
from penstock.record.errors import DefinitionError, Poison
from penstock.record.event import Event, key
from penstock.record.record import Record
from tests.laws.values.oracle import root

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
T0_MS = 20_000 * DAY_MS


class Paid(Event):
    payment: str
    card: str = key()
    at: int
    amount: float | None = None
    items: int | float | None = None
    seen: datetime | None = None


class Ask(Event):
    ask: str
    card: str = key()
    at: int


paid = source(Paid, id="payment", time="at")
ask = source(Ask, id="ask", time="at")


def made(**space: Any) -> FeatureSet:
    """A feature set of some definitions."""
    return compile(list(space.values()), ask, space)


def record(position: int, t_ms: int, **columns: Any) -> Record:
    """A payment on the log."""
    made = paid.draft(Paid(payment=str(position), card=columns.pop("card", "a"), at=t_ms, **columns))
    return Record(made.topic, position, made.id, made.key, made.time_ms, made.value)


def back(position: int, of: Record) -> Record:
    """The word that a payment is taken back."""
    value = pack(Retraction(of.topic, of.id, of.position, of.time_ms, of.value))
    return Record(RETRACTIONS, position, "", of.key, of.time_ms, value)


def folded(features: FeatureSet, *records: Record, tick_ms: int | None = None) -> Fold:
    """A fold of some records."""
    fold = Fold(features)
    for one in records:
        fold.add(one)
    if tick_ms is not None:
        fold.tick(tick_ms)
    return fold


def at(fold: Fold, t_ms: int, card: str = "a") -> list[Any]:
    """The values for a card at a time."""
    return fold.get({"card": card}, t_ms)


def test_exact_sums_neither_drift_nor_lose() -> None:
    """1e16 + 1 - 1e16 is 1, and 0 when all have expired; in quanta such numbers are refused."""
    exact = made(
        total=sum(paid.amount, window="1h", exact=True), usual=mean(paid.amount, window="1h", exact=True)
    )
    rows = [record(n, T0_MS + n, amount=x) for n, x in enumerate((1e16, 1.0, -1e16))]
    fold = folded(exact, *rows)
    assert at(fold, T0_MS + 2) == [1.0, 1 / 3]
    assert at(fold, T0_MS + HOUR_MS) == [1.0 - 1e16, (1.0 - 1e16) / 2]
    assert at(fold, T0_MS + 2 + HOUR_MS) == [0.0, None]
    with pytest.raises(Poison, match="declare a larger quantum="):
        folded(made(total=sum(paid.amount)), rows[0])


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_what_is_not_finite_is_not_summed(value: float) -> None:
    """An infinite number is refused, whichever way sums are taken, and read where nothing is summed."""
    one = record(0, T0_MS, amount=value)
    for exact in (True, False):
        with pytest.raises(Poison, match="too_large"):
            folded(made(total=sum(paid.amount, exact=exact)), one)
    assert at(folded(made(newest=last(paid.amount)), one), T0_MS) == [value]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=2, max_size=5))
def test_an_exact_spread_is_correctly_rounded(values: list[float]) -> None:
    """The deviation of numbers of any size is the double nearest to the true one."""
    from fractions import Fraction

    fold = folded(
        made(d=std(paid.amount, exact=True)), *(record(n, T0_MS, amount=x) for n, x in enumerate(values))
    )
    numbers, n = [Fraction(value) for value in values], len(values)
    total, square = Fraction(), Fraction()
    for number in numbers:
        total, square = total + number, square + number**2
    exact = (n * square - total**2) / (n * (n - 1))
    got = at(fold, T0_MS)[0]
    assert got == (root(exact) if exact < Fraction(1.7e308) ** 2 else got)


def test_equal_numbers_of_two_types_are_one() -> None:
    """The least of 1 and 1.0 is 1.0, whichever came first."""
    least = made(least=min(paid.items))
    for first, second in ((1, 1.0), (1.0, 1)):
        got = at(folded(least, record(0, T0_MS, items=first), record(1, T0_MS, items=second)), T0_MS)
        assert same(got, [1.0])


def test_a_condition_that_is_nan_is_not_met() -> None:
    """A NaN is a null: an event under it is not taken."""
    some = made(n=count(paid, where=paid.amount))  # type: ignore[attr-defined]
    assert at(folded(some, record(0, T0_MS, amount=math.nan), record(1, T0_MS, amount=2.0)), T0_MS) == [1]


def test_a_time_without_a_zone_is_utc_after_a_restart_too() -> None:
    """The same instant counts once, however it was written and whatever was between."""
    kinds = made(kinds=distinct(paid.seen))  # type: ignore[attr-defined]
    row = {"payment": "1", "card": "a", "at": T0_MS, "seen": "2024-01-01T00:00:00"}
    fold = Fold(kinds)
    for n, seen in enumerate(("2024-01-01T00:00:00", "2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00")):
        fold.add(Record("paid", n, str(n), "a", T0_MS, pack(row | {"seen": seen})))
        fold = Fold.load(kinds, fold.dump())
    assert at(fold, T0_MS) == [1]


FOREVER = made(n=count(paid.amount), total=sum(paid.amount), newest=last(paid.amount))


def test_an_event_is_taken_back_once() -> None:
    """Not again, not before it was there, and not from what is forgotten without being in it."""
    rows = [record(n, T0_MS + n, amount=1.0) for n in range(5)]
    fold = folded(FOREVER, *rows, tick_ms=T0_MS + 9 * DAY_MS)
    fold = Fold.load(FOREVER, fold.dump())
    for position, of in ((10, rows[1]), (11, rows[1]), (12, record(99, T0_MS, amount=1.0))):
        fold.add(back(position, of))
    assert at(fold, T0_MS + 9 * DAY_MS) == [4, 4.0, 1.0]
    fold = Fold.load(FOREVER, fold.dump())
    fold.add(back(13, rows[1]))
    assert at(fold, T0_MS + 9 * DAY_MS) == [4, 4.0, 1.0]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_hid_others_is_not_taken_back(restarted: bool) -> None:
    """The newest of what is forgotten stays, whether or not it has been forgotten yet: what it hid is gone."""
    rows = [record(n, T0_MS + n, amount=float(n)) for n in range(5)]
    fold = folded(FOREVER, *rows, tick_ms=T0_MS + 9 * DAY_MS)
    fold = Fold.load(FOREVER, fold.dump()) if restarted else fold
    with pytest.raises(Poison, match="retracted_late"):
        fold.add(back(10, rows[4]))
    fold.add(back(11, rows[3]))
    assert at(fold, T0_MS + 9 * DAY_MS) == [4, 7.0, 4.0]


def test_hops_are_explained() -> None:
    """The events behind a value are counted where only their hops are left."""
    hopped = made(n=count(paid, window="5d", hop="1d"))
    fold = folded(hopped, *(record(n, T0_MS + n * HOUR_MS) for n in range(48)), tick_ms=T0_MS + 5 * DAY_MS)
    fold = Fold.load(hopped, fold.dump())
    assert fold.sizes() == {"paid by card": 3}
    draft = ask.draft(Ask(ask="q", card="a", at=T0_MS + 5 * DAY_MS))
    (seen,) = fold.explain(Record(draft.topic, 99, draft.id, draft.key, draft.time_ms, draft.value))
    assert (seen.value, seen.count, seen.first, seen.last) == (47, 47, 1, 47)


def test_who_is_quiet_is_forgotten() -> None:
    """An entity whose events no window sees any more leaves no byte behind, under a cap neither."""
    quiet = made(n=count(paid.amount, window="1h"), newest=last(paid.amount, max_age="1h", cap=3))
    rows = [record(n, T0_MS + n, card=f"c{n % 7}", amount=1.0) for n in range(700)]
    fold = folded(quiet, *rows, tick_ms=T0_MS + 3 * DAY_MS)
    empty = Fold(quiet)
    empty.seen, empty.now_ms = fold.seen, fold.now_ms
    assert fold.dump() == empty.dump()


def test_a_category_may_not_be_called_other() -> None:
    """What is in no category is called other; two of one name would hide each other."""
    for categories in (("DE", "other"), (1, "1")):
        with pytest.raises(DefinitionError, match="different names"):
            count(paid, by=paid.payment, categories=categories)  # type: ignore[attr-defined]


def test_row_functions_of_one_name_are_told_apart() -> None:
    """Two aggregates without names that are spelled alike are two where their functions are."""

    def twice(function: Any) -> Any:
        return row(function)

    @twice
    def scaled(x: float | None) -> float | None:
        return None if x is None else x * 2

    first = scaled(paid.amount)  # type: ignore[attr-defined]

    @twice
    def scaled(x: float | None) -> float | None:
        return None if x is None else x * 3

    second = scaled(paid.amount)  # type: ignore[attr-defined]
    both = made(both=last(first) + last(second) * 100)
    assert at(folded(both, record(0, T0_MS, amount=1.0)), T0_MS) == [302.0]


def test_a_row_function_that_gives_a_text_is_refused_where_numbers_are_compared() -> None:
    """What a row function returns is checked when it is compared, not when it is read."""

    @row
    def odd(x: float | None) -> Any:
        return "much" if x else 0

    with pytest.raises(Poison, match="wrong_type"):
        folded(made(least=min(odd(paid.amount))), record(0, T0_MS, amount=1.0))  # type: ignore[attr-defined]


def test_two_features_of_one_window_are_two() -> None:
    """The same aggregate twice over one window, beside another window, leaves no feature without a value."""
    twice = made(a=count(paid, window="1h"), b=count(paid, window="1h"), c=last(paid.amount, max_age="1d"),
                 d=count(paid.amount, window="1d"), e=count(paid.amount, window="1d"))  # fmt: skip
    assert at(folded(twice, record(0, T0_MS, amount=1.0)), T0_MS) == [1, 1, 1.0, 1, 1]


def test_plans_of_chosen_features_do_not_pile_up() -> None:
    """Whoever asks for ever other choices of features makes nothing grow."""
    space = {f"n{i}": count(paid, window=f"{i + 1}h") for i in range(150)}
    fold = folded(made(**space), record(0, T0_MS))
    assert [fold.get({"card": "a"}, T0_MS, [f"n{i}"]) for i in range(150)] == [[1]] * 150
    assert len(fold._some) <= 100
