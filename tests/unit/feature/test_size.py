"""feature: the size that is told from a state's bytes is that of the fold."""

from __future__ import annotations

import random

from penstock.feature import Fold, compile, count, last, mean, source
from penstock.feature.state.size import sizes
from penstock.record.event import Event, key
from penstock.record.record import Record

DAY_MS = 86_400_000


class Paid(Event):
    card: str = key()
    shop: str
    at: int
    amount: float


class Ask(Event):
    ask: str
    card: str = key()
    shop: str
    at: int


paid, ask = source(Paid, time="at"), source(Ask, id="ask", time="at")
NAMED = {
    "usual": mean(paid.amount, window="10d"), "seen": count(paid, window="1d", entity="shop"),
    "hopped": mean(paid.amount, window="5d", hop="1h"), "capped": mean(paid.amount, cap=40),
    "ever": mean(paid.amount, quantum=0.5), "newest": last(paid.amount, where=paid.amount > 9.0),
}  # fmt: skip
FEATURES = compile(list(NAMED.values()), ask, NAMED)


def test_the_bytes_tell_what_the_fold_holds() -> None:
    """Events, hops and entities of each series, before and after some are forgotten, few and many."""
    chance = random.Random(2)
    fold, seen = Fold(FEATURES), 0
    for days in (0, 1, 3, 6, 20, 40):
        fold.tick(days * DAY_MS)
        for _ in range(chance.choice((1, 30, 900))):
            at = days * DAY_MS + chance.randrange(DAY_MS)
            one = Paid(
                card=f"c{chance.choice((0, 0, 0, chance.randrange(60)))}",
                shop="s",
                at=at,
                amount=chance.random() * 10,
            )
            fold.add(Record("paid", seen, "", one.card, at, paid.draft(one).value))
            seen += 1
        data = fold.dump()
        found = sizes(FEATURES, data)
        told: dict[str, int] = {}
        for each in found:
            told[each.series] = told.get(each.series, 0) + each.events
        assert told == fold.sizes()
        for table, each in zip(fold.tables, found, strict=True):
            assert each.entities == len({*table.series, *table.hops})
            assert each.largest <= each.events <= each.largest * max(each.entities, 1)
            assert each.gone == sum(one.gone for one in table.series.values())
        assert 0.8 * len(data) < sum(each.size_bytes for each in found) + 60 < len(data) + 60
    assert sum(each.events for each in sizes(FEATURES, Fold(FEATURES).dump())) == 0
