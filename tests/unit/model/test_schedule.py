"""model: when to train: first, by period, by labels, on an alert, because a person asks; one at a time."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.model.schedule import Every, Schedule, every, train_stage
from penstock.record.codec import pack, unpack
from penstock.record.decisions import (
    ALERTS,
    DECISIONS,
    FAILURES,
    INTENTS,
    RELEASES,
    TICKS,
    VERSIONS,
    Alert,
    Dataset,
    Decision,
    Failure,
    Intent,
    Outcome,
    Profile,
    Release,
    Tick,
    Version,
    outcomes,
)
from penstock.record.errors import DefinitionError
from penstock.record.record import START, Record

DATA = Dataset("t", 0, 1, START, 1, 1, "d")
DAY_MS = 86_400_000


class Plan:
    """Feeds the stage records, keeps the intents."""

    def __init__(self, plan: Every, **params: Any) -> None:
        self.stage = train_stage("m", plan, params, 7)
        self.state: Schedule = self.stage.empty()
        self.place = 0
        self.intents: list[Intent] = []
        self.alerts: list[Alert] = []

    def feed(self, topic: str, value: Any, key: str = "m") -> None:
        """One record."""
        self.state, made = self.stage.step_many(
            self.state, [Record(topic, self.place, "", key, 0, pack(value))]
        )
        self.place += 1
        self.intents += [unpack(one.value, Intent) for _, one in made if one.topic == INTENTS]
        self.alerts += [unpack(one.value, Alert) for _, one in made if one.topic == ALERTS]

    def labels(self, n: int) -> None:
        """Outcomes with a label."""
        for i in range(n):
            self.feed(outcomes("m"), Outcome("m", str(i), "e", 0, 0, 0, "observed", 1.0, []), str(i))

    def tick(self, day: float) -> None:
        """Time goes on."""
        self.feed(TICKS, Tick(round(day * DAY_MS)), "")

    def trained(self, **params: Any) -> None:
        """The newest intent's version."""
        one = self.intents[-1]
        given = {**one.params, **params}
        version = Version(
            "m",
            one.version,
            "d",
            one.id,
            "",
            0,
            DATA,
            DATA,
            "f",
            [],
            "c",
            "e",
            given,
            7,
            1,
            {},
            Profile(0, {}),
            "",
        )
        self.feed(VERSIONS, version)


def test_the_first_training_waits_for_labels() -> None:
    """And sees the log below the tick that called it; outcomes without a label do not count."""
    plan = Plan(every("7d", at_least=10), depth=3)
    plan.labels(9)
    plan.feed(outcomes("m"), Outcome("m", "x", "e", 0, 0, 0, "expired", None, []), "x")
    plan.tick(1)
    assert plan.intents == []
    plan.labels(1)
    plan.tick(2)
    (one,) = plan.intents
    assert (one.version, one.seed, one.params, one.o.n) == (1, 7, {"depth": 3}, plan.place - 1)


def test_a_period_is_kept_and_one_trains_at_a_time() -> None:
    """Nothing new before the running one has its version, or its failure."""
    plan = Plan(every("7d", at_least=1))
    plan.labels(5)
    plan.tick(1)
    plan.tick(9)
    assert len(plan.intents) == 1
    plan.trained()
    plan.tick(9.5)
    assert len(plan.intents) == 2 and plan.intents[1].reason == "the period is over"
    plan.feed(FAILURES, Failure(plan.intents[1].id, "m", 2, 0, "fit_failed", ""))
    plan.tick(12)
    assert len(plan.intents) == 2
    plan.tick(17)
    assert plan.intents[2].version == 3


def test_until_there_is_a_version_twice_the_labels_are_reason_enough() -> None:
    """The first labels may all be of one class: who waited for the period then would wait for long. A version ends it;
    labels alone are no reason where there are none."""
    plan = Plan(every("7d", at_least=10))

    def failed() -> None:
        plan.feed(FAILURES, Failure(plan.intents[-1].id, "m", len(plan.intents), 0, "one_class", ""))

    plan.labels(10)
    plan.tick(1)
    failed()
    plan.labels(9)
    plan.tick(1.1)
    assert len(plan.intents) == 1
    plan.labels(1)
    plan.tick(1.2)
    assert [one.reason for one in plan.intents] == ["the first 10 labels", "the first 20 labels"]
    failed()
    plan.labels(20)
    plan.tick(1.3)
    assert len(plan.intents) == 3 and plan.intents[-1].version == 3
    plan.trained()
    plan.labels(100)
    plan.tick(1.4)
    assert len(plan.intents) == 3

    plan = Plan(every("7d", at_least=0))
    for day in (1.0, 1.1, 1.2):
        plan.tick(day)
        failed()
    assert len(plan.intents) == 1


