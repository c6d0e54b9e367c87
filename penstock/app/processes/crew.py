"""app: some stages of a file run by this process, beside others that run the same: `penstock run`.

A seat says who runs a share now, the epoch on the log who may commit. Whoever loses either lets go
and, at his next turn, begins again from what the log says.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.app.collector import staying
from penstock.app.home import DEPLOYED, Home, open_home, wall_ms
from penstock.app.parts import OPEN, Parts, one_thread
from penstock.app.pipeline import File, load
from penstock.app.processes.seats import LockSeats, Seat, Seats
from penstock.app.processes.turn import WAIT_S, Turn
from penstock.app.system import batch_of, clock_draft, deploy, finish, order, own
from penstock.app.upkeep import Caretaker
from penstock.app.worker import Stopped, in_process
from penstock.log.sqlite import SqliteLog
from penstock.record.decisions import Intent
from penstock.record.errors import Fenced, NotFound, PenstockError, Unavailable
from penstock.record.event import unknown
from penstock.record.record import Position
from penstock.stage import AnyStage, Running, View

if TYPE_CHECKING:
    from penstock.app.processes.group import Lags

LOOK_S = 0.25
"""Between two looks at the seats."""
SHOW_S = 5.0
"""Between two displays of the lags in Kafka's own tools."""
BARRED_S = 2.0
"""How long a stage whose owner was fenced is left alone: by then this process knows whose seat it is."""
KINDS = ("predict", "join", "derive", "outcome", "monitor", "train", "gate", "release", "consistency", "tick")


class Settings(msgspec.Struct, frozen=True):
    """What to run and how. `stages`: kinds, full names, or "all"; `shares`: 0 keeps the log's number;
    `in_turn`: for replays, see `app.processes.turn`; `name`: see `processes.group.GroupSeats`."""

    stages: tuple[str, ...] = ("all",)
    shares: int = 0
    in_turn: bool = False
    tick_s: float = 1.0
    name: str = ""


