"""app: a pipeline file on a log: every stage, in the loop's order, and the doors to append and ask.

`drain` runs the stages in one fixed order until nothing is new, so that a replayed run ends in the
same log however often it was killed. `app.live` runs the same stages on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import threadpoolctl

from penstock.app.pipeline import File, Plan, load_text
from penstock.app.train import Order
from penstock.dataset.outcome import outcome_stage
from penstock.dataset.rows import past
from penstock.feature import FeatureSet, Fold
from penstock.gate.stage import gate_stage
from penstock.log import Blob, Log
from penstock.log.crash import Point, point
from penstock.model.pack import Model, load
from penstock.model.schedule import train_stage
from penstock.monitor.stage import monitor_stage
from penstock.predict.stage import Means, predict_stage
from penstock.record.decisions import (
    DECISIONS,
    DEPLOYMENTS,
    FAILURES,
    INTENTS,
    REFUSED,
    TICKS,
    VERSIONS,
    Decision,
    Deployment,
    Failure,
    Intent,
    Prediction,
    Refusal,
    Tick,
    Value,
    Version,
    draft,
    predictions,
    read,
)
from penstock.record.errors import NotFound, PenstockError, Refused
from penstock.record.event import unknown
from penstock.record.record import START, Draft, Position, Record, output_id
from penstock.release.registry import registry
from penstock.release.route import Ref
from penstock.release.stage import release_stage
from penstock.stage import AnyStage, Running, View, stage

Clock = Callable[[], float]
Trainer = Callable[[Order], Version | Failure]


class Report(msgspec.Struct, frozen=True):
    """What became of rows that were appended: how many were taken, repeated, refused, and why."""

    appended: int
    duplicates: int
    refused: dict[str, int]
    notes: list[str]
    places: list[int]


class Open(msgspec.Struct, frozen=True):
    """Intents without a result, by id."""

    intents: dict[str, Intent] = {}


def _pending(state: Open, record: Record) -> tuple[Open, list[Draft]]:
    intents = dict(state.intents)
    if record.topic == INTENTS:
        intent = read(record, Intent)
        intents[intent.id] = intent
    elif record.topic == VERSIONS:
        intents.pop(read(record, Version).intent, None)
    else:
        intents.pop(read(record, Failure).intent, None)
    return Open(intents), []


OPEN = stage("open", (INTENTS, VERSIONS, FAILURES), Open, _pending)


class Models:
    """Models by digest, loaded once, with the `predict` of the code that they were trained by."""

    def __init__(self, log: Log, blobs: Blob, plans: Mapping[str, Plan]) -> None:
        self.log, self.blobs, self.plans = log, blobs, plans
        self.loaded: dict[str, Model] = {}

    def get(self, digest: str) -> Model:
        """The model of a digest; raises NotFound or Broken when its blob is not to be had."""
        model = self.loaded.get(digest)
        if model is None:
            model = load(self.blobs.get(digest))
            plan = next((p for p in self.plans.values() if p.features.digest == model.features), None)
            if plan is not None and plan.pipeline.predict is not None:
                model = msgspec.structs.replace(model, predict=plan.pipeline.predict)
            self.loaded = {**dict(list(self.loaded.items())[-15:]), digest: model}
        return model


class System:
    """A pipeline file at work on a log. Owns its stages: one system at a time per log."""

    def __init__(
        self,
        file: File,
        log: Log,
        blobs: Blob,
        home: Path,
        clock: Clock,
        trainer: Trainer,
        *,
        sync: bool = True,
    ) -> None:
        one_thread()
        self.file, self.log, self.blobs, self.home = file, log, blobs, home
        self.clock, self.trainer, self.sync = clock, trainer, sync
        self.told: Callable[[Sequence[Draft]], None] = lambda outputs: None
        blobs.put(file.text)
        self.plans = {plan.features.digest: plan for plan in file.plans.values()}
        self.sets = {name: {plan.features.digest: plan.features} for name, plan in file.plans.items()}
        self._older_plans()
        self.models = Models(log, blobs, self.plans)
        self.predicting = [Running(self._predict(plan), log) for plan in file.plans.values()]
        self.folding = [Running(msgspec.structs.replace(one, sync=sync), log) for one in folds(file, blobs)]
        self.open = View(OPEN, log)

    def _older_plans(self) -> None:
        """A champion of an older text of the file keeps its own features until it is replaced."""
        for name, entry in registry(self.log).models.items():
            for ref in (entry.route.champion, entry.route.candidate, entry.route.previous):
                version = entry.versions[ref.version] if ref else None
                if version is None or name not in self.file.plans or version.features in self.sets[name]:
                    continue
                plan = load_text(self.blobs.get(version.code), self.file.path).plan(name)
                self.plans[plan.features.digest] = plan
                self.sets[name][plan.features.digest] = plan.features

    def _predict(self, plan: Plan) -> AnyStage:
        means = Means(self.models.get, self._past, self._refill, self.clock)
        pipeline = plan.pipeline
        return predict_stage(
            plan.name, pipeline.request, self.sets[plan.name], means, threshold=pipeline.threshold
        )

    def _past(self, features: FeatureSet, record: Record) -> list[Value]:
        return past(self.log, features, [record])[0][1]

    def _refill(self, features: FeatureSet, stop: int) -> Fold:
        fold = Fold(features)
        position = START
        while True:
            records, position = self.log.read((*features.topics, TICKS), position, stop=Position(n=stop))
            if not records:
                return fold
            for record in records:
                if record.topic == TICKS:
                    fold.tick(read(record, Tick).t_ms)
                else:
                    fold.add(record)

    def deploy(self, t_ms: int) -> None:
        """Say on the log which code is up."""
        models = {name: plan.features.digest for name, plan in self.file.plans.items()}
        value = Deployment(self.file.path, self.file.code, models, t_ms)
        self.log.append([draft(DEPLOYMENTS, value, key=self.file.path, t_ms=t_ms)])

    def tick(self, t_ms: int) -> None:
        """Time has reached `t_ms`."""
        self.log.append([clock_draft(t_ms)])

    def drain(self) -> None:
        """Run every stage, in order, until nothing is new and no intent is open."""
        while True:
            before = self.log.end()
            self.predict()
            self.fold()
            for intent in self.pending():
                self.carry_out(intent)
            if self.log.end() == before:
                return

    def predict(self) -> bool:
        """Answer every request that waits. Says whether anything was new."""
        moved = False
        for running in self.predicting:
            while (outputs := running.advance()) is not None:
                self.told(outputs)
                moved = True
        return moved

    def fold(self) -> bool:
        """Run every stage after the predictions. Says whether anything was new."""
        moved = False
        for running in self.folding:
            while running.advance() is not None:
                moved = True
        return moved

    def champion(self, model: str) -> Ref | None:
        """Who answers for a model, as the answering stage sees it."""
        champion: Ref | None = self._answering(model).state.route.champion
        return champion

    def passed(self, model: str, place: int) -> bool:
        """Whether a model's answering stage has been beyond a position: what it had to say there is said."""
        return self._answering(model).position.n > place

    def _answering(self, model: str) -> Running[Any]:
        for running, name in zip(self.predicting, self.file.plans, strict=True):
            if name == model:
                return running
        raise NotFound(unknown(model, self.file.plans, "a model of this file"))

    def pending(self) -> list[Intent]:
        """The intents of this file's models that have no result yet."""
        found = self.open.read().intents.values()
        return [intent for intent in found if intent.model in self.file.plans]

    def carry_out(self, intent: Intent) -> None:
        """Do what an intent asks, and append the result under the intent's id."""
        limit_s = self.file.plan(intent.model).pipeline.train.limit_s
        result = self.trainer(Order(str(self.home), intent, self.file.code, self.file.path, limit_s))
        topic = VERSIONS if isinstance(result, Version) else FAILURES
        point(Point.EFFECT, intent.model)
        self.log.append([draft(topic, result, key=intent.model, t_ms=intent.t_ms, id=intent.id)])
        point(Point.RESULT, intent.model)

    def save(self) -> None:
        """Write every stage's state, so that the next start has little to fold again."""
        for running in [*self.predicting, *self.folding]:
            running.save()


