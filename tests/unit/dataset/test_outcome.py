"""dataset: truth joins what was said: in time, late, never, and for nobody."""

from __future__ import annotations

import gc
from datetime import datetime
from typing import Any

import pytest

from penstock.dataset import outcome
from penstock.dataset.outcome import Joining, Label, outcome_stage
from penstock.feature import source
from penstock.record.codec import moment, pack, unpack
from penstock.record.decisions import (
    DEAD,
    REFUSED,
    TICKS,
    DeadLetter,
    Outcome,
    Prediction,
    Refusal,
    Tick,
    Vector,
    predictions,
)
from penstock.record.event import Event, key
from penstock.record.record import START, Draft, Record

HOUR_MS = 3_600_000


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime


class Truth(Event):
    ask_id: str = key()
    at: datetime
    value: float | None


ask = source(Ask, id="ask_id", time="at")
truth = source(Truth)


class Join:
    """Feeds the stage records in order."""

    def __init__(self, silence: float | None = None) -> None:
        self.stage = outcome_stage("m", ask, Label(truth, lambda event: event.value, 10 * HOUR_MS, silence))  # type: ignore[attr-defined]
        self.state: Joining = self.stage.empty()
        self.records: list[Record] = []
        self.made: list[Draft] = []

    def feed(self, topic: str, key: str, t_ms: int, value: Any, id: str = "") -> None:
        """One record."""
        self.records.append(Record(topic, len(self.records), id, key, t_ms, pack(value)))
        self.state, made = self.stage.step_many(self.state, self.records[-1:])
        self.made += [draft for _, draft in made]

    def ask(self, id: str, hour: float) -> None:
        """A request and the champion's answer."""
        t_ms = round(hour * HOUR_MS)
        self.feed("ask", "w", t_ms, Ask(ask_id=id, who="w", at=moment(t_ms)), id)
        said = Prediction(
            "m", 1, "d", "champion", True, id, "w", "ask", 0, t_ms, START, "f", [], 0, 0.7, True
        )
        self.feed(predictions("m"), id, t_ms, said)

    def truth(self, id: str, hour: float, value: float | None) -> None:
        """A label."""
        t_ms = round(hour * HOUR_MS)
        self.feed("truth", id, t_ms, Truth(ask_id=id, at=moment(t_ms), value=value))

    def ticks(self, *hours: float) -> None:
        """Time goes on."""
        for hour in hours:
            self.feed(TICKS, "", round(hour * HOUR_MS), Tick(round(hour * HOUR_MS)))

    @property
    def told(self) -> list[tuple[str, str, float | None, bool]]:
        """The outcomes: request, state, label, whether it amends."""
        found = [unpack(one.value, Outcome) for one in self.made if one.topic == "m.outcomes"]
        return [(one.request, one.state, one.label, one.amends) for one in found]


def test_a_label_in_time_is_observed() -> None:
    """Joined with what was said, once the answers must be on the log."""
    join = Join()
    join.ask("a", 0.1)
    join.truth("a", 0.5, 1.0)
    join.ticks(1)
    assert join.told == []
    join.ticks(2)
    assert join.told == [("a", "observed", 1.0, False)]
    assert unpack(join.made[0].value, Outcome).said[0].score == 0.7


def test_silence_expires() -> None:
    """A label that does not come within the wait is no label, or the one that silence means."""
    for silence in (None, 0.0):
        join = Join(silence)
        join.ask("a", 0.1)
        join.ticks(1, 5, 10)
        assert join.told == []
        join.ticks(11)
        assert join.told == [("a", "expired", silence, False)]


def test_a_late_label_amends() -> None:
    """After the wait the truth still replaces the expired outcome; a changed truth replaces the one before."""
    join = Join(0.0)
    join.ask("a", 0.1)
    join.ticks(5, 11)
    join.truth("a", 12, 1.0)
    join.ticks(13)
    join.truth("a", 14, 1.0)
    join.ticks(15)
    join.truth("a", 16, 0.0)
    join.ticks(17)
    assert join.told == [
        ("a", "expired", 0.0, False),
        ("a", "observed", 1.0, True),
        ("a", "observed", 0.0, True),
    ]


def test_a_label_may_come_first() -> None:
    """A label before its request waits for it; one for nobody is refused by record after its wait."""
    join = Join()
    join.truth("a", 0.0, 1.0)
    join.truth("stranger", 0.0, 1.0)
    join.ask("a", 0.2)
    join.ticks(1, 2, 11)
    assert join.told[0] == ("a", "observed", 1.0, False)
    refused = [unpack(one.value, Refusal) for one in join.made if one.topic == REFUSED]
    assert [one.code for one in refused] == ["label_unknown"] and "stranger" not in refused[0].note


