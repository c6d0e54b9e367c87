"""The consistency stage finds one wrong value among many, and nothing else; through restarts, in bounded words."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from penstock.feature import FeatureSet, Fold, compile
from penstock.log import Commit
from penstock.log.memory import MemoryLog
from penstock.predict import consistency
from penstock.predict.consistency import Differences, quantile, report, sampled
from penstock.predict.consistency import _differ as differ
from penstock.predict.refold import Refold
from penstock.record.codec import unpack
from penstock.record.decisions import ALERTS, TICKS, Alert, Tick, draft, read
from penstock.record.record import Record
from penstock.stage import Stage, every, replay
from tests.laws import consistency as world
from tests.laws.consistency import FEATURES, alerts, altered, chosen, drafts, play, told

REQUESTS = 410
"""Times 49 values: some 20,000."""
HISTORY = drafts(REQUESTS, 4)
Change = Callable[[Any], Any]


def played(plant: world.Plant = lambda one: one, share: float = 1.0) -> tuple[MemoryLog, Any]:
    """A log on which all was served and compared, in three lives, and the stage's state."""
    log = MemoryLog()
    return log, play(log, HISTORY, plant, world.checking(share)).state


@pytest.fixture(scope="module")
def clean() -> tuple[MemoryLog, Any]:
    """Nothing planted."""
    return played()


def test_it_is_silent_where_all_is_right(clean: tuple[MemoryLog, Any]) -> None:
    """Every value is compared and equal, no word is said."""
    log, state = clean
    lines = report(state)
    assert alerts(log) == [] and state.left_out == {}
    assert {(one.name, one.compared, one.equal) for one in lines} == {
        (n, REQUESTS, REQUESTS) for n in FEATURES.names
    }


