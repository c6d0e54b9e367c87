"""app: a pipeline file on a log: every stage, in the loop's order, and the doors to append and ask.

`drain` moves the first stage in the order that has something new, one batch, again and again, so that a
replayed run ends in the same log however often it was killed. `app.live` runs the same stages on
threads, `app.processes` in several processes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import threadpoolctl

from penstock.app.consistency import KIND, begin_again, checked, checking, long_ago, passed_by, refill
from penstock.app.lookup import Lookup
from penstock.app.models import MODELS_BYTES, Models, Slow
from penstock.app.pipeline import File, Plan, load_text, within
from penstock.app.train import Order
from penstock.app.turns import FEW, Turns
from penstock.dataset.outcome import outcome_stage
from penstock.feature import JOIN, Answer, Derived, Scored, derive_stage, join_stage, requests
from penstock.gate.stage import gate_stage
from penstock.log import Appended, Blob, Checkpoint, Commit, Joint, Log
from penstock.log.crash import Point, point
from penstock.model.schedule import train_stage
from penstock.monitor.stage import monitor_stage
from penstock.predict.queue import BATCH
from penstock.predict.stage import SHARE, Means, predict_stage, share_name, share_takes
from penstock.record.codec import unpack
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
    Version,
    draft,
    predictions,
    read,
    vectors,
)
from penstock.record.errors import NotFound, PenstockError, Refused, Unavailable
from penstock.record.event import Source, unknown
from penstock.record.record import NO_HEADERS, START, Draft, Position, Record, output_id
from penstock.release.registry import REGISTRY, Entry, registry
from penstock.release.route import Ref
from penstock.release.stage import release_stage
from penstock.stage import AnyStage, Running, View, restore, stage

Clock = Callable[[], float]
Trainer = Callable[[Order], Version | Failure]
WARMED = 16
"""The models of a file of no more are loaded before the door opens; of a larger one each when it is first asked."""
FAR = 20_000
"""A stage that stands so many records behind catches up on a thread before it answers at once again."""
Numbered = tuple[str, int]
"""A producer's name, and the number that it gives an append: 1, 2, 3..."""


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


class Serving(msgspec.Struct, frozen=True):
    """How a system serves. `mine`: the stages that it owns; `sync`: each answer is on the disk before it leaves;
    `apart`, `models_bytes`: see `Models`."""

    mine: Callable[[str], bool] = lambda stage: True
    sync: bool = False
    apart: bool = False
    models_bytes: int = MODELS_BYTES


