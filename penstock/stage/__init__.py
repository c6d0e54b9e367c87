"""stage: step, commit, replay. The one loop that turns records into state and records.

A `Stage` is a pure step over some topics. `Running` owns it on a log: it reads what is new, folds it,
and commits state, position and outputs together. `replay` is the same fold without the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from penstock.log import Checkpoint, Commit, Log
from penstock.log.crash import Point, point
from penstock.record.codec import pack, unpack
from penstock.record.errors import Fenced
from penstock.record.record import START, Draft, Position, Record, output_id

S = TypeVar("S")
Emitted = tuple[Record, Draft]
Step = Callable[[S, Record], tuple[S, Sequence[Draft]]]
StepMany = Callable[[S, Sequence[Record]], tuple[S, list[Emitted]]]


class Stage(msgspec.Struct, Generic[S], frozen=True):
    """A named, pure step: `step(state, record) -> (state, drafts)`.

    `step_many` is the same over a batch whose state it owns; it must equal folding `step`, and says of
    each draft which record it came from. `dump` and `load` turn the state into bytes and back.
    `snapshot_every` is the number of records between two written states (1: each commit); `sync` says
    whether a commit must survive power loss before anything builds on it.
    """

    name: str
    inputs: tuple[str, ...]
    empty: Callable[[], S]
    step_many: StepMany[S]
    dump: Callable[[S], bytes]
    load: Callable[[bytes], S]
    snapshot_every: int = 1
    sync: bool = True


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
        emitted: list[Emitted] = []
        for record in records:
            current, drafts = step(current, record)
            emitted.extend((record, draft) for draft in drafts)
        return current, emitted

    return Stage(
        name, tuple(inputs), state, many, pack, lambda data: unpack(data, state), snapshot_every, sync
    )


def with_ids(name: str, emitted: Iterable[Emitted]) -> Iterator[Draft]:
    """The drafts under their deterministic ids: (stage, source topic, position, n)."""
    source: Record | None = None
    n = 0
    for record, draft in emitted:
        n = n + 1 if record is source else 0
        source = record
        yield msgspec.structs.replace(draft, id=draft.id or output_id(name, record.topic, record.position, n))


class Running(Generic[S]):
    """A stage at a position of a log, owned under an epoch. One thread at a time may advance it."""

    def __init__(self, stage: Stage[S], log: Log, *, batch: int = 1024) -> None:
        self.stage = stage
        self.log = log
        self.batch = batch
        checkpoint = log.load(stage.name, claim=True)
        self.epoch = checkpoint.epoch
        self.position = checkpoint.position
        self.state = restore(stage, log, checkpoint)
        self.unsaved = 0
        self.unsure = False

    def advance(self) -> list[Draft] | None:
        """Fold what is new, at most one batch, and commit it; the outputs, or None when nothing was new.

        Whatever it raises, the commit may have happened: the next call takes the state from the log.
        """
        if self.unsure:
            self._recall()
        self.unsure = True
        made = self._advance()
        self.unsure = False
        return made

    def _recall(self) -> None:
        checkpoint = self.log.load(self.stage.name)
        if checkpoint.epoch != self.epoch:
            raise Fenced(where=self.stage.name)
        self.state = restore(self.stage, self.log, checkpoint)
        self.position, self.unsaved = checkpoint.position, 0

    def _advance(self) -> list[Draft] | None:
        records, position = self.log.read(self.stage.inputs, self.position, limit=self.batch)
        if not records:
            self.position = position  # nothing to commit: a restart reads the same emptiness again
            return None
        self.state, emitted = self.stage.step_many(self.state, records)
        outputs = list(with_ids(self.stage.name, emitted))
        self.unsaved += len(records)
        save = self.unsaved >= self.stage.snapshot_every
        self._commit(position, outputs, self.stage.dump(self.state) if save else None)
        return outputs

    def save(self) -> None:
        """Write the state at the present position, so that a resumption has nothing to fold again."""
        if self.unsaved and not self.unsure:
            self._commit(self.position, [], self.stage.dump(self.state))

    def _commit(self, position: Position, outputs: Sequence[Draft], state: bytes | None) -> None:
        commit = Commit(self.stage.name, self.epoch, position, outputs, state)
        point(Point.STEP, self.stage.name)
        self.log.commit(commit, sync=self.stage.sync)
        point(Point.STEPPED, self.stage.name)
        self.position = position
        if state is not None:
            self.unsaved = 0


def restore(stage: Stage[S], log: Log, checkpoint: Checkpoint) -> S:
    """The state at a checkpoint's position: the saved one, with the records since folded again."""
    state = stage.load(checkpoint.state) if checkpoint.state else stage.empty()
    return _fold(stage, log, state, checkpoint.state_position, checkpoint.position)


def replay(stage: Stage[S], log: Log, stop: Position | None = None) -> S:
    """The state that the log alone gives, below `stop` (default: the end)."""
    return _fold(stage, log, stage.empty(), START, stop or log.end())


def _fold(stage: Stage[S], log: Log, state: S, start: Position, stop: Position) -> S:
    while True:
        records, start = log.read(stage.inputs, start, stop=stop)
        if not records:
            return state
        state, _ = stage.step_many(state, records)


class View(Generic[S]):
    """A fold that others read: it owns nothing, commits nothing, and says at which position it stands."""

    def __init__(self, stage: Stage[S], log: Log) -> None:
        self.stage = stage
        self.log = log
        self.position = START
        self.state = stage.empty()

    def read(self) -> S:
        """The state as of now."""
        while True:
            records, self.position = self.log.read(self.stage.inputs, self.position)
            if not records:
                return self.state
            self.state, _ = self.stage.step_many(self.state, records)


AnyStage = Stage[Any]
