"""monitor: planted faults raise and clear, steady data does neither, windows are what they say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from penstock.dataset.profile import profile
from penstock.feature import source
from penstock.monitor.rules import Rule, check_rules, drift, errors, loss, missing, rate
from penstock.monitor.stage import Spans, Watching, monitor_stage
from penstock.record.codec import moment, pack, unpack
from penstock.record.decisions import (
    RELEASES,
    TICKS,
    VERSIONS,
    Alert,
    Dataset,
    Hour,
    Outcome,
    Prediction,
    Release,
    Said,
    Tick,
    Version,
    outcomes,
    predictions,
)
from penstock.record.errors import DefinitionError
from penstock.record.event import Event, key
from penstock.record.record import START, Draft, Record

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
DATA = Dataset("t", 0, 1, START, 1, 1, "d")


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    page: str | None


ask = source(Ask, id="ask_id", time="at")


class Watch:
    """Feeds the stage requests, answers, outcomes and ticks."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.stage = monitor_stage("m", rules, ask, ["x"])
        self.state: Watching = self.stage.empty()
        self.records: list[Record] = []
        self.made: list[Draft] = []
        chance = random.Random(0)
        rows = [[chance.gauss(0, 1), chance.random()] for _ in range(500)]
        seen = profile(["x", "score"], rows)
        self.feed(
            VERSIONS,
            "m",
            Version("m", 1, "d", "i", "", 0, DATA, DATA, "f", ["x"], "c", "e", {}, 0, 1, {}, seen, ""),
        )  # fmt: skip
        self.feed(RELEASES, "m", Release("m", 1, "d", "champion", 100, "", "rule", 0))

    def feed(self, topic: str, key: str, value: Any, t_ms: int = 0) -> None:
        """One record."""
        self.records.append(Record(topic, len(self.records), "", key, t_ms, pack(value)))
        self.state, made = self.stage.step_many(self.state, self.records[-1:])
        self.made += [draft for _, draft in made]

    def asked(
        self,
        t_ms: int,
        *,
        page: str | None = "home",
        x: float = 0.0,
        score: float | None = 0.2,
        label: float | None = None,
    ) -> None:
        """A request, its answer and, where given, its outcome."""
        id = str(len(self.records))
        self.feed("ask", "w", Ask(ask_id=id, who="w", at=moment(t_ms), page=page), t_ms)
        positive = None if score is None else score >= 0.5
        made = Prediction(
            "m", 1, "d", "champion", True, id, "w", "ask", 0, t_ms, START, "f", [x], 0, score, positive
        )
        self.feed(predictions("m"), id, made, t_ms)
        if label is not None:
            said = [Said(1, "champion", True, score, positive)]
            self.feed(outcomes("m"), id, Outcome("m", id, "w", 0, t_ms, t_ms, "observed", label, said), t_ms)

    def tick(self, t_ms: int) -> None:
        """Time goes on."""
        self.feed(TICKS, "", Tick(t_ms), t_ms)

    def hours(self, hours: range, **options: Any) -> None:
        """A request a minute, each with what `options` say (a function of the chance and the minute)."""
        chance = random.Random(hours.start)
        for hour in hours:
            for minute in range(60):
                given = {name: option(chance, minute) for name, option in options.items()}
                self.asked(hour * HOUR_MS + minute * MINUTE_MS + 1, **given)
                if minute % 5 == 4:
                    self.tick(hour * HOUR_MS + (minute + 1) * MINUTE_MS)

    @property
    def alerts(self) -> list[tuple[str, str]]:
        """Rule and state of every alert."""
        return [
            (one.rule, one.state)
            for one in (unpack(d.value, Alert) for d in self.made if d.topic == "alerts")
        ]


def _normal(mean: float) -> Any:
    return lambda chance, minute: chance.gauss(mean, 1)


def _each(n: int, then: Any, otherwise: Any) -> Any:
    """One value at every n-th minute, another at the others."""
    return lambda chance, minute: then if minute % n == 0 else otherwise