CHANGES: dict[str, tuple[Change, tuple[int, int, int]]] = {
    "one bit": (world.nudged, (0, 0, 1)),
    "null": (lambda value: None, (1, 0, 0)),
    "nan": (lambda value: math.nan, (0, 0, 1)),
    "a text": (str, (0, 0, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_wrong_value_is_one_alert(change: str, clean: tuple[MemoryLog, Any]) -> None:
    """Of 20,000 values one is wrong: the alert names feature, window, key (masked) and place; the report counts it."""
    wrong, (left, right, mismatch) = CHANGES[change]
    number, place = chosen(clean[0], "mean_1h", REQUESTS // 2)
    log, state = played(altered(number, "mean_1h", wrong))
    (one,) = alerts(log)
    assert one.rule == told("mean_1h", "1h", place) and one.state == "raised" and one.window_ms == 3_600_000
    (line,) = [line for line in report(state) if line.equal < line.compared]
    assert (line.name, line.compared - line.equal) == ("mean_1h", 1)
    assert (line.left_null, line.right_null, line.mismatch) == (left, right, mismatch)


def test_one_and_one_as_a_float_differ(clean: tuple[MemoryLog, Any]) -> None:
    """Values are compared in type, too; a difference of nothing lies in a cell of its own."""
    number, place = chosen(clean[0], "mean_1h", 9)
    log, state = played(altered(number, "count_1h", float))
    assert [one.rule for one in alerts(log)] == [told("count_1h", "1h", place)]
    (line,) = [line for line in report(state) if line.mismatch]
    assert (line.p50, line.largest) == (0.0, 0.0)


def test_a_fold_that_missed_an_event_is_found() -> None:
    """A payment that the serving fold has lost shows at the requests of its card, and at no other's."""
    lost = next(
        i for i, one in enumerate(HISTORY) if one.topic == "paid" and unpack(one.value, world.Paid).amount
    )
    card = HISTORY[lost].key

    def plant(stage: Stage[Any]) -> Stage[Any]:
        def step_many(state: Any, records: Sequence[Record]) -> Any:
            whole = [one for one in records if one.value != HISTORY[lost].value or one.topic != "paid"]
            return stage.step_many(state, whole)

        return msgspec.structs.replace(stage, step_many=step_many)

    log, state = played(plant)
    asked = {record.position: record.key for record in every(log, ["ask"])}
    places = {int(one.rule.rpartition("@")[2]) for one in alerts(log) if "@" in one.rule}
    assert places and {asked[place] for place in places} == {card}
    unequal = [line.left_null + line.right_null + line.mismatch for line in report(state)]
    assert sum(unequal) >= len(alerts(log)) and max(unequal) < REQUESTS / 10


def test_a_damaged_state_is_found() -> None:
    """The answering stage begins again from a state with one wrong number in it: the other folds tell it apart."""
    log = MemoryLog()
    half = len(HISTORY) // 2
    play(log, HISTORY[:half], lambda one: one, world.checking(), lives=1)
    kept = log.load("predict.m", claim=True)
    assert kept.state is not None and alerts(log) == []
    amounts = [unpack(one.value, world.Paid).amount for one in HISTORY[:half] if one.topic == "paid"]
    forms = [(struct.pack(f"{order}d", amount), order) for amount in amounts if amount for order in "<>"]
    old, order = next((form, order) for form, order in forms if kept.state.count(form) == 1)
    (amount,) = struct.unpack(f"{order}d", old)
    damaged = kept.state.replace(old, struct.pack(f"{order}d", amount + 1000))
    log.commit(Commit("predict.m", kept.epoch, kept.position, [], damaged))
    state = play(log, HISTORY[half:], lambda one: one, world.checking(), lives=1).state
    assert alerts(log) and any(line.mismatch for line in report(state))


def test_both_nulls_are_told_apart(clean: tuple[MemoryLog, Any]) -> None:
    """Null where there is a value, and a value where there is none, are counted by their side."""
    number, place = chosen(clean[0], "std_5min", 9, type(None))
    log, state = played(altered(number, "std_5min", lambda value: 0.5))
    assert [one.rule for one in alerts(log)] == [told("std_5min", "5min", place)]
    (line,) = [line for line in report(state) if line.equal < line.compared]
    assert (line.left_null, line.right_null, line.mismatch, line.largest) == (0, 1, 0, None)


def test_many_are_told_in_few_words() -> None:
    """Ten between two ticks have an alert each, the others one that says how many, and no more than some stand."""

    log, state = played(altered(range(100, 160), "sum_30d", world.nudged))
    later_ms = state.now_ms + consistency.MORE_MS
    log.append([draft(TICKS, Tick(later_ms), key="", t_ms=later_ms)])
    state = play(log, [], lambda one: one, world.checking()).state
    ticks = {record.position for record in every(log, [TICKS])}
    alone = [record for record in every(log, [ALERTS]) if "@" in read(record, Alert).rule]
    places = [int(record.id.split(":")[2]) for record in alone]
    between = [sum(a < place < b for place in places) for a, b in pairwise([0, *sorted(ticks)])]
    further = [one.value for one in alerts(log) if one.rule == "consistency: further unequal values"]
    assert max(between) == consistency.TOLD and len(alone) + sum(further) == 60 and state.more == 0
    assert {line.name: line.mismatch for line in report(state) if line.mismatch} == {"sum_30d": 60}


def test_no_more_than_some_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as many stand as may, the next are counted; what is said stays bounded however long it goes on."""
    monkeypatch.setattr(consistency, "STANDING", 3)
    log, state = played(altered(range(50, 400), "sum_30d", world.nudged))
    assert sum("@" in one.rule for one in alerts(log)) == 3 and len(state.standing) <= 4
    assert sum(one.value for one in alerts(log)) + state.more == 350


def test_an_alert_clears_after_a_day(clean: tuple[MemoryLog, Any]) -> None:
    """It stands for a day of ticks, and is cleared once; the report remembers."""
    number, place = chosen(clean[0], "mean_1h", 150)
    log, state = played(altered(number, "mean_1h", world.nudged))
    raised = alerts(log)[0].t_ms
    assert list(state.standing) == [told("mean_1h", "1h", place)]
    for t_ms in (raised + consistency.CLEARED_MS - 1, raised + consistency.CLEARED_MS, raised + 10**9):
        log.append([draft(TICKS, Tick(t_ms), key="", t_ms=t_ms)])
    state = play(log, [], lambda one: one, world.checking(), lives=1).state
    said = [read(record, Alert) for record in every(log, [ALERTS])]
    assert [(one.state, one.t_ms - raised) for one in said] == [
        ("raised", 0),
        ("cleared", consistency.CLEARED_MS),
    ]
    assert state.standing == {} and sum(line.mismatch for line in report(state)) == 1


def test_restarts_and_batches_change_nothing(clean: tuple[MemoryLog, Any]) -> None:
    """The state of three lives is that of one fold from the start, however the records were cut into batches."""
    number, _ = chosen(clean[0], "mean_1h", 200)
    log, state = played(altered(number, "mean_1h", world.nudged))
    stage = world.checking()
    assert stage.dump(replay(stage, log)) == stage.dump(state)
    records = list(every(log, stage.inputs))
    for size in (1, 7, 10**6):
        other = stage.empty()
        for begin in range(0, len(records), size):
            other, _ = stage.step_many(other, records[begin : begin + size])
        assert stage.dump(other) == stage.dump(state)
    assert stage.dump(stage.load(stage.dump(state))) == stage.dump(state)


def test_a_sample_is_of_keys(clean: tuple[MemoryLog, Any]) -> None:
    """Always the same keys, more of them in a larger share; a wrong value of another key is not looked at."""
    keys = [f"card-{i}" for i in range(2000)]
    some, more = ({key for key in keys if sampled("m", share)(key)} for share in (0.2, 0.5))
    assert some < more and 300 < len(some) < 500 and 900 < len(more) < 1100
    assert all(sampled("m", 1.0)(key) for key in keys)
    asked = {int(one.id.partition("-")[2]): one.key for one in HISTORY if one.topic == "ask"}
    for inside in (True, False):
        number = next(n for n in asked if n > 50 and sampled("m", 0.5)(asked[n]) == inside)
        log, state = played(altered(number, "sum_30d", world.nudged), 0.5)
        assert len(alerts(log)) == inside
        compared = state.sets[FEATURES.digest].vectors
        assert compared + state.left_out["not in the sample"] == REQUESTS and compared > 100


def test_quantiles_are_an_eighth_too_high_at_most() -> None:
    """The sizes of differences are kept in cells: a quantile is never below the true one, and close above it."""
    chance = random.Random(1)
    sizes, one = [], Differences()
    for _ in range(2000):
        sizes.append(chance.lognormvariate(0, 8))
        differ(one, 0.0, sizes[-1])
    for share in (0.5, 0.9, 0.99, 1.0):
        true = sorted(sizes)[math.ceil(share * len(sizes)) - 1]
        found = quantile(one, share)
        assert found is not None and true <= found <= true * 1.125
    assert one.largest == max(sizes) and quantile(Differences(), 0.5) is None
    assert len(one.sizes) < 8 * 2100


def test_a_sample_folds_its_own_keys_only(clean: tuple[MemoryLog, Any]) -> None:
    """What only other keys can see is not folded; where another key may see it, all of it is."""
    _, state = played(share=0.5)
    (fold,) = state.reading.folds.values()
    (whole,) = clean[1].reading.folds.values()
    cards = {card for table in fold.tables for card in table.series}
    assert cards == {card for table in whole.tables for card in table.series if sampled("m", 0.5)(card)}
    assert 0 < len(cards) < len(whole.tables[0].series) and all(
        line.equal == line.compared for line in report(state)
    )
    by_shop = {"seen": world.count(world.paid, window="1h", entity=("shop", "card"))}
    features = compile(list(by_shop.values()), world.ask, by_shop)
    assert Refold("m", world.ask, {"d": features}, world._past).alone == {"ask"}
    assert Refold("m", world.ask, {FEATURES.digest: FEATURES}, world._past).alone == {"ask", "paid"}


def test_a_larger_sample_is_folded_from_the_start() -> None:
    """A state that has left keys out is not gone on from where they are looked at: all is folded again."""
    log = MemoryLog()
    half = len(HISTORY) // 2
    play(log, HISTORY[:half], lambda one: one, world.checking(0.3), lives=1)
    asked: list[int] = []

    def refill(features: FeatureSet, stop: int) -> Fold:
        asked.append(stop)
        fold = Fold(features)
        for record in every(log, ["paid", TICKS]):
            if record.position < stop:
                fold.tick(read(record, Tick).t_ms) if record.topic == TICKS else fold.add(record)
        return fold

    lookups = msgspec.structs.replace(world.LOOKUPS, refill=refill)
    wider = consistency.consistency_stage("m", world.ask, {FEATURES.digest: FEATURES}, lookups, 1.0)
    state = play(log, HISTORY[half:], lambda one: one, wider, lives=1).state
    assert len(asked) == 1 and alerts(log) == []
    assert all(line.equal == line.compared for line in report(state))
    narrower = consistency.consistency_stage("m", world.ask, {FEATURES.digest: FEATURES}, lookups, 0.1)
    narrower.load(wider.dump(state))
    assert len(asked) == 1
