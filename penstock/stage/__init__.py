"""stage: step, commit, replay. The one loop that turns records into state and records.

A `Stage` is a pure step over some topics. `Running` owns it on a log: it reads what is new, folds it,
and commits state, position and outputs together. `replay` is the same fold without the commit.

A step reads a foreign value before it changes anything, so that a record which is poison changes
nothing: the stage buries it (a dead letter in its own commit) and goes on. An `Again` brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from penstock.log import Appended, Checkpoint, Commit, Joint, Log, Where
from penstock.log.crash import Point, point
from penstock.record.codec import pack, unpack
from penstock.record.decisions import AGAIN, DEAD, Again, DeadLetter, read
from penstock.record.errors import Poison
from penstock.record.record import START, Draft, Position, Record, Returned, output_id, placed

S = TypeVar("S")
Emitted = tuple[Record, Draft]
Step = Callable[[S, Record], tuple[S, Sequence[Draft]]]
StepMany = Callable[[S, Sequence[Record]], tuple[S, list[Emitted]]]


class Stage(msgspec.Struct, Generic[S], frozen=True):
    """A named, pure step: `step(state, record) -> (state, drafts)`.

    `step_many` is the same over a batch whose state it owns; it must equal folding `step`, and says of
    each draft which record it came from. `dump` and `load` turn the state into bytes and back.
    `snapshot_every` is the number of records between two written states (1: each commit); `sync` says
    whether what it said must survive power loss before anything builds on it. `said_as` is the name in the
    outputs' ids, where it is not the stage's own: a share says what the undivided stage would say. `refold` does to
    the state what `step_many` does, where that is cheaper without what a step says: a resumption asks no model.
    """

    name: str
    inputs: tuple[str, ...]
    empty: Callable[[], S]
    step_many: StepMany[S]
    dump: Callable[[S], bytes]
    load: Callable[[bytes], S]
    snapshot_every: int = 1
    sync: bool = True
    said_as: str = ""
    refold: StepMany[S] | None = None

    @property
    def label(self) -> str:
        """The name in ids and dead letters."""
        return self.said_as or self.name


def stage(
    name: str,
    inputs: Iterable[str],
    state: type[S],
    step: Step[S],
    *,
    snapshot_every: int = 1,
    sync: bool = True,
) -> Stage[S]:
    """A stage from a plain step and a state struct with defaults, whose codec is its type."""

    def many(current: S, records: Sequence[Record]) -> tuple[S, list[Emitted]]:
        def one(record: Record) -> Sequence[Draft]:
            nonlocal current
            current, drafts = step(current, record)
            return drafts

        emitted = each(name, one, records)
        return current, emitted

    return Stage(
        name, tuple(inputs), state, many, pack, lambda data: unpack(data, state), snapshot_every, sync
    )


def each(name: str, take: Callable[[Record], Sequence[Draft]], records: Iterable[Record]) -> list[Emitted]:
    """What `take` makes of each record, or the dead letter of one that is poison."""
    emitted: list[Emitted] = []
    for record in records:
        try:
            emitted += [(record, made) for made in take(record)]
        except Poison as why:
            emitted.append((record, buried(name, record, why)))
    return emitted


def buried(name: str, record: Record, why: Poison) -> Draft:
    """A record's dead letter, under an id of its own: said once, however often the record is met."""
    letter = DeadLetter(
        name, record.topic, record.position, record.o, why.id, why.key, why.code, why.what, why.sample, record.time_ms
    )  # fmt: skip
    id = f"{DEAD}:{name}:{record.topic}:{record.o}"
    return Draft(DEAD, name, record.time_ms, pack(letter), id)


def returned(log: Log, name: str, topics: Sequence[str], records: Iterable[Record]) -> Iterator[Record]:
    """The records, with what an `Again` brings back to this stage in the place of the `Again`."""
    for record in records:
        if record.topic != AGAIN:
            yield record
            continue
        again = read(record, Again)
        place = Position(n=again.position)
        if name in again.stages and again.topic in topics and place.n >= log.first(again.topic).n:
            for one in log.read([again.topic], place, stop=Position(n=place.n + 1))[0]:
                yield Returned(**msgspec.structs.asdict(one), again=record.position)


def every(log: Log, topics: Sequence[str], where: Where | None = None) -> Iterator[Record]:
    """All records of some topics, in the log's order, a batch of them in memory at a time."""
    position = START
    while True:
        records, position = log.read(topics, position, limit=4096, where=where, passing=True)
        if not records:
            return
        yield from records


def folded(
    log: Log,
    name: str,
    topics: Sequence[str],
    start: Position = START,
    *,
    stop: Position | None = None,
    limit: int = 1024,
) -> Iterator[tuple[list[Record], Position]]:
    """What the stage of this name folds or has folded, batch by batch: without the records that it has
    buried, whatever today's code makes of them, and with each that came back where it did. From START on,
    what retention took is passed over."""
    mine = every(log, [DEAD], Where(keys=frozenset([name]))) if AGAIN in topics else ()
    dead, passing = {read(letter, DeadLetter).o for letter in mine}, start == START
    while True:
        records, start = log.read(topics, start, stop=stop, limit=limit, passing=passing)
        yield [one for one in returned(log, name, topics, records) if one.o not in dead], start
        if not records:
            return


def with_ids(name: str, emitted: Iterable[Emitted]) -> Iterator[Draft]:
    """The drafts under their deterministic ids: (stage, source topic, position, n)."""
    source: Record | None = None
    n = 0
    for record, draft in emitted:
        n = n + 1 if record is source else 0
        source = record
        yield msgspec.structs.replace(draft, id=draft.id or output_id(name, record.topic, record.position, n))


RECORD_BYTES = 200
"""A large state is written again once a record was folded for so many bytes of it: the log grows with the records."""