FAULTS: dict[str, tuple[Rule, dict[str, Any], dict[str, Any]]] = {
    "missing": (missing("page") < 0.05, {"page": _each(1, "home", "")}, {"page": _each(5, None, "home")}),
    "feature": (missing("x") < 0.05, {"x": _normal(0)}, {"x": _each(5, None, 0.0)}),
    "rate": (rate("positive") < 0.1, {"score": _each(1, 0.2, 0.2)}, {"score": _each(5, 0.9, 0.2)}),
    "label": (rate("label") < 0.3, {"label": _each(10, 1.0, 0.0)}, {"label": _each(2, 1.0, 0.0)}),
    "errors": (errors() < 0.01, {"score": _each(1, 0.2, 0.2)}, {"score": _each(10, None, 0.2)}),
    "loss": (loss("1h") < 0.4, {"label": _each(1, 0.0, 0.0)}, {"label": _each(2, 1.0, 0.0)}),
    "drift": (drift("x", "2h", at_least=60) < 0.5, {"x": _normal(0)}, {"x": _normal(2)}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_raises_and_its_end_clears(fault: str) -> None:
    """Six steady hours say nothing, three faulty ones raise once, six steady ones clear once."""
    rule, steady, faulty = FAULTS[fault]
    watch = Watch([rule])
    watch.hours(range(1, 7), **steady)
    assert watch.alerts == []
    watch.hours(range(7, 10), **faulty)
    assert watch.alerts == [(str(rule), "raised")] and str(rule) in watch.state.raised
    watch.hours(range(10, 16), **steady)
    assert watch.alerts == [(str(rule), "raised"), (str(rule), "cleared")] and not watch.state.raised


def test_few_rows_raise_nothing() -> None:
    """A rule is judged on enough rows only."""
    watch = Watch([missing("page") < 0.05])
    for i in range(20):
        watch.asked(HOUR_MS + i, page=None)
    for hour in (1, 2, 3):
        watch.tick(hour * HOUR_MS + 30 * MINUTE_MS)
    assert watch.alerts == []


def windows(seed: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Rows and blanks that the rule saw at each judgement, and those that a count by hand gives."""
    chance, seen, asked = random.Random(seed), [], []
    watch, rule = Watch([]), missing("page", at_least=1) < -1.0
    grain_ms = 5 * MINUTE_MS
    watch.stage = monitor_stage("m", [rule], ask, ["x"])
    watch.state = watch.stage.load(watch.stage.dump(watch.state))
    by_hand, before_ms = [], 0
    for step in range(1, 200):
        for _ in range(chance.randrange(3)):
            t_ms = HOUR_MS + (step - 1) * grain_ms + chance.choice([1, grain_ms // 2, grain_ms])
            page = chance.choice([None, "home"])
            asked.append((t_ms, page is None))
            watch.asked(t_ms, page=page)
        now_ms = HOUR_MS + step * grain_ms
        watch.tick(now_ms)
        if before_ms:
            inside = [blank for t_ms, blank in asked if before_ms - HOUR_MS < t_ms <= before_ms]
            buckets = Spans(watch.state, grain_ms).between(before_ms - HOUR_MS, before_ms)
            seen.append((sum(b.requests for b in buckets), sum(b.blank.get("page", 0) for b in buckets)))
            by_hand.append((len(inside), sum(inside)))
        before_ms = now_ms
    return seen, by_hand


def test_a_window_is_what_it_says() -> None:
    """(t - window, t], to the millisecond at its edges."""
    seen, by_hand = windows(5)
    assert seen == by_hand


def test_a_window_off_by_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count by hand finds a window that is one bucket too long."""
    right = Spans.between
    monkeypatch.setattr(Spans, "between", lambda spans, a, b: right(spans, a - spans.grain_ms, b))
    seen, by_hand = windows(5)
    assert seen != by_hand


def test_hours_and_batches() -> None:
    """Each hour has its record with the right counts; batches and restarts change neither records nor bytes."""
    watch = Watch([missing("page") < 0.05])
    watch.hours(range(1, 6), label=lambda c, i: float(i % 3 == 0))
    hours = [unpack(d.value, Hour) for d in watch.made if d.topic == "m.profiles"]
    assert [(one.from_ms // HOUR_MS, one.requests, one.served) for one in hours] == [
        (n, 60, 60) for n in range(1, 5)
    ]
    assert hours[0].versions["1"]["rows"] == 60 and hours[0].versions["1"]["positives"] == 20
    whole, made = watch.stage.step_many(watch.stage.empty(), watch.records)
    assert [draft for _, draft in made] == watch.made and watch.stage.dump(whole) == watch.stage.dump(
        watch.state
    )
    half, _ = watch.stage.step_many(watch.stage.empty(), watch.records[:301])
    rest, _ = watch.stage.step_many(watch.stage.load(watch.stage.dump(half)), watch.records[301:])
    assert watch.stage.dump(rest) == watch.stage.dump(watch.state)


def test_rules_read_as_they_are_written() -> None:
    """Their text is what the user wrote; wrong ones are refused with the nearest name."""
    assert str(missing("page") < 0.05) == 'missing("page") < 0.05'
    assert str(drift("x", "7d") <= 0.25) == 'drift("x", "1w") <= 0.25'
    check_rules([missing("page") < 0.05, drift("score") < 1], ["page"])
    for wrong in (missing("pgae") < 0.05, rate("positives") < 0.1):
        with pytest.raises(DefinitionError) as caught:
            check_rules([wrong], ["page"])
        assert caught.value.where.startswith("line ") and "did you mean" in str(caught.value)
    with pytest.raises(DefinitionError):
        missing("page", "60")
    with pytest.raises(DefinitionError):
        check_rules([True], ["page"])  # type: ignore[list-item]


def test_an_alert_goes_with_its_rule() -> None:
    """When the file no longer has the rule, its alert is cleared at the next judgement."""
    watch = Watch([missing("page") < 0.05])
    watch.hours(range(1, 4), page=_each(2, None, "home"))
    assert watch.alerts == [('missing("page") < 0.05', "raised")]
    bytes_ = watch.stage.dump(watch.state)
    watch.stage = monitor_stage("m", [], ask, ["x"])
    watch.state = watch.stage.load(bytes_)
    watch.hours(range(4, 7))
    assert watch.alerts[1:] == [('missing("page") < 0.05', "cleared")] and not watch.state.raised
