"""faults: what a process does with a home until it dies: a seeded mix of all that changes a log."""

from __future__ import annotations

import io
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.log import Appended, Commit, sqlite, tables
from penstock.log.blob import FolderBlob
from penstock.log.crash import Point, point
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import SPAN, Stage, fact
from penstock.log.upkeep import seal as sealing
from penstock.log.upkeep.sweep import shrink, sweep
from penstock.log.upkeep.turn import change, topic_of
from penstock.log.writing import Writing
from penstock.record.codec import digest
from penstock.record.errors import Fenced
from penstock.record.record import Draft, Position
from penstock.stage import Running
from tests.faults.ledger import LAZY, LEDGER, Accounts, Sent, send
from tests.faults.process import Target, die_at

PRODUCERS = ("p0", "p1", "p2", "p3")
SCRAP = "scrap"
WEIGHTS = {
    "append": 10, "burst": 2, "again": 2, "advance": 10, "save": 1, "take_over": 1, "reopen": 1, "scrap": 3, "blob": 1,
    "wait": 1, "seal": 2, "sweep": 1, "shrink": 1,
}  # fmt: skip


class Life:
    """A process's doings, decided by a seed. The same seed on the same home does the same."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.chance = home, random.Random(seed)
        self.sent = Sent(home / "sent")
        self.log = SqliteLog(home)
        self.running = self.own()

    def own(self) -> Running[Accounts]:
        """Take the stage over."""
        stage = self.chance.choice([LEDGER, LAZY])
        return Running(stage, self.log, batch=self.chance.choice([1, 5, 30]))

    def go(self, steps: int) -> None:
        """Do so many things."""
        words = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=steps)
        for word in words:
            getattr(self, word)()
        self.log.close()

    def append(self) -> None:
        """A producer's next batch."""
        producer = self.chance.choice(PRODUCERS)
        send(self.log, self.sent, producer, self.log.last(producer) + 1, sync=self.chance.random() < 0.5)

    def again(self) -> None:
        """A producer's last batch, as if its acknowledgement had been lost."""
        producer = self.chance.choice(PRODUCERS)
        last = self.log.last(producer)
        if last:
            send(self.log, self.sent, producer, last)

    def burst(self) -> None:
        """Several producers at once, so that they share transactions."""
        work = [
            threading.Thread(target=send, args=(self.log, self.sent, one, self.log.last(one) + 1))
            for one in PRODUCERS
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()

    def advance(self) -> None:
        """The stage's next step."""
        self.running.advance()

    def save(self) -> None:
        """The stage's state, now."""
        self.running.save()

    def take_over(self) -> None:
        """Another owner; the one before must be refused."""
        before, self.running = self.running, self.own()
        self.append()
        try:
            if before.advance() is not None:
                self.sent.say("unfenced", LEDGER.name, before.epoch)
        except Fenced:
            pass

    def reopen(self) -> None:
        """An orderly end and a start."""
        self.log.close()
        self.log = SqliteLog(self.home)
        self.running = self.own()

    def scrap(self) -> None:
        """Records that retention drops again."""
        value = self.chance.randbytes(self.chance.randrange(1, 3000))
        self.log.append([Draft(SCRAP, "", n, value, f"{value[:8].hex()}{n}") for n in range(6)])
        if self.chance.random() < 0.5:  # else what retention takes next is sealed by then, perhaps
            self.log.drop(SCRAP, Position(n=self.log.end().n - 4))

    def blob(self) -> None:
        """Bytes into the blob store."""
        data = self.chance.randbytes(self.chance.randrange(1, 5000))
        FolderBlob(self.home / "blobs").put(data)
        self.sent.say("blob", digest(data), len(data))

    def seal(self) -> None:
        """Old batches into segments, small ones, so that most of the history is sealed."""
        sealing.seal(self.log, records=self.chance.choice([5, 40]), tail=self.chance.choice([0, 4]))

    def sweep(self) -> None:
        """What is no longer in force taken away."""
        sweep(self.log)

    def shrink(self) -> None:
        """Room given back."""
        shrink(self.log)

    def wait(self) -> None:
        """Give the keeper a turn."""
        threading.Event().wait(0.01)


def live(home: str, seed: int, steps: int, target: Target | None = None, planted: str = "") -> None:
    """A process's whole life. The keeper is quick and the WAL short, so that their points are met; a state lies in
    pieces."""
    sqlite.SYNC_EVERY_S, sqlite.WAL_FOLD_BYTES, sqlite.WAL_TURN_BYTES = 0.003, 60_000, 120_000
    tables.PIECE_BYTES = 100
    plant(planted)
    die_at(target)
    if planted:  # what it stumbles over is no news
        sys.stderr = io.StringIO()
    Life(Path(home), seed).go(steps)


# Bugs to be found.


def position_first(log: SqliteLog, commit: Commit, *, sync: bool = True) -> Appended:
    """The position is stored, then the outputs."""
    whole(log, msgspec.structs.replace(commit, outputs=[]), sync=sync)
    return log.append(commit.outputs, sync=sync)


def position_last(log: SqliteLog, commit: Commit, *, sync: bool = True) -> Appended:
    """The state and the outputs are stored, then the position that they belong to."""
    before = log.load(commit.stage).position
    done = whole(log, msgspec.structs.replace(commit, position=before), sync=sync)
    whole(log, msgspec.structs.replace(commit, outputs=[], state=None), sync=sync)
    return done


def unfenced(self: Writing, write: Commit) -> Appended:
    """Whoever commits is taken for the owner."""
    return fenced(
        self, msgspec.structs.replace(write, epoch=(fact(self.db, Stage, write.stage) or Stage()).epoch)
    )


def rows_first(log: SqliteLog, name: str, below: int) -> int:
    """The rows are deleted, then the segment is told of."""
    with log._reading() as db:
        at = topic_of(db, name)
        begin = at.number * SPAN
        taken = list(
            db.execute("SELECT place FROM batch WHERE place >= ? AND place < ?", (begin, begin + below))
        )
    made = sealing.write(log, name, at.sealed, below)
    change(log, "DELETE FROM batch WHERE place = ?", taken)
    point(Point.SEGMENT_NAMED)
    sealing.enter(log, name, made)
    return made.n


whole, fenced = SqliteLog.commit, Writing._commit
PLANTED: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "position_first": lambda: setattr(SqliteLog, "commit", position_first),
    "position_last": lambda: setattr(SqliteLog, "commit", position_last),
    "unfenced": lambda: setattr(Writing, "_commit", unfenced),
    "rows_first": lambda: setattr(sealing, "_seal", rows_first),
}


def plant(name: str) -> None:
    """Put a bug into this process."""
    PLANTED[name]()