def test_a_jump_of_time_forgets_nobody() -> None:
    """A tick beyond both waits at once still says that the label did not come."""
    join = Join(0.0)
    join.ask("a", 0.1)
    join.ticks(500)
    assert join.told == [("a", "expired", 0.0, False)] and join.state.waiting == {}


def test_labels_that_contradict() -> None:
    """Before the request the newer one stands, for its own wait; one that says nothing new is counted."""
    join = Join()
    join.truth("a", 0.0, 1.0)
    join.truth("a", 5.0, 0.0)
    join.truth("never", 0.0, 1.0)
    join.truth("never", 5.0, 1.0)
    join.ticks(11)
    assert join.state.unknown == 0
    join.ask("a", 11.5)
    join.truth("a", 11.6, 0.0)
    join.ticks(12, 13, 16)
    assert join.told == [("a", "observed", 0.0, False)]
    assert (join.state.unknown, join.state.repeated, join.state.parked) == (1, 3, {})


def test_a_label_that_is_none_is_buried() -> None:
    """A value of another shape, or one on which the user's function raises, costs that label only."""
    join = Join()
    join.ask("a", 0.1)
    join.feed("truth", "a", HOUR_MS, {"value": "text"})
    join.stage = outcome_stage("m", ask, Label(truth, lambda event: 1 / 0, 10 * HOUR_MS))
    join.truth("a", 1.0, 1.0)
    dead = [unpack(one.value, DeadLetter) for one in join.made if one.topic == DEAD]
    assert [(one.code, one.position) for one in dead] == [("wrong_type", 2), ("label_failed", 3)]
    assert "ZeroDivisionError" in dead[1].note and join.state.known == []


def test_nothing_is_kept_for_ever() -> None:
    """Two waits after its request all that was known of it is forgotten."""
    join = Join()
    for i in range(50):
        join.ask(f"a{i}", i / 10)
    join.ticks(6, 11, 16, 30)
    assert join.state.waiting == {} and join.state.due == [] and len(join.told) == 50


def test_batches_and_restarts_change_nothing() -> None:
    """All at once, or written and read in the middle: the same outcomes and the same bytes."""
    join = Join(0.0)
    for i in range(30):
        join.ask(f"a{i}", i / 3)
        if i % 3:
            join.truth(f"a{i - 1}", i / 3, float(i % 2))
        join.ticks(i / 3)
    join.ticks(12, 20)
    whole, made = join.stage.step_many(join.stage.empty(), join.records)
    assert [draft for _, draft in made] == join.made
    assert join.stage.dump(whole) == join.stage.dump(join.state)
    half, first = join.stage.step_many(join.stage.empty(), join.records[:60])
    rest, second = join.stage.step_many(join.stage.load(join.stage.dump(half)), join.records[60:])
    assert [draft for _, draft in [*first, *second]] == join.made
    assert join.stage.dump(rest) == join.stage.dump(join.state)


def test_what_was_scored_again_is_said_once() -> None:
    """Its score takes the place of the answer without one; the vector that asked again is no request of its own."""
    join = Join(silence=0.0)
    join.ask("a", 0)
    join.feed("m.vectors", "w", 0, Vector([1.0], "a"), "again:ask:0")
    said = Prediction(
        "m", 1, "d", "champion", True, "a", "w", "m.vectors", 2, 0, START, "f", [], 2, 0.9, True
    )
    join.feed(predictions("m"), "a", 0, said)
    join.ticks(*range(1, 30))
    assert [one[:2] for one in join.told] == [("a", "expired")]
    (outcome,) = (unpack(made.value, Outcome) for made in join.made)
    assert [one.score for one in outcome.said] == [0.9]


def test_a_state_is_in_order_before_it_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packer's own sort takes minutes for a million ids that came in order but for a few, as they do."""
    join = Join()
    for id in ("b", "word", "a", "c"):
        join.ask(id, 0.1)
        join.truth(f"for nobody {id}", 0.1, 1.0)
    assert join.stage.dump(join.state) == pack(join.state)
    packed: list[Joining] = []
    monkeypatch.setattr(outcome, "pack", lambda state: packed.append(state) or b"")
    join.stage.dump(join.state)
    assert list(packed[0].waiting) == ["a", "b", "c", "word"]
    assert list(packed[0].parked) == [f"for nobody {id}" for id in ("a", "b", "c", "word")]


def test_pythons_collector_has_nothing_to_look_at_in_what_waits() -> None:
    """Hundreds of thousands may wait: the collector holds up all threads for as long as it looks at them."""
    join = Join()
    for n in range(200):
        join.ask(f"a{n}", 0.1)
    loaded = join.stage.load(join.stage.dump(join.state))
    gc.collect()
    for state in (join.state, loaded):
        held = [
            state.waiting,
            *state.waiting.values(),
            *(one.said for one in state.waiting.values()),
            *state.due,
        ]
        assert len(held) == 1 + 3 * 200
        assert not any(map(gc.is_tracked, held))
