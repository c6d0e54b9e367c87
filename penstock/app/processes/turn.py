"""app: whose turn it is, when stages that run in several processes must end in one process's log.

The rule: only the first stage in the order that has something new may fold, one batch; only when none
has may the oldest open intent be carried out, and only then does a driver append what comes next. So
at each moment exactly one may move, wherever it runs, and a stale look can only make somebody wait:
what is seen as one's own turn stays so until oneself has moved, or who had the stage before: who takes one
over looks again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from penstock.app.parts import OPEN
from penstock.app.pipeline import File
from penstock.log import Checkpoint, Log
from penstock.record.record import Position
from penstock.stage import AnyStage, View

WAIT_S = 0.25


class Turn:
    """The order of a file's stages on a log, followed. One thread at a time."""

    def __init__(self, log: Log, stages: Iterable[AnyStage]) -> None:
        self.log = log
        self.inputs = {one.name: one.inputs for one in stages}
        self.clean: dict[str, int] = {}  # up to where a stage was seen to have nothing to fold

    def next(self) -> str:
        """The stage that may fold now; empty when none has anything new.

        Positions first, the end after them: what has nothing between the two had nothing at the end.
        """
        known = self.log.stages()
        end = self.log.end()
        for name, inputs in self.inputs.items():
            start = max(known.get(name, Checkpoint()).position.n, self.clean.get(name, 0))
            if self.log.read(inputs, Position(n=start), limit=1, stop=end)[0]:
                return name
            self.clean[name] = end.n
        return ""


class Player(Protocol):
    """What a history is played to."""

    file: File
    log: Log
    sync: bool

    def drain(self) -> None:
        """Return when every stage has folded all there is and no intent is open."""


class Others:
    """A file whose stages run elsewhere: `drain` waits for them, asleep on the log."""

    def __init__(self, file: File, log: Log, stages: Iterable[AnyStage], *, sync: bool = True) -> None:
        self.file, self.log, self.sync = file, log, sync
        self.turn = Turn(log, stages)
        self.open = View(OPEN, log)

    def drain(self) -> None:
        """See `Player`."""
        while True:
            heard, end = self.log.hear(-1, 0), self.log.end()
            if not self.pending() and not self.turn.next() and self.log.end() == end:
                return  # nobody wrote a record between the two looks: both say the same moment
            self.log.hear(heard, WAIT_S)

    def pending(self) -> bool:
        """Whether an intent of the file's models is open."""
        return any(one.model in self.file.plans for one in self.open.read().intents.values())
