"""laws: nothing that is summed wraps, nothing that is held grows for ever: it is refused on `dead`, by name."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.feature import FeatureSet, Fold, compile, count, last, max, source, sum
from penstock.feature.state import table as table_module
from penstock.log.memory import MemoryLog
from penstock.model.pack import Model
from penstock.predict.stage import Means, predict_stage
from penstock.record.codec import pack
from penstock.record.decisions import (
    DEAD,
    RELEASES,
    TICKS,
    DeadLetter,
    Prediction,
    Release,
    Tick,
    predictions,
    read,
)
from penstock.record.event import Event, key
from penstock.record.record import START, Draft, Record
from penstock.stage import Running

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
T0_MS = 20_000 * DAY_MS
MOST = 200


class Paid(Event):
    payment: str
    card: str = key()
    at: int
    amount: float


class Ask(Event):
    ask: str
    card: str = key()
    at: int


paid = source(Paid, id="payment", time="at")
ask = source(Ask, id="ask", time="at")


class Plain:
    """A model that says one half."""

    def predict_proba(self, x: Any) -> Any:
        return x[:, 0] * 0 + 0.5


def event(n: int, t_ms: int, amount: float = 1.0) -> Draft:
    """A payment."""
    return paid.draft(Paid(payment=str(n), card="a", at=t_ms, amount=amount))


def served(features: FeatureSet, drafts: list[Draft], t_ms: int) -> tuple[Prediction, list[DeadLetter]]:
    """What the answering stage says to a request after some events, and what it has buried."""
    log = MemoryLog()
    model = Model(features.digest, "binary", ["number"] * len(features.names), Plain(), None)
    means = Means(lambda d: None, lambda d: model, lambda f, r: [], lambda f, o: Fold(f), lambda: 0.0)
    log.append([Draft(RELEASES, "m", 0, pack(Release("m", 1, "d", "champion", 100, "", "", 0)))])
    log.append([*drafts, ask.draft(Ask(ask="q", card="a", at=t_ms))])
    running = Running(predict_stage("m", ask, {features.digest: features}, means), log)
    while running.advance() is not None:
        pass
    (said,) = log.read([predictions("m")], START)[0]
    return read(said, Prediction), [read(r, DeadLetter) for r in log.read([DEAD], START, limit=10_000)[0]]


def test_what_would_overflow_is_buried_and_the_stage_goes_on() -> None:
    """A number that no sum of quanta takes goes to the dead letters with the mend; what comes after is answered."""
    space = {"total": sum(paid.amount), "n": count(paid.amount)}
    amounts = [4e12, 2.0**42, -(2.0**42), 1.0]
    drafts = [event(n, T0_MS, amount) for n, amount in enumerate(amounts)]
    said, dead = served(compile(list(space.values()), ask, space), drafts, T0_MS)
    assert said.values == [4e12 + 1.0, 2] and said.score == 0.5
    assert [letter.code for letter in dead] == ["too_large"] * 2
    assert all("declare a larger quantum=, or exact=True" in letter.note for letter in dead)


def many(features: FeatureSet, n: int, step_ms: int) -> tuple[Prediction, list[DeadLetter]]:
    """One entity's events, a tick with each."""
    drafts = []
    for i in range(n):
        t_ms = T0_MS + i * step_ms
        drafts += [event(i, t_ms), Draft(TICKS, "", t_ms, pack(Tick(t_ms)))]
    return served(features, drafts, T0_MS + n * step_ms)


def test_growth_beyond_the_bound_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entity with more events than are held: the rest is buried, and the letter says what to declare."""
    monkeypatch.setattr(table_module, "MOST_EVENTS", MOST)
    space = {"n": count(paid, window="30d")}
    said, dead = many(compile([space["n"]], ask, space), MOST + 20, 1000)
    assert said.values == [MOST] and {letter.code for letter in dead} == {"too_many"} and len(dead) == 20
    assert "declare hop= or cap=, or a shorter window" in dead[0].note


def test_a_bound_does_not_depend_on_when_the_past_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without restarts, the same events are refused, while old ones leave the window."""
    monkeypatch.setattr(table_module, "MOST_EVENTS", MOST)
    space = {"n": count(paid, window="1d"), "newest": last(paid.amount)}
    features = compile(list(space.values()), ask, space)
    refused: list[list[int]] = []
    for restarts in (False, True):
        fold, mine = Fold(features), list[int]()
        for i in range(2_000):
            t_ms = T0_MS + i * 20 * 60_000
            one = event(i, t_ms)
            fold.tick(t_ms)
            try:
                fold.add(Record(one.topic, i, one.id, one.key, one.time_ms, one.value))
            except Exception:
                mine.append(i)
            if restarts and i % 97 == 0:
                fold = Fold.load(features, fold.dump())
        refused.append(mine)
    assert refused[0] == refused[1] and 10 < len(refused[0]) < 1_500


@pytest.mark.parametrize("declared", [{"hop": "1h"}, {"cap": 50}])
def test_declared_bounds_go_on_for_ever(declared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hop or a cap nothing is refused, and the state stops growing."""
    monkeypatch.setattr(table_module, "MOST_EVENTS", MOST)
    space = {"n": count(paid, window="30d", **declared), "most": max(paid.amount, window="30d", **declared)}
    features = compile(list(space.values()), ask, space)
    fold, sizes = Fold(features), list[tuple[int, int]]()
    for i in range(12_000):
        t_ms = T0_MS + i * 30 * 60_000
        one = event(i, t_ms)
        fold.tick(t_ms)
        fold.add(Record(one.topic, i, one.id, one.key, one.time_ms, one.value))
        if i % 3_000 == 2_999:
            data = fold.dump()
            sizes.append((sum_(fold.sizes()), len(data)))
            fold = Fold.load(features, data)
    assert sizes[-1][0] <= 2 * (30 * 24 + 48 * 2 + 8) and sizes[-1][1] < sizes[1][1] * 1.05
    assert not fold.dropped


def sum_(sizes: dict[str, int]) -> int:
    """How many are held in all."""
    held = 0
    for n in sizes.values():
        held += n
    return held


def test_without_a_bound_it_would_have_grown() -> None:
    """The same run over all history of the greatest grows with each event: the check above can fail."""
    space = {"most": max(paid.amount)}
    fold = Fold(compile([space["most"]], ask, space))
    for i in range(3_000):
        one = event(i, T0_MS + i * HOUR_MS)
        fold.tick(one.time_ms)
        fold.add(Record(one.topic, i, one.id, one.key, one.time_ms, one.value))
    assert sum_(fold.sizes()) == 3_000
