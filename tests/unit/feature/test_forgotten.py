"""feature: what was forgotten still counts: sums over all history outlive their events, through a restart."""

from __future__ import annotations

from penstock.feature import Fold, compile, count, mean, source
from penstock.record.event import Event, key
from penstock.record.record import Record

DAY_MS = 86_400_000


class Paid(Event):
    card: str = key()
    at: int
    amount: float


class Ask(Event):
    ask: str
    card: str = key()
    at: int


paid, ask = source(Paid, time="at"), source(Ask, id="ask", time="at")
NAMED = {"usual": mean(paid.amount), "seen": count(paid.amount)}
FEATURES = compile(list(NAMED.values()), ask, NAMED)


def test_a_series_without_events_keeps_its_sums() -> None:
    """Every event of a card lies too far back to be held: its mean over all history is what it was."""
    fold = Fold(FEATURES)
    for i, amount in enumerate((1.0, 2.0, 6.0)):
        event = Paid(card="a", at=i, amount=amount)
        fold.add(Record("paid", i, "", "a", i, paid.draft(event).value))
    asked = Record("ask", 9, "x", "a", 30 * DAY_MS, ask.draft(Ask(ask="x", card="a", at=30 * DAY_MS)).value)
    before = fold.read(asked)
    fold.tick(30 * DAY_MS)
    again = Fold.load(FEATURES, fold.dump())
    assert sum(again.sizes().values()) == 0
    assert fold.read(asked) == again.read(asked) == before == [3.0, 3]
    assert [one.count for one in again.explain(asked)] == [3, 3]
