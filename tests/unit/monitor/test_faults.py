"""monitor: what counts as a fault: features that vanish, another champion's cells, shadows, sure errors."""

from __future__ import annotations

import math
import random

import pytest

from penstock.monitor.rules import Rule, drift, errors, loss, missing, rate
from penstock.monitor.stage import standing
from penstock.record.decisions import Value
from tests.unit.monitor.world import HOUR_MS, T0_MS, Story, alerts, hours, learned, said, watching


def told(story: Story, *rules: Rule) -> list[tuple[str, str]]:
    """What the alerts of a story say."""
    return [(one.rule, one.state) for one in alerts(watching(*rules), story)]


def test_a_column_that_empties_for_two_hours() -> None:
    """A column empty in 8 % of the rows raises its rule once, in that time, and clears it within an hour after."""
    story = Story()
    for i in range(960):
        story.ask(i / 2, "" if 240 <= i < 480 and i % 12 == 0 else "home")
        story.tick(i / 2)
    raised, cleared = alerts(watching(missing("previous_page") < 0.05), story)
    assert (raised.state, cleared.state) == ("raised", "cleared")
    assert raised.value >= 0.05 > cleared.value and raised.rows == 120
    assert 120 < (raised.t_ms - T0_MS) / 60_000 <= 180 and 240 < (cleared.t_ms - T0_MS) / 60_000 <= 302


def test_steady_days_are_silent() -> None:
    """Five seeded days in which nothing changes raise nothing."""
    rng, story = random.Random(11), Story()
    story.version(1, learned([(rng.gauss(5, 2), rng.choice("abc"), rng.random()) for _ in range(3000)]))
    story.release(1)
    for i in range(5 * 24 * 100):
        minute, score = i * 0.6, rng.random()
        story.ask(minute, None if rng.random() < 0.01 else "home")
        story.answer(minute, score, (rng.gauss(5, 2), rng.choice("abc")))
        story.truth(minute, float(rng.random() < score), said(score))
        if i % 5 == 0:
            story.tick(minute)
    moves = [drift(name) < 0.1 for name in ("price", "country", "score")]
    rest = [missing("previous_page") < 0.08, errors() < 0.01, loss() < 0.7, rate("positive", "6h") < 0.6]
    assert told(story, *moves, *rest) == []


@pytest.mark.parametrize("price", [9.0, None, math.nan])
def test_a_feature_that_moves_or_vanishes(price: Value) -> None:
    """Other values are drift, and so are none at all, however long none has come."""
    rng, story = random.Random(12), Story()
    story.version(1, learned([(rng.gauss(5, 2), rng.choice("abc"), 0.1) for _ in range(1000)]))
    story.release(1)
    for i in range(36 * 30):
        usual = (rng.gauss(5, 2), rng.choice("abc"))
        story.answer(i * 2, 0.1, usual if i < 24 * 30 else (price, "a"))
        story.tick(i * 2)
    assert told(story, drift("price", "12h") < 0.25) == [('drift("price", "12h") < 0.25', "raised")]


def test_drift_is_against_the_champion() -> None:
    """A new champion brings its own cells: what was counted in the old one's is not judged by them."""
    story = Story()
    even, skewed = [float(i % 10) for i in range(600)], [100.0 + (i % 10 == 0) for i in range(600)]
    for version, prices in ((1, even), (2, skewed)):
        story.version(version, learned([(price, "a", 0.1) for price in prices]))
    story.release(1)
    for i in range(600):
        if i == 300:
            story.release(2)
        story.answer(i, 0.1, ((skewed if i >= 300 else even)[i], "a"))
        story.tick(i)
    assert told(story, drift("price", "6h", at_least=100) < 0.25) == []


def test_not_a_number_is_missing() -> None:
    """A request's column is missing where it is not a number, as a feature is."""
    story = Story()
    for i in range(60):
        story.ask(i, price=math.nan)
        story.answer(i, values=(1.0, None))
        story.tick(i)
    assert [text for text, _ in told(story, missing("price") < 0.5, missing("country") < 0.5)] == [
        'missing("price") < 0.5', 'missing("country") < 0.5',
    ]  # fmt: skip


def test_shadows_are_not_served() -> None:
    """Errors of answers that nobody was given raise nothing."""
    story = Story()
    for i in range(100):
        story.answer(i, 0.1)
        story.answer(i, None, served=False)
        story.tick(i)
    assert told(story, errors() < 0.05) == []


@pytest.mark.parametrize(("score", "cost"), [(0.25, -math.log(0.25)), (0.0, -math.log(1e-15))])
def test_loss_is_of_the_served_version(score: float, cost: float) -> None:
    """The mean log loss of what was served, each request once; being surely wrong costs much, not infinity."""
    story = Story()
    for i in range(40):
        story.truth(i, 1.0, said(score), said(0.99, 2, served=False))
        story.truth(i, 0.0, said(score), amends=True)
        story.truth(i, None, said(score))
        story.tick(i)
    (raised,) = alerts(watching(loss("1h") < 0.7), story)
    assert math.isclose(raised.value, cost) and raised.rows < 40


def test_standing_alerts() -> None:
    """A raised alert stands until it is cleared."""
    story, stage = Story(), watching(missing("previous_page") < 0.05)
    for i in range(240):
        story.ask(i, None if i < 60 else "home")
        story.tick(i)
    state, _ = stage.step_many(stage.empty(), story.records[:120])
    assert list(standing(state)) == ['missing("previous_page") < 0.05']
    state, _ = stage.step_many(state, story.records[120:])
    assert standing(state) == {}


def test_other_models_are_none_of_its_business() -> None:
    """A version of another model on the shared topic changes nothing."""
    story, stage = Story(), watching()
    story.version(1, learned([(1.0, "a", 0.1)]), key="other")
    state, _ = stage.step_many(stage.empty(), story.records)
    assert stage.dump(state) == stage.dump(stage.empty())


def test_an_hour_adds_up() -> None:
    """An hour's record holds what came in (from, to]; an hour in which nothing came has none."""
    story = Story()
    story.tick(0)
    for minute in (1, 30, 60):
        story.ask(minute, None if minute == 30 else "home")
        story.answer(minute, 0.9 if minute == 60 else 0.2, (float(minute), "fr"), latency_s=minute / 1000)
    story.truth(59, 1.0, said(0.8), said(0.4, 2, served=False))
    for minute in (61, 62, 190, 191):
        story.tick(minute)
    (one,) = hours(watching(), story)
    assert (one.from_ms, one.to_ms) == (T0_MS, T0_MS + HOUR_MS)
    assert (one.requests, one.served, one.positives, one.errors) == (3, 3, 1, 0)
    assert one.missing == {"previous_page": 1 / 3} and one.means["price"] == 91 / 3
    assert one.latency_p50_s == pytest.approx(0.030, rel=0.1)
    assert one.latency_p99_s == pytest.approx(0.060, rel=0.1)
    assert one.versions["1"] == {"rows": 1, "loss": -math.log(0.8), "wrong": 0, "positives": 1}
    assert one.versions["2"]["wrong"] == 1


def test_state_is_bounded() -> None:
    """A month holds no more buckets than some days."""
    story, stage = Story(), watching(missing("previous_page") < 0.05)
    for i in range(30 * 24 * 4):
        story.ask(i * 15)
        story.tick(i * 15)
    state, most = stage.empty(), 0
    for at in range(0, len(story.records), 300):
        state, _ = stage.step_many(state, story.records[at : at + 300])
        most = max(most, len(state.buckets))
    assert 24 * 4 < most <= 3 * 24 * 4
