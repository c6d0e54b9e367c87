"""app: the whole pipeline on one seeded scheduler with a virtual clock: first with faults, then healed.

One thread, no clock, no chance but the seed's: producers, time, the owners of every stage and their
rivals, the trainer and people move one at a time. `laws` says what must hold; a seed plays again exactly.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
from bisect import bisect
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from penstock.app.deferred import deferred
from penstock.app.digest import digests
from penstock.app.pipeline import File, load
from penstock.app.replay import Timed, replay
from penstock.app.simulation import laws
from penstock.app.simulation.faulty import Faults, FaultyBlob, FaultyLog, Killed, drawn
from penstock.app.simulation.producers import Asker, producers
from penstock.app.simulation.small import PERIODS, History, history, shrink
from penstock.app.system import System, clock_draft, decide
from penstock.app.train import Order, carry_out
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.record.codec import digest, unpack
from penstock.record.decisions import (
    FAILURES,
    RELEASES,
    VERDICTS,
    VERSIONS,
    Decision,
    Failure,
    Intent,
    Prediction,
    Release,
    Verdict,
    Version,
    predictions,
    read,
)
from penstock.record.errors import Fenced, PenstockError, Unavailable
from penstock.record.record import Draft
from penstock.stage import Running, every

HISTORIES = 16
LOCKED = 4
"""One schedule of so many is a replay in lock step, which must end in the same log as an undisturbed one."""
HOUR_MS = 3_600_000
STEPS = 6000
ROUNDS = 400
TRIES = 400
TOLD = 40
BATCHES = (1, 2, 7, 30, 1024)
Kind = Literal["free", "locked"]


class Ground(msgspec.Struct, frozen=True, eq=False):
    """What schedules share: the file made small, where samples lie, and whether its fit was replaced."""

    file: File
    data: Path | None
    quick: bool


class Run(msgspec.Struct, frozen=True):
    """What came of one schedule. `broken` is the law that broke at `step`, with the last steps told."""

    seed: int
    kind: Kind
    steps: int
    digest: str
    seen: dict[str, int]
    broken: str = ""
    told: list[str] = []


def ground(path: str, *, data: Path | None = None, quick: bool = True) -> Ground:
    """Load a file for simulation; a `fit` that is replaced loads no library."""
    with deferred() if quick else contextlib.nullcontext():
        return Ground(shrink(load(path), quick=quick), data, quick)


@functools.cache
def _history(ground: Ground, number: int) -> History:
    return history(ground.file, number, ground.data)


class Schedule:
    """One schedule: everything that moves, and the chance that moves it."""

    def __init__(self, ground: Ground, seed: int, told: int = TOLD) -> None:
        self.ground, self.file, self.seed = ground, ground.file, seed
        self.chance = random.Random(seed)
        self.kind: Kind = "locked" if seed % LOCKED == 0 else "free"
        self.history = _history(ground, seed % HISTORIES)
        self.log, self.blobs = MemoryLog(), MemoryBlob()
        self.watch = laws.Watch(self.log, self.file)
        self.faults = Faults(self.chance, drawn(self.chance))
        self.saved_every = self.chance.choice((40, 120, 400))
        self.steps = 0
        self.seen: Counter[str] = Counter()
        self.lines: deque[tuple[int, int, str]] = deque(maxlen=told)
        self.now_ms = self.history.start_ms
        self.results: dict[str, Version | Failure] = {}

    def tell(self, line: str) -> None:
        """A line of the trace."""
        self.lines.append((self.steps, self.log.end().n, line))

    def clock(self) -> float:
        """Seconds of virtual time."""
        return self.now_ms / 1000

    def boot(self) -> System:
        """A process with a handle of its own that claims every stage; raises what the faults raise."""
        log, blobs = FaultyLog(self.log, self.faults), FaultyBlob(self.blobs, self.faults)
        home = Path("simulated")
        system = System(self.file, log, blobs, home, self.clock, self.train, sync=False)
        for running in (*system.predicting, *system.folding):
            running.stage = msgspec.structs.replace(running.stage, snapshot_every=self.saved_every)
        system.parts.models.quick = lambda model: True  # by a virtual clock none takes its time
        return system

    def train(self, order: Order) -> Version | Failure:
        """The training process: an intent carried out, or what went wrong as a record."""
        log, blobs = FaultyLog(self.log, self.faults), FaultyBlob(self.blobs, self.faults)
        intent = order.intent
        try:
            return carry_out(order, log, blobs, self.clock, read_file=lambda text, path: self.file)
        except PenstockError as error:
            code, note = error.code, str(error)
        except Exception as error:  # the user's fit may raise anything, as in the training process
            code, note = "fit_failed", f"{type(error).__name__} in fit."
        return Failure(intent.id, intent.model, intent.version, intent.t_ms, code, note)

    def play(self) -> Run:
        """The whole schedule."""
        broken = ""
        try:
            self._locked() if self.kind == "locked" else Free(self).play()
        except laws.Lawless as error:
            broken = str(error)
        except PenstockError as error:
            broken = f"The product stopped: {error}"
        except Exception as error:  # whatever else a stage raises is a fault of the product, too
            broken = f"{type(error).__name__}: {error}"
        seen = {**self.seen, **self._reached(), **self.faults.struck}
        told = self.lines if broken or self.lines.maxlen is None else ()
        lines = [f"{steps:5} {end:5} {line}" for steps, end, line in told]
        return Run(self.seed, self.kind, self.steps, digest(laws.whole(self.log)), seen, broken, lines)

    def _reached(self) -> Counter[str]:
        """How far round the loop this schedule came."""
        found: Counter[str] = Counter()
        found["trained"] = self.log.count(VERSIONS)
        found["failed_trainings"] = self.log.count(FAILURES)
        for record in every(self.log, [VERDICTS]):
            found[f"verdict_{read(record, Verdict).decision}"] += 1
        for record in every(self.log, [RELEASES]):
            release = read(record, Release)
            found[release.step] += 1
            found["rolled_back_by_rule"] += release.step == "rolled_back" and release.by == "rule"
        return found

    def _locked(self) -> None:
        """The history in lock step, the process killed at random: the same log as an undisturbed replay."""
        for kind in ("blob_away", "stale"):
            self.faults.rates.pop(kind, None)
        self.faults.rates = {kind: rate / 4 for kind, rate in self.faults.rates.items()}
        self._replayed()
        wanted = _calm(self.ground, self.seed % HISTORIES)
        found = digests(self.log, list(self.file.plans))
        unequal = sorted(name for name in wanted if wanted[name] != found[name])
        laws.demand(not unequal, "A disturbed replay ends in the log of an undisturbed one", unequal)

    def _replayed(self) -> None:
        events = self._decided(self.history)
        period_ms = max(1, (self.history.end_ms - self.history.start_ms) // PERIODS)
        for attempt in range(TRIES):
            try:
                system = self.boot()
                system.trainer = self._or_killed
                self.tell("a process begins to replay")
                replay(system, events, period_ms=period_ms, told=self._period)
                break
            except (Killed, Unavailable) as error:
                self.seen["restarted"] += 1
                self.tell(f"the process ends: {type(error).__name__}")
                self.watch.look()
            if attempt == TRIES // 2:
                self.faults.on = False
        else:
            raise laws.Lawless(f"A replay comes to its end within {TRIES} starts")

    def _period(self, played: Any) -> None:
        self.steps += 1
        self.now_ms = played.now_ms
        self.watch.look()

    def _or_killed(self, order: Order) -> Version | Failure:
        """A training, or the end of the process that waits for it; log and blobs answer the trainer."""
        if self.faults.strikes("killed_before"):
            raise Killed
        on, self.faults.on = self.faults.on, False
        try:
            return self.train(order)
        finally:
            self.faults.on = on

    def _decided(self, past: History) -> list[Timed]:
        """The history's events, with some decisions of a person, and time for every label to come."""
        events: list[Timed] = [(one.at_ms, one.topic, one.row) for one in past.events]
        chance = random.Random(self.seed % HISTORIES)
        span_ms = past.end_ms - past.start_ms
        for name in self.file.plans:
            for kind in ("train", "rollback"):
                at_ms = past.start_ms + int(span_ms * chance.uniform(0.5, 1.0))
                events.append((at_ms, "", Decision(name, kind, "ada", "to see", at_ms)))
        return sorted(events, key=lambda event: event[0])