class System:
    """A pipeline file at work on a log. Owns its stages, each from when it first has something to do: one system at a
    time per log."""

    def __init__(
        self,
        file: File,
        log: Log,
        blobs: Blob,
        home: Path,
        clock: Clock,
        trainer: Trainer | None,
        *,
        sync: bool = True,
        shares: int = 1,
        serving: Serving | None = None,
    ) -> None:
        serving = serving or Serving()
        self.parts = Parts(file, log, blobs, clock, home if serving.apart else None, serving.models_bytes)
        self.file, self.log, self.blobs, self.home = file, log, blobs, home
        self.clock, self.trainer, self.sync, self.shares = clock, trainer, sync, shares
        self.sync_answers = serving.sync
        self.told: Callable[[Sequence[Draft]], None] = lambda outputs: None
        self.stages: dict[str, AnyStage] = {}
        for name, stages in self.parts.posts(shares, sync=sync).items():
            synced = serving.sync and name.startswith("predict.")
            kept = [msgspec.structs.replace(one, sync=True) if synced else one for one in stages]
            self.stages |= {one.name: one for one in kept if serving.mine(one.name)}
        self.running: dict[str, Running[Any]] = {}
        self._known, self._owning = log.stages(), threading.Lock()
        answers = [one for name, one in self.stages.items() if name.startswith("predict.")]
        folds = [one for name, one in self.stages.items() if not name.startswith("predict.")]
        self.answers, self.folds = (Turns(log, some, self._known, clock) for some in (answers, folds))
        self.turns = {one.name: threading.Lock() for one in answers}
        self._by_model: dict[str, list[str]] = {}
        for name in self.turns:
            self._by_model.setdefault(self.stages[name].said_as.removeprefix("predict."), []).append(name)
        self.joint = isinstance(log, Joint) and log.alone
        self.orders = {name: file.order(name) for name in file.plans}
        for name in self.folds.names:
            if name.startswith(f"{JOIN}."):  # it begins with its deployment, not with its first news
                self.own(name)
        self.open = View(OPEN, log)
        self._registry, self._reading = View(REGISTRY, log), threading.Lock()
        self._lookups: dict[str, Lookup] = {}
        self.works = any(serving.mine(f"train.{name}") for name in file.plans)
        self.working: dict[str, int] = {}

    @property
    def predicting(self) -> list[Running[Any]]:
        """Every stage that answers, taken over."""
        return [self.own(name) for name in self.answers.names]

    @property
    def folding(self) -> list[Running[Any]]:
        """Every other stage, taken over."""
        return [self.own(name) for name in self.folds.names]

    def own(self, name: str) -> Running[Any]:
        """A stage, taken over now if it was not yet."""
        with self._owning:
            if name not in self.running:
                one = self.stages[name]
                self.running[name] = own(one, self.log, self._known, batch_of(one, self.file))
            return self.running[name]

    def deploy(self, t_ms: int) -> None:
        """Say on the log which code is up, and in how many shares."""
        deploy(self.file, self.log, t_ms, self.shares)

    def tick(self, t_ms: int) -> None:
        """Time has reached `t_ms`."""
        self.log.append([clock_draft(t_ms)])

    def drain(self) -> None:
        """Let everyone have their turn until nothing is new and no intent is open."""
        while self.step():
            pass

    def step(self) -> bool:
        """One turn: the first stage with something new folds a batch; when there is none, the oldest
        open intent is carried out. Says whether anybody moved."""
        for running in [*self.predicting, *self.folding]:
            outputs = running.advance()
            if outputs is not None:
                if running.stage.name in self.turns:
                    self.told(outputs)
                return True
        for intent in self.pending()[:1]:
            self.carry_out(intent)
            return True
        return False

    def predict(self, running: Running[Any], watch: Callable[[Running[Any]], None]) -> bool:
        """Answer a batch of the requests that wait for a stage; `watch` is shown the stage between two of its turns.
        Says whether anything was new."""
        outputs = self._advance(running, watch)
        if outputs is not None:
            self.told(outputs)
        return outputs is not None

    def _advance(self, running: Running[Any], watch: Callable[[Running[Any]], None]) -> list[Draft] | None:
        with self.turns[running.stage.name]:
            if running.due:
                running.save()
            watch(running)
            return running.advance()

    def answer(self, model: str, drafts: Sequence[Draft]) -> list[Draft] | None:
        """Append requests and answer them in one write, and before that in one each by the models whose answers
        they are given; what the stage said. None where that cannot be."""
        direct: list[Draft] = []
        if len(self.orders[model]) > 1:
            direct = [one for one in drafts if one.topic == vectors(model)]
            drafts = [one for one in drafts if one.topic != vectors(model)]
        names = self.orders[model] if drafts else [model]
        if not all(self._quick(name) for name in names):
            return None
        said: dict[str, dict[str, Answer]] = {}
        for name in names[:-1]:
            done = self._put(name, requests(self._request(name), drafts, said))
            if done is None:
                return None
            said[name] = self._heard(name, *done)
            if name == names[0]:
                drafts = self.lying(drafts, done[0].repeats)
        mine = requests(self._request(model), drafts, said) if drafts else ()
        done = self._put(model, [*mine, *direct])
        return done[1] if done is not None else None

    def _request(self, model: str) -> Source:
        return self.file.plan(model).pipeline.request

    def _quick(self, model: str) -> bool:
        """Whether a model answers here, at once."""
        found = self._answering(model)
        running = self.running.get(found[0])
        if len(found) > 1 or not self.joint or running is None:
            return False
        if self.answers.looked - running.position.n > FAR:
            return False
        route = running.state.route
        return route.champion is not None and all(
            self.parts.models.is_quick(ref.digest) for _, ref in route.versions()
        )

    def _put(self, model: str, drafts: Sequence[Draft]) -> tuple[Appended, list[Draft]] | None:
        (name,) = self._answering(model)
        with self.turns[name], self.parts.models.in_a_hurry():
            try:
                done = self.own(name).put(self._owned(name, drafts))
            except Slow:  # a release came that names another: nothing of it is on the log
                return None
        self.told(done[1])
        return done

    def _heard(self, model: str, done: Appended, outputs: Sequence[Draft]) -> dict[str, Answer]:
        """What a model answered, by request; to those that were asked before, as it did then."""
        topic, plan = predictions(model), self.file.plan(model)
        earlier = (served(self.log, plan, done.places[i]) for i in done.repeats)
        found = [
            *(Answer.of(one) for one in earlier if one is not None),
            *(unpack(one.value, Answer) for one in outputs if one.topic == topic),
        ]
        return {one.request: one for one in found if one.served}

    def lying(self, drafts: Sequence[Draft], repeats: Collection[int]) -> list[Draft]:
        """Requests as they stand on the log: those that were asked before as they were then."""
        found = list(drafts)
        for i in repeats:
            one = self.log.find(drafts[i].topic, drafts[i].id)
            if one is not None:
                found[i] = Draft(one.topic, one.key, one.time_ms, one.value, one.id, one.headers)
        return found

    def _owned(self, stage: str, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """Requests that this share answers, whoever's they were by their key: they say so."""
        part = stage.partition("/")[2]
        if not part:
            return drafts
        return [msgspec.structs.replace(one, headers={**one.headers, SHARE: part}) for one in drafts]

    def owned(self, model: str, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """The same for requests that are answered later."""
        found = self._answering(model)
        return self._owned(found[0], drafts) if len(found) == 1 else drafts

    def fold(self) -> bool:
        """Run the stages after the predictions whose turn it is, each up to where the log ends then, so that one which
        is sent more all the time keeps nobody waiting; what only compares takes one batch, for it may have long to
        catch up. Says whether anything was new."""
        moved, seen = False, set[str]()
        self.folds.look()
        while len(seen) < FEW and (name := self.folds.take(lambda one: one not in seen)) is not None:
            seen.add(name)
            again = True
            try:
                again = self._fold(name)
            finally:
                self.folds.give(name, again=again)
            moved = moved or again
        return moved

    def _fold(self, name: str) -> bool:
        running, moved, end = self.own(name), False, self.log.end()
        while running.position.n < end.n and running.advance() is not None:
            moved = True
            if name.startswith(f"{KIND}."):
                break
        return moved

    def warm(self) -> None:
        """Have the models at hand that answer now, so that the first request need not wait for them; of many models
        each is made ready when it is asked."""
        for running in self.predicting if len(self.answers.names) <= WARMED else ():
            for _, ref in running.state.route.versions():
                with contextlib.suppress(PenstockError):  # whoever is answered by it is told
                    self.parts.models.get(ref.digest)

    def champion(self, model: str) -> Ref | None:
        """Who answers for a model, as the answering stage sees it, or will when it has folded what is there."""
        running = self.running.get(self._answering(model)[0])
        if running is not None and running.state.route.champion is not None:
            champion: Ref | None = running.state.route.champion
            return champion
        with self._reading:
            return self._registry.read().models.get(model, Entry()).route.champion

    def passed(self, model: str, place: int) -> bool:
        """Whether a model's answering stage has been beyond a position: what it had to say there is said."""
        return all(self.own(name).position.n > place for name in self._answering(model))

    def elsewhere(self, model: str, place: int) -> bool:
        """Whether the request at a position is answered by another process."""
        topics, n = [self._request(model).topic, vectors(model)], self.shares
        found = self.log.read(topics, Position(n=place), stop=Position(n=place + 1))[0]
        ours = self._answering(model)
        takes = [share_takes(k, n) for k in range(n) if share_name(f"predict.{model}", k, n) in ours]
        return bool(found) and not any(take(record) for record in found for take in takes)

    def _answering(self, model: str) -> list[str]:
        found = self._by_model.get(model)
        if found is None:
            raise NotFound(unknown(model, self.file.plans, "a model of this file"))
        return found

    def pending(self) -> list[Intent]:
        """The intents of this file's models that have no result yet."""
        found = self.open.read().intents.values()
        return [intent for intent in found if intent.model in self.file.plans]

    def carry_out(self, intent: Intent) -> None:
        """Do what an intent asks, and commit the result under the intent's id."""
        assert self.trainer is not None
        if intent.model not in self.working:
            self.working[intent.model] = self.log.load(f"work.{intent.model}", claim=True).epoch
        result = self.trainer(order(self.file, self.home, intent))
        point(Point.EFFECT, intent.model)
        finish(self.log, intent, result, self.working[intent.model], self.open.position)
        point(Point.RESULT, intent.model)

    def features(self, model: str) -> Lookup:
        """Look-ups in a model's feature set."""
        features = self.file.plan(model).features
        return self._lookups.setdefault(model, Lookup(features, self.log, f"predict.{model}"))

    def close(self) -> None:
        """End the processes that score."""
        self.parts.models.close()

    def save(self) -> None:
        """Write every stage's state, so that the next start has little to fold again."""
        for running in list(self.running.values()):
            running.save()


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


def batch_of(one: AnyStage, file: File) -> int:
    """How many records a stage takes at once."""
    plan = file.plans.get(one.label.removeprefix("predict."))
    return BATCH if plan is not None and plan.pipeline.serves is not None else 1024


def own(
    one: AnyStage, log: Log, known: Mapping[str, Checkpoint] | None = None, batch: int = 1024
) -> Running[Any]:
    """Take a stage over. A share begins where its own checkpoint is, or where all shares of another
    division have come, whichever is further: every request below is answered. `known`: how far all had come before
    any of them moved. A home on Kafka may be behind whoever had the stage until now; a claim says how it is."""
    known = log.stages() if known is None else known
    divisions: dict[int, list[str]] = {}
    own_family = one.name.partition("/")[0]
    for name in known if own_family.startswith("predict.") else ():
        family, _, part = name.partition("/")
        if family == own_family and name != one.name:
            divisions.setdefault(int(part.partition("of")[2] or 1), []).append(name)
    whole = [names for n, names in divisions.items() if len(names) == n]
    least = [min(names, key=lambda name: known[name].position.n) for names in whole]
    donor = max(least, key=lambda name: known[name].position.n, default="")
    if donor and known[donor].position.n > known.get(one.name, Checkpoint()).position.n:
        state, mine = log.load(donor), log.load(one.name, claim=True)
        if state.position.n > mine.position.n:
            log.commit(Commit(one.name, mine.epoch, state.position, [], one.dump(restore(one, log, state))))
    if one.name.startswith(f"{KIND}.") and passed_by(one, log, known.get(one.name, Checkpoint())):
        begin_again(one, log)
    if one.name.startswith(f"{JOIN}.") and not log.load(one.name).state:
        mine = log.load(one.name, claim=True)
        if not mine.state:  # from now on: of what was asked before, the labels have come by
            log.commit(Commit(one.name, mine.epoch, log.end(), [], one.dump(one.empty())))
    return Running(one, log, batch=batch)


def deploy(file: File, log: Log, t_ms: int, shares: int = 1) -> None:
    """Say on the log which code is up, and in how many shares it answers."""
    models = {name: plan.features.digest for name, plan in file.plans.items()}
    value = Deployment(file.path, file.code, models, t_ms, shares)
    log.append([draft(DEPLOYMENTS, value, key=file.path, t_ms=t_ms)])


def order(file: File, home: Path, intent: Intent) -> Order:
    """What the training process is given for an intent."""
    return Order(str(home), intent, file.code, file.path, file.plan(intent.model).pipeline.train.limit_s)


def finish(log: Log, intent: Intent, result: Version | Failure, epoch: int, position: Position) -> None:
    """Commit what came of an intent, under its id and the worker's epoch: a worker that was replaced
    meanwhile is fenced, as a stage is."""
    topic = VERSIONS if isinstance(result, Version) else FAILURES
    output = draft(topic, result, key=intent.model, t_ms=intent.t_ms, id=intent.id)
    log.commit(Commit(f"work.{intent.model}", epoch, position, [output]))


def one_thread() -> None:
    """One thread a linear-algebra library in this thread: answers are small, stages run side by side,
    and how many threads there are must not change a bit of a score."""
    threadpoolctl.threadpool_limits(1)


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
    rows: Sequence[Mapping[str, Any] | bytes],
    *,
    now_ms: int,
    sync: bool = True,
    strict: bool = True,
    first: int = 1,
    numbered: Numbered = ("", 0),
    headers: Mapping[str, str] = NO_HEADERS,
) -> Report:
    """Validate events for a topic and append the good ones. Raises NotFound for an unknown topic.

    `first` is the number of the first row in the notes; see `Source.parse` for `strict`; `numbered` is
    the producer's name and this append's number, which follows the one before: an append that comes
    again changes nothing. A refused event stops nothing: it is counted in the report, and on `refused`
    by one record for all that were refused with its code; so are repeats. `headers` go onto the events' records.
    """
    try:
        source = file.source(topic)
    except NotFound as error:
        unknown_one = Refusal(topic[:64], error.code, error.what, now_ms, max(1, len(rows)))
        log.append([_refusal(unknown_one)], sync=sync)
        raise
    drafts: list[Draft] = []
    first_of: dict[str, Refusal] = {}
    refused: dict[str, int] = {}
    notes: list[str] = []
    for number, row in enumerate(rows, first):
        try:
            made = source.draft(source.parse(row, strict=strict))
            drafts.append(msgspec.structs.replace(made, headers=dict(headers)) if headers else made)
        except Refused as error:
            refused[error.code] = refused.get(error.code, 0) + 1
            first_of.setdefault(error.code, Refusal(topic, error.code, error.what, now_ms))
            if len(notes) < 20:
                notes.append(f"row {number}: {error}")
    refusals = [_refusal(msgspec.structs.replace(one, count=refused[code])) for code, one in first_of.items()]
    producer, sequence = in_order(log, topic, numbered)
    done = log.append([*drafts, *refusals], producer=producer, sequence=sequence, sync=sync)
    repeated = sum(i < len(drafts) for i in done.repeats)
    if repeated:
        code, why = ("duplicate", "an id") if done.places else ("repeated", "a number of their producer's")
        note = f"{repeated} events have {why} that stood already; the first ones stand."
        with contextlib.suppress(Unavailable):  # the disk is full: the answer tells it all the same
            log.append([_refusal(Refusal(topic, code, note, now_ms, repeated))], sync=sync)
        notes.append(note)
    return Report(len(drafts) - repeated, repeated, refused, notes, done.places[: len(drafts)])


def in_order(log: Log, topic: str, numbered: Numbered) -> Numbered:
    """The producer as the log knows it. Raises Refused where an append before this one is missing: it
    would be taken for a repeat when it comes."""
    name, sequence = numbered
    if not name:
        return numbered
    producer = f"{topic}/{name}"
    last = log.last(producer)
    if not 0 < sequence <= last + 1:
        raise Refused(
            f"The number that follows is {last + 1}.", code="sequence", where=producer,
            hint="Send one append after the other, each until it is answered.",
        )  # fmt: skip
    return producer, sequence


def _refusal(one: Refusal) -> Draft:
    return draft(REFUSED, one, key=one.topic, t_ms=one.t_ms)