def one_thread() -> None:
    """One thread a linear-algebra library in this thread: answers are small, stages run side by side,
    and how many threads there are must not change a bit of a score."""
    threadpoolctl.threadpool_limits(1)


def folds(file: File, blobs: Blob) -> list[AnyStage]:
    """Every stage of a file after the predictions, in the order of the loop."""
    plans = list(file.plans.values())
    return [
        *(outcome_stage(p.name, p.pipeline.request, p.label) for p in plans),
        *(monitor_stage(p.name, p.pipeline.watch, p.pipeline.request, p.features.names) for p in plans),
        *(train_stage(p.name, p.pipeline.train, p.pipeline.params, p.pipeline.seed) for p in plans),
        gate_stage({p.name: p.pipeline.gate for p in plans}, blobs.get),
        *(release_stage(p.name, p.pipeline.release) for p in plans),
    ]


def served(log: Log, plan: Plan, place: int) -> Prediction | None:
    """The answer to the request at a position: the first output of the predict stage for it."""
    for topic in (plan.pipeline.request.topic, f"{plan.name}.vectors"):
        found = log.find(predictions(plan.name), output_id(f"predict.{plan.name}", topic, place, 0))
        if found is not None:
            return read(found, Prediction)
    return None


def clock_draft(t_ms: int) -> Draft:
    """The draft of a tick."""
    return draft(TICKS, Tick(t_ms), key="", t_ms=t_ms)