@functools.cache
def _calm(ground: Ground, number: int) -> dict[str, str]:
    """The digests of an undisturbed replay of a history."""
    calm = Schedule(ground, number)
    calm.faults.on = False
    calm._replayed()
    return digests(calm.log, list(calm.file.plans))


class Owner:
    """Who runs a stage: `running` is None while nobody does."""

    def __init__(self, name: str, running: Running[Any] | None) -> None:
        self.name, self.running = name, running


class Free:
    """A schedule in which everything moves by itself."""

    def __init__(self, at: Schedule) -> None:
        self.at, self.chance, self.log, self.faults = at, at.chance, at.log, at.faults
        self.jumpy = at.chance.random() < 0.08
        self.producers = producers(at.file, at.history, self.chance, self._handle)
        self.system = self._booted()
        self.stages = [one.stage for one in (*self.system.predicting, *self.system.folding)]
        self.owners = self._owned()
        self.zombies: list[Running[Any]] = []
        self.closed: list[Intent] = []
        self.ticker = self._handle()
        all_ = len(self.owners)  # what happens to some owner happens to each as often, however many there are
        moves: dict[Callable[[], str], float] = {
            self.produce: 2 * len(self.producers), self.advance: 2 * all_, self.tick: 1.1, self.restart: all_ / 3,
            self.rival: all_ / 120, self.wake: all_ / 40, self.reboot: 0.02, self.training: 1.2, self.person: 0.03,
            self.save: all_ / 60,
        }  # fmt: skip
        self.moves, self.weights = list(moves), list(itertools.accumulate(moves.values()))

    def _handle(self) -> FaultyLog:
        return FaultyLog(self.log, self.faults)

    def _booted(self) -> System:
        for _ in range(TRIES):
            try:
                return self.at.boot()
            except (Killed, Unavailable):
                continue
        raise laws.Lawless(f"A process starts within {TRIES} tries")

    def _owned(self) -> list[Owner]:
        return [Owner(one.stage.name, one) for one in (*self.system.predicting, *self.system.folding)]

    def play(self) -> None:
        """First with faults, then healed; then everything is held against its replay."""
        at = self.at
        while at.steps < STEPS and any(one.due_ms() is not None for one in self.producers):
            self.step()
        self.faults.on = False
        at.tell("healed")
        self.heal()
        self.hold()

    def step(self) -> None:
        """One move of somebody, and a look at the laws."""
        at = self.at
        at.steps += 1
        move = self.moves[bisect(self.weights, self.chance.random() * self.weights[-1])]
        try:
            told = move()
        except Killed:
            told = "killed"
        except Fenced:
            told = "fenced"
        except Unavailable as error:
            told = error.code
        if told:
            at.tell(f"{move.__name__}: {told}")
            at.watch.look()

    # Who moves.

    def produce(self) -> str:
        """A producer sends its next batch, or an older one again."""
        one = self.chance.choice(self.producers)
        if isinstance(one, Asker):
            return self.ask(one)
        due_ms = one.due_ms()
        if one.sent and self.chance.random() < 0.05:
            again = self.chance.randrange(one.sent)
            one.log.append(one.batches[again][1], producer=one.name, sequence=again + 1)
            self.at.seen["batch_sent_again"] += 1
            return f"{one.name} sends {again + 1} again"
        if due_ms is None or due_ms > self.at.now_ms:
            return ""
        drafts = one.batches[one.sent][1]
        one.log.append(drafts, producer=one.name, sequence=one.sent + 1)
        one.sent += 1
        for draft in drafts:
            stands = not draft.id or self.log.find(draft.topic, draft.id)
            laws.demand(stands, "What was acknowledged stands", draft.id)
        return f"{one.name} sends {one.sent}"

    def ask(self, one: Asker) -> str:
        """Somebody asks, now and then for what was asked before. Who cannot be answered at once sends events."""
        due_ms, repeats = one.due_ms(), bool(one.sent) and self.chance.random() < 0.1
        fresh = (
            due_ms is not None and due_ms <= self.at.now_ms and not (repeats and self.chance.random() < 0.5)
        )
        drafts = [*one.batches[one.sent][1]] if fresh else []
        drafts += self.chance.choice(one.batches[: one.sent])[1] if repeats else []
        if not drafts:
            return ""
        model = self.chance.choice(one.models)
        done = self._answered(one.log, model, drafts)
        if not done:
            one.log.append(drafts)
        one.sent += fresh
        self.at.seen["asked_again"] += repeats
        return f"{len(drafts)} requests to {model}, {'answered' if done else 'as events'}"

    def _answered(self, log: FaultyLog, model: str, drafts: list[Draft]) -> bool:
        """Whether requests were answered at once, and whoever asked was told what was said."""
        at = self.at
        outputs = self._said(model, drafts)
        if outputs is None:
            return False
        at.seen["answered_at_once"] += 1
        fresh = {one.request: value for one, value in _served(model, outputs)}
        for id in dict.fromkeys(draft.id for draft in drafts):
            answer = fresh.get(id) or laws.said(log, at.file.plan(model), id)
            if answer is not None:
                at.watch.told(model, id, answer)
        return True

    def _said(self, model: str, drafts: list[Draft]) -> list[Draft] | None:
        """What the owners of a model's stages say at once; among them may be one who takes himself for an owner."""
        at, models = self.at, self.system.orders[model]
        door = {one.name: one.running for one in self.owners if one.running is not None}
        rivals = [one for one in self.zombies if one.stage.name.removeprefix("predict.") in models]
        if rivals and self.chance.random() < 0.5:
            rival = self.chance.choice(rivals)
            door[rival.stage.name] = rival
            at.seen["asked_a_rival"] += 1
        self.system.running, before = door, self.log.end()
        try:
            return self.system.answer(model, drafts)
        except (Killed, Fenced) as error:  # the process ends, and nobody runs what it ran
            at.seen["asker_fenced"] += isinstance(error, Fenced)
            ended = [door.get(f"predict.{name}") for name in models]
            self.zombies = [one for one in self.zombies if one not in ended]
            for owner in self.owners:
                owner.running = None if owner.running in ended else owner.running
            raise
        finally:
            at.watch.joint(models, before)

    def tick(self) -> str:
        """Time goes on: by some hours, at times by days; at times a clock was wrong and goes back."""
        at = self.at
        luck = self.chance.random()
        step_ms = self.chance.randrange(HOUR_MS // 2, 18 * HOUR_MS)
        if luck < 0.04:
            step_ms = -self.chance.randrange(2 * HOUR_MS)
        elif luck < 0.08:
            step_ms = self.chance.randrange(4 * 24 * HOUR_MS)
        due = [ms for ms in (one.due_ms() for one in self.producers) if ms is not None]
        most_ms = min(due) + at.history.wait_ms // 2 if due and not self.jumpy else at.now_ms + step_ms
        now_ms = min(at.now_ms + step_ms, max(most_ms, at.now_ms))
        at.now_ms = max(at.now_ms, now_ms)
        self.ticker.append([clock_draft(now_ms)])
        return f"{now_ms - at.history.start_ms} ms"

    def advance(self) -> str:
        """An owner takes its next batch. What it does not survive, the next owner must."""
        owner = self.chance.choice(self.owners)
        if owner.running is None or self._idle(owner.running):
            return ""
        owner.running.batch = self.chance.choice(BATCHES)
        try:
            made = owner.running.advance()
        except (Killed, Fenced):
            owner.running = None
            raise
        return "" if made is None else f"{owner.name} to {owner.running.position}, {len(made)} outputs"

    def _idle(self, running: Running[Any]) -> bool:
        """Whether there is nothing to take for certain."""
        return running.position == self.log.end() and running.waiting is None and not running.torn

    def save(self) -> str:
        """An owner writes its state."""
        owner = self.chance.choice(self.owners)
        if owner.running is None:
            return ""
        try:
            owner.running.save()
        except (Killed, Fenced):
            owner.running = None
            raise
        return owner.name

    def restart(self) -> str:
        """A stage that nobody owns gets an owner, from the log alone."""
        owner = self.chance.choice(self.owners)
        if owner.running is not None:
            return ""
        self._own(owner)
        return owner.name

    def _own(self, owner: Owner) -> None:
        stage = next(one for one in self.stages if one.name == owner.name)
        owner.running = Running(stage, self._handle())
        self.at.seen["restored"] += bool(self.log.load(stage.name).position.n)
        self.at.seen["restored_from_state"] += bool(self.log.load(stage.name).state)

    def rival(self) -> str:
        """An owner is paused, and another takes its stage over."""
        owner = self.chance.choice(self.owners)
        if owner.running is not None:
            self.zombies.append(owner.running)
            owner.running = None
        self._own(owner)
        return owner.name

    def wake(self) -> str:
        """One who was paused goes on as if nothing had happened: nothing that it does may stand."""
        if not self.zombies:
            return ""
        zombie = self.zombies.pop(self.chance.randrange(len(self.zombies)))
        before = self.log.load(zombie.stage.name)
        owns = before.epoch == zombie.epoch  # whoever paused it never came to claim
        try:
            made = zombie.advance()
        except Fenced:
            self.at.seen["zombie_fenced"] += 1
            return f"{zombie.stage.name} is fenced"
        after = self.log.load(zombie.stage.name)
        laws.demand(
            owns or (made is None and after == before), "A fenced owner writes nothing", zombie.stage.name
        )
        self.zombies.append(zombie)
        return f"{zombie.stage.name} finds nothing"

    def reboot(self) -> str:
        """Another process claims every stage; the one before is paused."""
        system = self.at.boot()
        self.zombies += [owner.running for owner in self.owners if owner.running is not None]
        self.system, self.owners = system, self._owned()
        self.stages = [one.stage for one in (*system.predicting, *system.folding)]
        self.at.seen["rebooted"] += 1
        return "a new process"

    def training(self) -> str:
        """An intent is carried out: the result comes, comes late, twice, or is lost with its trainer."""
        open_ = self.system.pending()
        late = [one for one in self.closed if one not in open_]
        if late and self.chance.random() < 0.05:
            self.at.seen["result_twice"] += 1
            return self._carried(self.chance.choice(late))
        return self._carried(self.chance.choice(open_)) if open_ else ""

    def _carried(self, intent: Intent) -> str:
        self.system.trainer = self._trainer
        try:
            self.system.carry_out(intent)
        except Fenced:  # a process that died while it started had claimed the work: another takes its place
            name = f"work.{intent.model}"
            self.system.working[intent.model] = self.log.load(name, claim=True).epoch
            raise
        if intent not in self.closed:
            self.closed.append(intent)
        return intent.id

    def _trainer(self, order: Order) -> Version | Failure:
        at, id = self.at, order.intent.id
        known = at.results.get(id)
        if known is None or (isinstance(known, Version) and self.chance.random() < 0.05):
            result = at.train(order)
            if isinstance(known, Version) and isinstance(result, Version):
                at.seen["trained_again"] += 1
                laws.demand(result.digest == known.digest, "A training made again is the same", id)
            at.results.setdefault(id, result)
            if self.faults.on and self.chance.random() < 0.4:
                at.seen["trainer_died"] += 1
                if self.chance.random() < 0.3 and not isinstance(result, Version):
                    del at.results[id]
                raise Unavailable("The trainer has not come to its end.", code="trainer")
        return at.results[id]

    def person(self) -> str:
        """Somebody asks for something, sensible or not."""
        at = self.at
        name = self.chance.choice(sorted(at.file.plans))
        kind: Any = self.chance.choice(("train", "promote", "promote", "rollback"))
        version = self.chance.randrange(1, 4)
        decide(self._handle(), Decision(name, kind, "ada", "to see", at.now_ms, version))
        return f"{kind} {name} v{version}"

    # Healed.

    def heal(self) -> None:
        """Faults are over: everything that waits is done within so many rounds."""
        at = self.at
        ticks = 4
        for _ in range(ROUNDS):
            before = self.log.end()
            self._round()
            at.watch.look()
            if self.log.end() == before and all(one.due_ms() is None for one in self.producers):
                if not ticks:
                    return
                ticks -= 1
                at.now_ms += int(0.8 * max(plan.label.wait_ms for plan in at.file.plans.values()))
                self.ticker.append([clock_draft(at.now_ms)])
        raise laws.Lawless(f"A healed system drains within {ROUNDS} rounds")

    def _round(self) -> None:
        for one in self.producers:
            due_ms = one.due_ms()
            if due_ms is not None:
                self.at.now_ms = max(self.at.now_ms, due_ms)
                if isinstance(one, Asker):
                    self.ask(one)
                    continue
                one.log.append(one.batches[one.sent][1], producer=one.name, sequence=one.sent + 1)
                one.sent += 1
        for owner in self.owners:
            try:
                if owner.running is None:
                    self._own(owner)
                assert owner.running is not None
                while owner.running.advance() is not None:
                    self.at.steps += 1
            except Fenced:
                owner.running = None
        for intent in self.system.pending():
            with contextlib.suppress(Fenced):
                self._carried(intent)

    def hold(self) -> None:
        """Everything that must be so at the end."""
        at = self.at
        while self.zombies:
            if self.wake().endswith("nothing"):
                self.zombies.pop()
        running = [owner.running for owner in self.owners if owner.running is not None]
        laws.drained(self.log, at.file, [one.stage for one in running], at.watch)
        at.watch.hold_told()
        laws.replayed(self.log, [(one.stage, one.stage.dump(one.state)) for one in running])
        at.seen["predictions_verified"] = laws.verified(self.log, at.blobs, at.file)
        laws.sent_once(self.log, (one.draft for one in at.history.events))
        if not self.jumpy:
            found = laws.truths(self.log, at.history)
            for name, sure in at.history.truths.items():
                unequal = sorted(id for id, label in sure.items() if found[name].get(id, -1.0) != label)
                laws.demand(not unequal, "A label that came in time is the outcome's", unequal[:3])


def _served(model: str, outputs: list[Draft]) -> Iterator[tuple[Prediction, bytes]]:
    for one in outputs:
        if one.topic == predictions(model) and (said := unpack(one.value, Prediction)).served:
            yield said, one.value


def run(ground: Ground, seed: int, *, trace: bool = False) -> Run:
    """Play one schedule; with `trace` every step is told."""
    schedule = Schedule(ground, seed)
    if trace:
        schedule.lines = deque()
    return schedule.play()
