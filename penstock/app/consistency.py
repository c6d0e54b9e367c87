"""app: the consistency stage of a model on a log, and what it has found so far."""

from __future__ import annotations

import contextlib
from functools import partial

import msgspec

from penstock.app.pipeline import File, Plan
from penstock.dataset.kept import horizon_ms
from penstock.dataset.rows import past
from penstock.feature import FeatureSet, Fold
from penstock.log import Log
from penstock.predict.consistency import Checking, Lookups, consistency_stage
from penstock.record.decisions import AGAIN, DEAD, TICKS, DeadLetter, Tick, Value, read
from penstock.record.errors import NotFound, Poison
from penstock.record.record import Draft, Position, Record
from penstock.stage import Stage, View, folded, restore, stage

KIND = "consistency"


class Buried(msgspec.Struct):
    """Where the records stand that a stage has buried."""

    places: set[int] = set()


def _buried(name: str) -> Stage[Buried]:
    def step(state: Buried, record: Record) -> tuple[Buried, list[Draft]]:
        if record.key == name:
            state.places.add(read(record, DeadLetter).o)
        return state, []

    return stage(f"buried.{name}", (DEAD,), Buried, step)


def long_ago(log: Log, name: str, features: FeatureSet, record: Record) -> list[Value]:
    """The values of a request that lies behind what the stage of this name keeps."""
    return past(log, name, features, [record])[0][1]


def refill(log: Log, name: str, features: FeatureSet, stop: int) -> Fold:
    """A feature set folded from the log's start, as the stage of this name would have."""
    fold = Fold(features)
    topics = (*features.topics, TICKS, AGAIN)
    for records, _ in folded(log, name, topics, stop=Position(n=stop)):
        for record in records:
            if record.topic == TICKS:
                fold.tick(read(record, Tick).t_ms)
                continue
            with contextlib.suppress(Poison):
                fold.add(record)
    return fold


def checked(file: File) -> list[Plan]:
    """The plans whose features are folded again."""
    return [plan for plan in file.plans.values() if plan.pipeline.consistency]


def checking(log: Log, plan: Plan, sets: dict[str, FeatureSet]) -> Stage[Checking]:
    """The stage that folds a model's features again, and compares."""
    name = f"predict.{plan.name}"
    buried = View(_buried(name), log)
    lookups = Lookups(
        partial(long_ago, log, name),
        partial(refill, log, name),
        partial(horizon_ms, log),
        lambda: buried.read().places,
    )
    return consistency_stage(plan.name, plan.pipeline.request, sets, lookups, plan.pipeline.consistency)


class Found(msgspec.Struct, frozen=True):
    """What the stage of a model has compared up to a position of the log."""

    state: Checking
    position: Position
    end: Position


def found(log: Log, plan: Plan, sets: dict[str, FeatureSet]) -> Found:
    """What the stage knows as of its position; raises NotFound where it has never run."""
    one = checking(log, plan, sets)
    checkpoint = log.stages().get(one.name)
    if checkpoint is None:
        raise NotFound(
            f"Nothing of {plan.name} was compared here yet.", code="never_ran",
            hint="`penstock up` compares by itself, unless the pipeline says consistency=0.",
        )  # fmt: skip
    return Found(restore(one, log, log.load(one.name)), checkpoint.position, log.end())
