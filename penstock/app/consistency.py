"""app: the consistency stage of a model on a log, and what it has found so far."""

from __future__ import annotations

import contextlib
from functools import partial

import msgspec

from penstock.app.pipeline import File, Plan
from penstock.dataset.kept import horizon_ms
from penstock.dataset.rows import past
from penstock.feature import FeatureSet, Fold
from penstock.log import Checkpoint, Commit, Log
from penstock.predict.consistency import Checking, Lookups, consistency_stage, peek
from penstock.record.decisions import AGAIN, DEAD, RELEASES, TICKS, DeadLetter, Tick, Value, read
from penstock.record.errors import NotFound, Poison
from penstock.record.record import START, Draft, Position, Record
from penstock.stage import AnyStage, Stage, View, every, folded, restore, stage

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


def passed_by(one: AnyStage, log: Log, at: Checkpoint) -> bool:
    """Whether retention took records that the stage would still have to read: it is new here, or was off."""
    first = max(log.first(topic).n for topic in one.inputs)
    return at.position.n < first or START.n < at.state_position.n < first


def begin_again(one: Stage[Checking], log: Log) -> None:
    """Let the stage go on from the log's end, with folds made anew; what it had compared it remembers."""
    before, end = log.load(one.name, claim=True), log.end()
    route = [record for record in every(log, [RELEASES]) if end.covers(record)]
    state, _ = one.step_many(one.empty(), route)
    state.reading.folds, state.seen = {}, end.n
    if before.state:
        state.sets = peek(before.state)
    log.commit(Commit(one.name, before.epoch, end, [], one.dump(one.load(one.dump(state)))), sync=False)


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