class Running(Generic[S]):
    """A stage at a position of a log, owned under an epoch. One thread at a time may advance it."""

    def __init__(self, stage: Stage[S], log: Log, *, batch: int = 1024) -> None:
        self.stage, self.log, self.batch = stage, log, batch
        self.repeated = 0  # outputs that stood already: of an earlier owner, or of a try that seemed to fail
        self._resume(log.load(stage.name, claim=True))

    def _resume(self, checkpoint: Checkpoint) -> None:
        self.epoch, self.position, self.size = checkpoint.epoch, checkpoint.position, len(checkpoint.state)
        self.state = restore(self.stage, self.log, checkpoint)
        self.unsaved = 0
        self.waiting: Commit | None = None  # folded, and not on the log yet
        self.torn = False  # a step that raised has left half a batch in the state

    def advance(self) -> list[Draft] | None:
        """Fold what is new, at most one batch, and commit it; the outputs, or None when nothing was new.
        Where the commit fails, the next call tries the same one again."""
        if self.torn:
            self._resume(msgspec.structs.replace(self.log.load(self.stage.name), epoch=self.epoch))
        if self.waiting is None:
            records, position = self.log.read(self.stage.inputs, self.position, limit=self.batch)
            if not records:
                self.position = position  # nothing to commit: a restart reads the same emptiness again
                return None
            self._fold(records, position, save=True)
        return self._commit()

    @property
    def due(self) -> bool:
        """Whether so much was folded since the state was written that it is to be written again."""
        return self.unsaved >= max(self.stage.snapshot_every, self.size // RECORD_BYTES)

    def put(self, drafts: Sequence[Draft]) -> tuple[Appended, list[Draft]]:
        """Append records of an input and fold them, with all that lies below, in one write with what comes of
        them: their places, and the outputs. The log is a `Joint`. Whatever it raises, none of it is on the log.
        No state is written: that would keep the log to oneself for long."""
        log = cast(Joint, self.log)
        outputs: list[Draft] = []
        while self.torn or self.waiting is not None:
            outputs += self.advance() or []

        def then(done: Appended) -> Commit:
            fresh = sorted(set(range(len(drafts))) - set(done.repeats))
            start, reached = Position(n=done.end.n - len(fresh)), self.position
            records: list[Record] = []
            while reached.n < start.n:  # what others wrote since
                more, reached = self.log.read(self.stage.inputs, reached, stop=start)
                records += more
            records += [placed(drafts[i], done.places[i]) for i in fresh]
            return self._fold(records, done.end, save=False)

        try:
            done, said = log.join(drafts, then, sync=self.stage.sync)
        except BaseException:
            self.torn, self.waiting = self.torn or self.waiting is not None, None
            raise
        self.repeated += len(said.repeats)
        fresh = self._done()
        if not {output.topic for output in fresh}.intersection(self.stage.inputs):
            self.position = said.end  # what lies between is our own
        return done, outputs + fresh

    def _fold(self, records: Sequence[Record], position: Position, *, save: bool) -> Commit:
        name = self.stage.label
        self.torn = True
        due = list(returned(self.log, name, self.stage.inputs, records))
        self.state, emitted = self.stage.step_many(self.state, due)
        self.torn = False
        self.unsaved += len(records)
        return self._wait(position, list(with_ids(name, emitted)), save and self.due)

    def save(self) -> None:
        """Write the state at the present position, so that a resumption has nothing to fold again."""
        if self.waiting is not None:
            self._commit()
        if self.unsaved and not self.torn:
            self._wait(self.position, [], True)
            self._commit()

    def _wait(self, position: Position, outputs: Sequence[Draft], save: bool) -> Commit:
        state = self.stage.dump(self.state) if save else None
        self.waiting = commit = Commit(self.stage.name, self.epoch, position, outputs, state)
        return commit

    def _commit(self) -> list[Draft]:
        commit = cast(Commit, self.waiting)
        point(Point.STEP, self.stage.name)
        self.repeated += len(self.log.commit(commit, sync=self.stage.sync and bool(commit.outputs)).repeats)
        point(Point.STEPPED, self.stage.name)
        return self._done()

    def _done(self) -> list[Draft]:
        commit = cast(Commit, self.waiting)
        self.position, self.waiting = commit.position, None
        if commit.state is not None:
            self.unsaved, self.size = 0, len(commit.state)
        return list(commit.outputs)


def restore(stage: Stage[S], log: Log, checkpoint: Checkpoint) -> S:
    """The state at a checkpoint's position: the saved one, with the records since folded again."""
    state = stage.load(checkpoint.state) if checkpoint.state else stage.empty()
    return _fold(stage, log, state, checkpoint.state_position, checkpoint.position)


def replay(stage: Stage[S], log: Log, stop: Position | None = None) -> S:
    """The state that the log alone gives, below `stop` (default: the end)."""
    return _fold(stage, log, stage.empty(), START, stop or log.end())


def _fold(stage: Stage[S], log: Log, state: S, start: Position, stop: Position) -> S:
    for records, _ in folded(log, stage.label, stage.inputs, start, stop=stop):
        state, _ = (stage.refold or stage.step_many)(state, records)
    return state


class View(Generic[S]):
    """A fold that others read: it owns nothing, commits nothing, and says at which position it stands."""

    def __init__(self, stage: Stage[S], log: Log) -> None:
        self.stage = stage
        self.log = log
        self.position = START
        self.state = stage.empty()

    def read(self) -> S:
        """The state as of now."""
        for records, position in folded(self.log, self.stage.label, self.stage.inputs, self.position):
            self.state, _ = self.stage.step_many(self.state, records)
            self.position = position
        return self.state


AnyStage = Stage[Any]