class Crew:
    """Stages of a file at work: a thread that answers, one that folds, one that trains, one that ticks
    and one that looks after the seats. In turn, answers and folds share a thread."""

    def __init__(self, file: File, home: Home, settings: Settings, shares: int) -> None:
        self.file, self.home, self.log, self.settings = file, home, home.log, settings
        self.shares = shares
        parts = Parts(file, home.log, home.blobs, time.perf_counter)
        parts.patience = self._hold
        self.posts = parts.posts(shares)
        works = {f"work.{model}": f"train.{model}" for model in file.plans}
        wanted = chosen(settings.stages, self.posts)
        self.mine = {name: stages for name, stages in self.posts.items() if name in wanted}
        self.works = [name for name, train in works.items() if train in wanted]
        self.ticks = "tick" in wanted and not settings.in_turn  # a replay brings its own time
        counts = {name: len(stages) for name, stages in self.mine.items()}
        counts |= dict.fromkeys([*self.works, *(["tick"] if self.ticks else [])], 1)
        self.stopping = threading.Event()
        self.unseated = threading.Event()  # a training under way is called off
        self.broken, self.moved = "", False
        self.running: dict[str, Running[object]] = {}
        self.epochs: dict[str, int] = {}  # of the works that are ours
        self.barred: dict[str, float] = {}
        self.locks = {one.name: threading.Lock() for stages in self.posts.values() for one in stages}
        self.deployed = View(DEPLOYED, self.log)
        self.seats, self.lags = seats(home, settings.name, counts, self.leave)
        self.shown = 0.0
        self.threads: list[threading.Thread] = []

    def run(self, stop: threading.Event, said: Callable[[Crew], None] = lambda crew: None) -> bool:
        """Work until asked to stop (False) or until the log says another number of shares (True)."""
        answers = {name: one for name, one in self.mine.items() if name.startswith("predict.")}
        folds = {name: one for name, one in self.mine.items() if name not in answers}
        turns: dict[str, Callable[[], None]] = {"seats": self._look}
        if self.settings.in_turn:
            turns["stages"] = self._in_turn(Turn(self.log, self._order()))
        else:
            turns |= {"predict": self._side_by_side(answers)} if answers else {}
            turns |= {"fold": self._side_by_side(folds)} if folds else {}
        turns |= {"train": self._train()} if self.works else {}
        turns |= {"tick": self._tick} if self.ticks else {}
        for name, turn in turns.items():
            thread = threading.Thread(target=self._loop, args=(turn,), name=f"penstock-{name}", daemon=True)
            thread.start()
            self.threads.append(thread)
        if self.ticks:
            Caretaker(self.home.path, self.home.log, self.stopping).start()
        said(self)
        while not stop.wait(0.1) and not self.stopping.is_set():
            pass
        self.stop()
        if self.broken:
            raise Unavailable(f"The stages stopped themselves: {self.broken}", code="broken")
        return self.moved and not stop.is_set()

    def stop(self) -> None:
        """Finish the batches under way, write the states, give the seats up."""
        self.stopping.set()
        self.unseated.set()
        for thread in self.threads:
            thread.join()
        self.seats.close()
        for name, stages in self.mine.items():
            for k in range(len(stages)):
                self.leave((name, k))

    def leave(self, seat: Seat) -> None:
        """A seat is another's from now on: write the state that we have, if it is still ours to write."""
        name, k = seat
        if name in self.works:
            self.unseated.set()
            self.epochs.pop(name, None)
        for one in self.posts.get(name, [])[k : k + 1]:
            with self.locks[one.name]:
                running = self.running.pop(one.name, None)
                try:
                    if running is not None:
                        running.save()
                except Unavailable:  # fenced, or the log is away: the next owner folds what is not written
                    pass

    def _order(self) -> Iterable[AnyStage]:
        return [one for stages in self.posts.values() for one in stages]

    # The threads' turns.

    def _loop(self, turn: Callable[[], None]) -> None:
        one_thread()
        while not self.stopping.is_set():
            try:
                turn()
            except Unavailable:
                self.stopping.wait(0.2)
            except BaseException as error:  # nothing may go on above a broken invariant: stop, say why
                known = isinstance(error, PenstockError)
                self.broken = str(error) if known else f"{type(error).__name__}; see the notes."
                traceback.print_exception(error)
                self.stopping.set()

    def _hold(self, code: str) -> None:
        if self.stopping.wait(0.2):
            raise Unavailable("Whoever scores this queue is away.", code=code)

    def _look(self) -> None:
        self.seats.look()
        newest = self.deployed.read().newest
        if newest is not None and newest.shares != self.shares:
            self.moved = True
            self.stopping.set()
        if self.lags is not None and time.monotonic() > self.shown + SHOW_S:
            self.shown = time.monotonic()
            for running in list(self.running.values()):
                self.lags.show(running.stage.name, running.stage.inputs, running.position)
        self.stopping.wait(LOOK_S)

    def _side_by_side(self, posts: Mapping[str, list[AnyStage]]) -> Callable[[], None]:
        def turn() -> None:
            end = self.log.end()
            moved = [self.advance((name, k)) for name, stages in posts.items() for k in range(len(stages))]
            if not any(moved):
                self.log.wait(end, WAIT_S)

        return turn

    def _in_turn(self, order: Turn) -> Callable[[], None]:
        places = {one.name: (name, k) for name, stages in self.mine.items() for k, one in enumerate(stages)}

        def turn() -> None:
            heard = self.log.hear(-1, 0)
            name = order.next()
            if name not in places or not self.advance(places[name]):
                self.log.hear(heard, WAIT_S)

        return turn

    def advance(self, seat: Seat) -> bool:
        """One batch of a share that is ours, or the share taken over; says whether to look again."""
        name, k = seat
        one = self.posts[name][k]
        with self.locks[one.name]:
            if seat not in self.seats.held() or time.monotonic() < self.barred.get(one.name, 0):
                return False
            try:
                if one.name not in self.running:
                    self.running[one.name] = own(one, self.log, batch=batch_of(one, self.file))
                    return True  # the owner before us may have moved since we saw our turn: whose is it now?
                return self.running[one.name].advance() is not None
            except PenstockError as error:
                self.running.pop(one.name, None)  # its state may be ahead of the log: begin again from there
                if not isinstance(error, Fenced):
                    raise
                self.barred[one.name] = time.monotonic() + BARRED_S
                return False

    def _train(self) -> Callable[[], None]:
        view = View(OPEN, self.log)
        turns = Turn(self.log, self._order()) if self.settings.in_turn else None

        def turn() -> None:
            heard, end = self.log.hear(-1, 0), self.log.end()
            intents = [one for one in view.read().intents.values() if one.model in self.file.plans]
            if turns is not None:  # the oldest one, when all who fold have done; both as of one moment
                intents = intents[:1] if not turns.next() and self.log.end() == end else []
            if not any(self._work(one, view.position) for one in intents):
                self.log.hear(heard, WAIT_S)

        return turn

    def _work(self, intent: Intent, position: Position) -> bool:
        """Carry an intent out, if that is our work; says whether to look again."""
        name = f"work.{intent.model}"
        if (name, 0) not in self.seats.held() or time.monotonic() < self.barred.get(name, 0):
            return False
        epoch = self.epochs.get(name)
        if epoch is None:
            self.epochs[name] = self.log.load(name, claim=True).epoch
            return True  # what the owner before us did stands on the log by now
        try:
            result = in_process(order(self.file, self.home.path, intent), stop=self.unseated)
            finish(self.log, intent, result, epoch, position)
        except Stopped:
            self.unseated.clear()
        except Fenced:
            self.epochs.pop(name, None)
            self.barred[name] = time.monotonic() + BARRED_S
        return True

    def _tick(self) -> None:
        if not self.stopping.wait(self.settings.tick_s) and ("tick", 0) in self.seats.held():
            self.log.append([clock_draft(wall_ms())], sync=False)


