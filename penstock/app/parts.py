"""app: what the stages of a pipeline file are made of, each with the means that it needs from outside; owns nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import msgspec
import threadpoolctl

from penstock.app.consistency import checked, checking, long_ago, refill
from penstock.app.models import MODELS_BYTES, Models
from penstock.app.pipeline import File, Plan, load_text, within
from penstock.dataset.outcome import outcome_stage
from penstock.feature import Derived, Scored, derive_stage, join_stage
from penstock.gate.stage import gate_stage
from penstock.log import Blob, Log
from penstock.model.schedule import train_stage
from penstock.monitor.stage import monitor_stage
from penstock.predict.stage import Means, predict_stage
from penstock.record.decisions import (
    FAILURES,
    INTENTS,
    TICKS,
    VERSIONS,
    Failure,
    Intent,
    Prediction,
    Tick,
    Version,
    predictions,
    read,
)
from penstock.record.errors import Unavailable
from penstock.record.record import START, Draft, Position, Record, output_id
from penstock.release.registry import registry
from penstock.release.stage import release_stage
from penstock.stage import AnyStage, stage

Clock = Callable[[], float]


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


class Parts:
    """What the stages of a pipeline file are made of, on a log: owns nothing. `apart`, `models_bytes`: see `Models`."""

    def __init__(
        self,
        file: File,
        log: Log,
        blobs: Blob,
        clock: Clock,
        apart: Path | None = None,
        models_bytes: int = MODELS_BYTES,
    ) -> None:
        one_thread()
        self.file, self.log, self.blobs, self.clock = file, log, blobs, clock
        blobs.put(file.text)
        self.plans = {plan.features.digest: plan for plan in file.plans.values()}
        self.sets = {name: {plan.features.digest: plan.features} for name, plan in file.plans.items()}
        self._older_plans()
        self.models = Models(file, log, blobs, apart, most_bytes=models_bytes)
        self.patience: Callable[[str], None] = _impatient

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

    def predict(self, plan: Plan, share: tuple[int, int] = (0, 1)) -> AnyStage:
        """The stage that answers a share of a model's requests."""
        name = f"predict.{plan.name}"
        means = Means(
            self.models.know,
            self.models.get,
            partial(long_ago, self.log, name),
            partial(refill, self.log, name),
            self.clock,
            self.models.ready,
            newest_tick(self.log),
            partial(standing, self.log, plan.name),
            self._hold,
        )
        pipeline = plan.pipeline
        return predict_stage(
            plan.name,
            pipeline.request,
            self.sets[plan.name],
            means,
            threshold=pipeline.threshold,
            share=share,
            queue=pipeline.serves,
        )

    def _hold(self, code: str) -> None:
        self.patience(code)

    def posts(self, shares: int, *, sync: bool = True) -> dict[str, list[AnyStage]]:
        """Every stage of the file by name, in the order of the loop, as its shares."""
        answering = {
            f"predict.{plan.name}": [self.predict(plan, (k, shares)) for k in range(shares)]
            for plan in self.file.plans.values()
        }
        rest = [msgspec.structs.replace(one, sync=sync) for one in folds(self.file, self.blobs)]
        used = [one for sets in self.sets.values() for f in sets.values() for one in f.sources.values()]
        made = within(used) | self.file.scored
        older = [
            one for one in made.values() if isinstance(one, Derived) and one.topic not in self.file.derived
        ]
        joins = [join_stage(one, self.log.find) for one in made.values() if isinstance(one, Scored)]
        again = [checking(self.log, plan, self.sets[plan.name]) for plan in checked(self.file)]
        return answering | {one.name: [one] for one in [*joins, *map(derive_stage, older), *rest, *again]}


def _impatient(code: str) -> None:
    raise Unavailable("Whoever scores this queue is away.", code=code)


def newest_tick(log: Log) -> Callable[[int], int]:
    """The time of the newest tick beyond a position, as far as the log reaches when it is asked."""
    seen, newest_ms = START, 0

    def newest(after: int) -> int:
        nonlocal seen, newest_ms
        seen = max(seen, Position(n=after), key=lambda one: one.n)
        while True:
            ticks, seen = log.read([TICKS], seen)
            if not ticks:
                return newest_ms
            newest_ms = max(newest_ms, read(ticks[-1], Tick).t_ms)

    return newest


def standing(log: Log, model: str, request: Record) -> str | None:
    """The error of the answer to a request that stands on the log, None without one."""
    id = output_id(f"predict.{model}", request.topic, request.position, 0)
    found = log.find(predictions(model), id)
    return None if found is None else read(found, Prediction).error


def folds(file: File, blobs: Blob) -> list[AnyStage]:
    """Every stage of a file after the predictions, in the order of the loop."""
    plans = list(file.plans.values())
    return [
        *map(derive_stage, file.derived.values()),
        *(outcome_stage(p.name, p.pipeline.request, p.label) for p in plans),
        *(monitor_stage(p.name, p.pipeline.watch, p.pipeline.request, p.features.names) for p in plans),
        *(train_stage(p.name, p.pipeline.train, p.pipeline.params, p.pipeline.seed) for p in plans),
        gate_stage({p.name: p.pipeline.gate for p in plans}, blobs.get),
        *(release_stage(p.name, p.pipeline.release) for p in plans),
    ]


def one_thread() -> None:
    """One thread a linear-algebra library in this thread: answers are small, stages run side by side,
    and how many threads there are must not change a bit of a score."""
    _libraries(len(sys.modules)).limit(limits=1)


@lru_cache(maxsize=1)
def _libraries(modules: int) -> threadpoolctl.ThreadpoolController:
    """The linear-algebra libraries of this process: looked for again where modules have been loaded since."""
    return threadpoolctl.ThreadpoolController()