def decide(log: Log, decision: Decision) -> None:
    """Put a person's decision on the log; whoever runs the stages follows it."""
    log.append([draft(DECISIONS, decision, key=decision.model, t_ms=decision.t_ms)])


def append(
    file: File,
    log: Log,
    topic: str,
    rows: Iterable[Mapping[str, Any] | bytes],
    *,
    now_ms: int,
    sync: bool = True,
    strict: bool = True,
    first: int = 1,
) -> Report:
    """Validate events for a topic and append the good ones. Raises NotFound for an unknown topic.

    `first` is the number of the first row in the notes; see `Source.parse` for `strict`.
    A refused event stops nothing: it is counted in the report and by a record on `refused`.
    """
    try:
        source = file.source(topic)
    except NotFound as error:
        log.append([_refusal(topic[:64], error, now_ms)], sync=sync)
        raise
    drafts: list[Draft] = []
    refusals: list[Draft] = []
    refused: dict[str, int] = {}
    notes: list[str] = []
    for number, row in enumerate(rows, first):
        try:
            drafts.append(source.draft(source.parse(row, strict=strict)))
        except Refused as error:
            refused[error.code] = refused.get(error.code, 0) + 1
            refusals.append(_refusal(topic, error, now_ms))
            if len(notes) < 20:
                notes.append(f"row {number}: {error}")
    done = log.append([*drafts, *refusals], sync=sync)
    repeated = [i for i in done.repeats if i < len(drafts)]
    if repeated:
        _count_repeats(log, topic, len(repeated), now_ms, sync)
        notes.append(f"{len(repeated)} events have an id that is on the topic already; the first ones stand.")
    return Report(len(drafts) - len(repeated), len(repeated), refused, notes, done.places[: len(drafts)])


def _refusal(topic: str, error: PenstockError, now_ms: int) -> Draft:
    return draft(REFUSED, Refusal(topic, error.code, error.what, now_ms), key=topic, t_ms=now_ms)


def _count_repeats(log: Log, topic: str, n: int, now_ms: int, sync: bool) -> None:
    refusal = Refusal(topic, "duplicate", f"{n} events had an id that was on the topic already.", now_ms)
    log.append([draft(REFUSED, refusal, key=topic, t_ms=now_ms)], sync=sync)