def chosen(names: Iterable[str], posts: Iterable[str]) -> set[str]:
    """The stages that are meant by kinds, full names or "all"; raises NotFound with the nearest name."""
    known = [*posts, "tick"]
    found: set[str] = set()
    for name in names:
        these = {one for one in known if name in ("all", one, one.partition(".")[0])}
        if not these:
            raise NotFound(unknown(name, [*KINDS, *known], "a stage of this file"), code="unknown_stage")
        found |= these
    return found


def run(
    path: str,
    home_path: Path,
    settings: Settings,
    said: Callable[[Crew], None],
    stop: threading.Event,
    *,
    log: tuple[str, str] = ("", ""),
    blobs: str = "",
) -> None:
    """Run stages of a file until asked to stop. `log`: the address of a log elsewhere, and its settings."""
    with staying():
        file = load(path)
        home = open_home(home_path, create=True, log=log[0], settings=log[1], blobs=blobs)
    try:
        again = True
        while again:
            crew = Crew(file, home, settings, _shares(file, home, settings.shares))
            again = crew.run(stop, said)
            settings = msgspec.structs.replace(settings, shares=0)
    finally:
        home.log.close()


def _shares(file: File, home: Home, asked: int) -> int:
    """The number of shares: the one asked for, else the log's. What is new about the file is said there."""
    newest = View(DEPLOYED, home.log).read().newest
    shares = asked or (newest.shares if newest else 1)
    if newest is None or (newest.code, newest.shares) != (file.code, shares):
        deploy(file, home.log, wall_ms(), shares)
    return shares


def seats(
    home: Home, name: str, shares: Mapping[str, int], leave: Callable[[Seat], None]
) -> tuple[Seats, Lags | None]:
    """Seats among the processes of this log, of one home or of one consumer group, and where lags are shown."""
    if type(home.log) is SqliteLog:
        return LockSeats(home.path / "seats", shares, leave), None
    from penstock.app.processes.group import GroupSeats, Lags

    return GroupSeats(home.log, name, shares, leave), Lags(home.log)
