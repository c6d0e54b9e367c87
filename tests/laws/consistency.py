"""A world in which 49 values a request are served and folded again, with one of them wrong or none: `make consistency`.

One line a figure, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock.feature import FeatureSet, Fold, compile, count, last, mean, source, std
from penstock.feature import max as greatest
from penstock.feature import min as least
from penstock.feature import sum as total
from penstock.log import Log
from penstock.log.sqlite import SqliteLog
from penstock.model.pack import Model
from penstock.predict.consistency import Checking, Lookups, consistency_stage
from penstock.predict.stage import Means, predict_stage
from penstock.record.codec import pack, unpack
from penstock.record.decisions import (
    ALERTS,
    RELEASES,
    TICKS,
    Alert,
    Prediction,
    Release,
    Tick,
    draft,
    predictions,
    read,
)
from penstock.record.errors import Refused
from penstock.record.event import Event, key, pii
from penstock.record.record import Draft, Record
from penstock.stage import Emitted, Running, Stage, every

MINUTE_MS = 60_000
WINDOWS = ("5min", "1h", "6h", "1d", "3d", "7d", "30d")
MODEL = "m"


class Paid(Event):
    card: str = key()
    shop: str = "s"
    at: int
    amount: float | None


class Ask(Event):
    ask: str
    card: str = pii(key())
    at: int


paid = source(Paid, time="at")
ask = source(Ask, id="ask", time="at")
KINDS: dict[str, Callable[..., Any]] = {
    "count": count, "sum": total, "mean": mean, "std": std, "min": least, "max": greatest, "last": last,
}  # fmt: skip
NAMED = {
    f"{name}_{window}": kind(paid.amount, window=window) for name, kind in KINDS.items() for window in WINDOWS
}
FEATURES = compile(list(NAMED.values()), ask, NAMED)


class Constant:
    """A model that says the same to all."""

    def predict(self, x: Any) -> Any:
        """A number a row."""
        return np.zeros(len(x))


def means() -> Means:
    """What the answering stage needs: one model, no history."""

    def model(digest: str) -> Model:
        return Model(FEATURES.digest, "number", ["number"] * len(FEATURES.names), Constant(), None)

    return Means(lambda digest: None, model, _past, _refill, lambda: 0.0)


def _past(features: FeatureSet, record: Record) -> list[Any]:
    raise Refused("Nothing lies so far back.")


def _refill(features: FeatureSet, stop: int) -> Fold:
    raise AssertionError("Both sets were there from the start.")


LOOKUPS = Lookups(_past, _refill, lambda features: -sys.maxsize, lambda: ())
Plant = Callable[[Stage[Any]], Stage[Any]]


def drafts(requests: int, seed: int, cards: int = 0) -> list[Draft]:
    """A release, then two payments and a request again and again; some payments late, some without an amount."""
    chance = random.Random(seed)
    cards = cards or requests // 20 + 2
    made = [draft(RELEASES, Release(MODEL, 1, "d", "champion", 100, "", "rule", 0), key=MODEL, t_ms=0)]
    for i in range(requests):
        now_ms = 40 * 86_400_000 + i * MINUTE_MS // 4
        for _ in range(2):
            late_ms = chance.choice((0, 0, 0, MINUTE_MS, 86_400_000))
            amount = None if chance.random() < 0.05 else chance.lognormvariate(3, 1)
            made.append(
                paid.draft(Paid(card=f"card-{chance.randrange(cards)}", at=now_ms - late_ms, amount=amount))
            )
        made.append(ask.draft(Ask(ask=f"ask-{i}", card=f"card-{chance.randrange(cards)}", at=now_ms)))
        if i % 100 == 99:
            made.append(draft(TICKS, Tick(now_ms), key="", t_ms=now_ms))
    return made


def checking(share: float = 1.0) -> Stage[Checking]:
    """The stage under test."""
    return consistency_stage(MODEL, ask, {FEATURES.digest: FEATURES}, LOOKUPS, share)


def answering(plant: Plant = lambda one: one) -> Stage[Any]:
    """The stage that serves, with whatever is planted in it."""
    return plant(predict_stage(MODEL, ask, {FEATURES.digest: FEATURES}, means()))


def play(
    log: Log, history: Sequence[Draft], plant: Plant, check: Stage[Checking], lives: int = 3
) -> Running[Checking]:
    """Play a history in some lives: after each, both stages begin again from their checkpoints."""
    step = len(history) // lives + 1
    for begin in range(0, max(1, len(history)), step):
        serve, again = Running(answering(plant), log), Running(check, log)
        for at in range(begin, begin + step, 500):
            log.append(history[at : min(at + 500, begin + step)], sync=False)
            while serve.advance() is not None:
                pass
            while again.advance() is not None:
                pass
        serve.save()
        again.save()
    return again


def altered(numbers: int | range, feature: str, change: Callable[[Any], Any]) -> Plant:
    """A plant that changes one value of the predictions for some requests, after it was worked out right."""
    at = FEATURES.names.index(feature)
    wrong = {f"ask-{number}" for number in ([numbers] if isinstance(numbers, int) else numbers)}

    def changed(one: Emitted) -> Emitted:
        record, made = one
        said = unpack(made.value, Prediction)
        if said.request not in wrong:
            return one
        values = [change(value) if i == at else value for i, value in enumerate(said.values)]
        return record, msgspec.structs.replace(made, value=pack(msgspec.structs.replace(said, values=values)))

    def plant(stage: Stage[Any]) -> Stage[Any]:
        def step_many(state: Any, records: Sequence[Record]) -> tuple[Any, list[Emitted]]:
            state, emitted = stage.step_many(state, records)
            return state, [changed(one) for one in emitted]

        return msgspec.structs.replace(stage, step_many=step_many)

    return plant


def nudged(value: Any) -> float:
    """A number wrong by one unit in the last place."""
    return math.nextafter(float(value), math.inf)


def chosen(log: Log, feature: str, from_number: int, kind: type = float) -> tuple[int, int]:
    """A request, from a number on, that was served a value of a kind for a feature: its number, its place."""
    at = FEATURES.names.index(feature)
    for record in every(log, [predictions(MODEL)]):
        said = read(record, Prediction)
        number = int(said.request.partition("-")[2])
        if number >= from_number and isinstance(said.values[at], kind):
            return number, said.position
    raise AssertionError("No such request.")


def alerts(log: Log) -> list[Alert]:
    """Every alert that was raised."""
    found = [read(record, Alert) for record in every(log, [ALERTS])]
    return [one for one in found if one.state == "raised"]


def told(feature: str, window: str, place: int, key: str = "•••") -> str:
    """What the alert of one wrong value says."""
    return f"consistency: {feature} over {window} of card {key} at ask@{place}"


def main() -> int:
    """The long form: a million values without a wrong one, then with one. Says what it found and what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_500)
    parser.add_argument("--seed", type=int, default=4)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    history = drafts(given.requests, given.seed)
    values = given.requests * len(FEATURES.names)
    with tempfile.TemporaryDirectory() as folder:
        clean = SqliteLog(Path(folder) / "clean", create=True)
        began = time.perf_counter()
        end = play(clean, history, lambda one: one, checking()).state
        taken_s = time.perf_counter() - began
        number, place = chosen(clean, "mean_1h", given.requests // 2)
        silent = alerts(clean)
        clean.close()
        planted = SqliteLog(Path(folder) / "planted", create=True)
        found = play(planted, history, altered(number, "mean_1h", nudged), checking()).state
        raised = alerts(planted)
        planted.close()
    compared = _values(end)
    named = [one.rule for one in raised] == [told("mean_1h", "1h", place)]
    print(
        f"planted in request {number}: {', '.join(one.rule for one in raised)}; the whole run {taken_s:.1f} s"
    )
    wrong = {name: one.unequal for name, one in found.sets[FEATURES.digest].features.items()}
    figures = [
        ("values_compared", compared, f">= {values}", compared >= values),
        ("alerts_without_a_plant", len(silent), "0", not silent),
        ("alerts_of_one_wrong_bit", len(raised), "1", len(raised) == 1),
        ("key_place_feature_and_window_named", int(named), "1", named),
        ("unequal_values_reported", len(wrong), "1", wrong == {"mean_1h": 1}),
    ]
    for name, value, target, ok in figures:
        print(f"{name} {value} {target} {'ok' if ok else 'short'}")
    return int(not all(ok for *_, ok in figures))


def _values(state: Checking) -> int:
    return sum(one.vectors * len(one.names) for one in state.sets.values())


if __name__ == "__main__":
    sys.exit(main())