def test_trainings_that_fail_raise_an_alert_and_a_version_clears_it() -> None:
    """Once, however many fail; what somebody else's training comes to is no news."""
    plan = Plan(every("7d", at_least=1))
    plan.labels(1)
    told = []
    for day, failed in ((1, True), (8, True), (15, False), (22, False), (29, True)):
        plan.tick(day)
        one = plan.intents[-1]
        plan.feed(FAILURES, Failure("other", "m", 1, 0, "died", ""))
        if failed:
            plan.feed(FAILURES, Failure(one.id, "m", one.version, 0, "died", ""))
        else:
            plan.trained()
        told.append([(alert.rule, alert.state, alert.value) for alert in plan.alerts])
        plan.alerts.clear()
    assert told == [
        [("training", "raised", 1.0)],
        [],
        [("training", "cleared", 0.0)],
        [],
        [("training", "raised", 1.0)],
    ]


def test_labels_and_alerts_call_for_it() -> None:
    """A number of new labels; a raised rule of the kind that was named, and no other."""
    plan = Plan(every(labels=20, at_least=5, on_alert="drift"))
    plan.labels(5)
    plan.tick(1)
    plan.trained()
    plan.labels(19)
    plan.tick(2)
    assert len(plan.intents) == 1
    plan.labels(1)
    plan.tick(3)
    assert plan.intents[-1].reason == "20 new labels"
    plan.trained()
    for rule, state in (("missing(x) < 1", "raised"), ("drift(x) < 1", "cleared")):
        plan.feed(ALERTS, Alert("m", rule, state, 0, 0, 0, 0, 0))  # type: ignore[arg-type]
        plan.tick(4)
    assert len(plan.intents) == 2
    plan.feed(ALERTS, Alert("m", "drift(x) < 1", "raised", 0, 0, 0, 0, 0))
    plan.tick(5)
    assert plan.intents[-1].reason.startswith("alert: drift")


def test_a_person_asks_and_the_champion_stays_what_it_is() -> None:
    """Asked parameters go over the champion's; a retraining takes the champion's own."""
    plan = Plan(every("7d", at_least=1), depth=1, rate=1)
    plan.labels(5)
    plan.tick(1)
    plan.trained()
    plan.feed(DECISIONS, Decision("m", "train", "ana", "deeper", 0, 0, {"depth": 5}))
    plan.tick(2)
    assert (
        plan.intents[-1].params == {"depth": 5, "rate": 1} and plan.intents[-1].reason == "ana asked: deeper"
    )
    plan.trained()
    plan.feed(RELEASES, Release("m", 2, "d", "champion", 100, "", "rule", 0))
    plan.tick(20)
    assert plan.intents[-1].params == {"depth": 5, "rate": 1} and plan.intents[-1].champion == 2
    plan.trained()
    plan.feed(RELEASES, Release("m", 2, "d", "rolled_back", 0, "", "rule", 0, restored=1))
    plan.tick(40)
    assert plan.intents[-1].params == {"depth": 1, "rate": 1} and plan.intents[-1].champion == 1


def test_other_models_are_not_ours() -> None:
    """Records of another model change nothing."""
    plan = Plan(every("7d", at_least=1))
    plan.feed(DECISIONS, Decision("other", "train", "ana", "", 0), "other")
    plan.labels(1)
    before = plan.state
    plan.feed(RELEASES, Release("other", 2, "d", "champion", 100, "", "rule", 0), "other")
    assert plan.state == before and before.asked is None


@pytest.mark.parametrize("wrong", [{}, {"period": "7"}, {"period": "7d", "holdout": 1.5}])
def test_a_wrong_plan_is_refused(wrong: dict[str, Any]) -> None:
    """Never, without a unit, with a holdout of everything."""
    with pytest.raises(DefinitionError):
        every(**wrong)
