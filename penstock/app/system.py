"""app: a pipeline file on a log: every stage, in the loop's order, and the door to ask.

`drain` moves the first stage in the order that has something new, one batch, again and again, so that a
replayed run ends in the same log however often it was killed. `app.live` runs the same stages on
threads, `app.processes` in several processes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.consistency import KIND, begin_again, passed_by
from penstock.app.lookup import Lookup
from penstock.app.models import MODELS_BYTES, Slow
from penstock.app.parts import OPEN, Clock, Parts
from penstock.app.pipeline import File, Plan
from penstock.app.train import Order
from penstock.app.turns import FEW, Turns
from penstock.feature import JOIN, Answer, requests
from penstock.log import Appended, Blob, Checkpoint, Commit, Joint, Log
from penstock.log.crash import Point, point
from penstock.predict.queue import BATCH
from penstock.predict.stage import SHARE, share_name, share_takes
from penstock.record.codec import unpack
from penstock.record.decisions import (
    DECISIONS,
    DEPLOYMENTS,
    FAILURES,
    TICKS,
    VERSIONS,
    Decision,
    Deployment,
    Failure,
    Intent,
    Prediction,
    Tick,
    Version,
    draft,
    predictions,
    read,
    vectors,
)
from penstock.record.errors import NotFound, PenstockError
from penstock.record.event import Source, unknown
from penstock.record.record import Draft, Position, output_id
from penstock.release.registry import REGISTRY, Entry
from penstock.release.route import Ref
from penstock.stage import AnyStage, Running, View, restore

Trainer = Callable[[Order], Version | Failure]
WARMED = 16
"""The models of a file of no more are loaded before the door opens; of a larger one each when it is first asked."""
ASKED = 256
"""So many requests a stage answers in one turn: whoever comes meanwhile, if only to be refused, waits until all of them
were told."""
FAR = 20_000
"""A stage that stands so many records behind catches up on a thread before it answers at once again."""


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
        self.turns = {name: threading.Lock() for name in self.stages}  # held by who moves a stage
        self.stopped: Callable[[], bool] = lambda: False
        self._by_model: dict[str, list[str]] = {}
        for name in self.answers.names:
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
                if running.stage.name in self.answers.names:
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
        """Run the stages after the predictions that have news, then those to which these are news, each once and up to
        where the log ends then, so that one which is sent more all the time keeps nobody waiting; what only compares
        takes one batch, for it may have long to catch up. Says whether anything was new."""
        moved, seen = False, set[str]()
        looks = True
        while len(seen) < FEW and not self.stopped():
            if (name := self.folds.take(lambda one: one not in seen)) is None:
                if not looks:
                    break
                looks = False
                self.folds.look()
                continue
            seen.add(name)
            again = True
            try:
                again = self._fold(name)
            finally:
                self.folds.give(name, again=again)
            moved, looks = moved or again, looks or again
        return moved

    def _fold(self, name: str) -> bool:
        running, moved, end = self.own(name), False, self.log.end()
        while running.position.n < end.n and not self.stopped():
            with self.turns[name]:
                outputs = running.advance()
            if outputs is None:
                break
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

    def behind(self, model: str) -> int:
        """How many of a model's requests lie on the log beyond where its answering stage stands: a batch of a queue
        at most."""
        reached = min((self.own(name).position for name in self._answering(model)), key=lambda one: one.n)
        return len(self.log.read([self._request(model).topic, vectors(model)], reached, limit=BATCH)[0])

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

    def wake(self, model: str) -> None:
        """A model has news, as who wrote them knows."""
        self.answers.wake(self._answering(model))

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
        """Write every stage's state, so that the next start has little to fold again; not of one that somebody moves
        all the same: what it holds then is half of something."""
        for name, running in list(self.running.items()):
            if self.turns[name].acquire(blocking=False):
                try:
                    running.save()
                finally:
                    self.turns[name].release()


def batch_of(one: AnyStage, file: File) -> int:
    """How many records a stage takes at once."""
    if not one.name.startswith("predict."):
        return 1024
    return ASKED if file.plan(one.label.removeprefix("predict.")).pipeline.serves is None else BATCH


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
