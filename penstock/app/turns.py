"""app: which of a file's stages is to have a turn now: those that have news, and now and then each of the others.

A file with a thousand models has six thousand stages, and nearly all of them have nothing to do. So the log is asked
once for all which topics were written. Of many stages, what all of them read (ticks, events that many models look back
over) wakes nobody: it is folded when something else wakes the stage, or when its turn comes round. A stage that is late
for its turn says what it would have said then: what it reads is the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from penstock.log import Checkpoint, Log
from penstock.record.decisions import SHARED, TICKS
from penstock.record.record import Position, Record
from penstock.stage import AnyStage

FEW = 100
"""What more stages read wakes none of them by itself."""
TICKED = 10
"""Nor do ticks, where more stages than these read them: all at once they would be in the way of whoever is served."""
PACE = 50
"""So many of the others have a turn in a second, and fewer where these would take more than SHARE of a core."""
SHARE = 0.05
LONGEST_S = 0.02
"""A turn that takes longer had much to do, which says little of the next one's."""
READ = 4096
"""Records that one look reads at most."""


class Turns:
    """The turns of some stages. Safe from any thread; a stage is given to one thread at a time. `known`: how far the
    stages had come; `clock`: seconds."""

    def __init__(
        self,
        log: Log,
        stages: Sequence[AnyStage],
        known: Mapping[str, Checkpoint],
        clock: Callable[[], float],
    ) -> None:
        self.log, self.clock = log, clock
        self.names = {one.name: place for place, one in enumerate(stages)}
        self.looked = -1
        """The log's end at the last look."""
        self._due: dict[str, None] = {}
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._round, self._turned_s = list(self.names), clock()
        self._others: dict[str, float] = {}  # whose turn has come round, and since when they have it
        self._turn_s = 0.0  # a turn of theirs
        self._readers: dict[str, dict[str, list[str]]] = {}  # of each topic, by model
        for one in stages:
            for topic in one.inputs:
                self._readers.setdefault(topic, {}).setdefault(one.label.partition(".")[2], []).append(
                    one.name
                )
        read_by = {topic: sum(map(len, some.values())) for topic, some in self._readers.items()}
        crowds = {topic for topic, n in read_by.items() if n > (TICKED if topic == TICKS else FEW)}
        self._readers = {t: some for t, some in self._readers.items() if t not in crowds or t in SHARED}
        self._crowds = crowds
        few, end = len(stages) <= FEW, log.end().n
        if few:  # the first turn of all, for what they have not read
            self._due.update(dict.fromkeys(self._round))
        self._began = {name: known[name].position.n for name in self.names if name in known and not few}
        self._since = self._read = Position(n=min(self._began.values(), default=end))

    def look(self) -> None:
        """See who is to have a turn, if anything was written since the last look."""
        with self._lock:
            end = self.log.end().n
            if end == self.looked:
                return
            self.looked = end
            turned = self._next()
            self._others.update(dict.fromkeys(turned, self._turned_s))
            due = {*self._news(Position(n=end)), *turned}
            self._due.update(dict.fromkeys(sorted(due, key=self.names.__getitem__)))

    def wake(self, names: Iterable[str]) -> None:
        """These have news, as who wrote them knows without a look."""
        with self._taken:
            self._due.update(dict.fromkeys(name for name in names if name in self.names))
            self._taken.notify_all()

    def rest(self, wanted: Callable[[str], bool], timeout_s: float) -> None:
        """Sleep until a stage could be taken that was woken meanwhile, or the time is over."""
        with self._taken:
            self._taken.wait_for(lambda: self._free(wanted), timeout_s)

    def take(self, wanted: Callable[[str], bool] = lambda name: True) -> str | None:
        """A stage that is to have its turn, and is nobody else's until it is given back."""
        with self._lock:
            if (found := self._free(wanted)) is not None:
                del self._due[found]
                self._busy.add(found)
                if found in self._others:
                    self._others[found] = self.clock()
            return found

    def waiting(self, wanted: Callable[[str], bool]) -> bool:
        """Whether a stage could be taken."""
        with self._lock:
            return self._free(wanted) is not None

    def give(self, name: str, *, again: bool) -> None:
        """A stage has had its turn; `again`: it is to have another."""
        with self._lock:
            self._busy.discard(name)
            if (began_s := self._others.pop(name, None)) is not None:
                self._turn_s += (min(self.clock() - began_s, LONGEST_S) - self._turn_s) / 8
            if again:
                self._due[name] = None

    def _free(self, wanted: Callable[[str], bool]) -> str | None:
        return next((one for one in self._due if one not in self._busy and wanted(one)), None)

    def _news(self, end: Position) -> Iterator[str]:
        """Who has news of his own. Where it is not for all who read a topic, or not for those who had read it, its
        records tell."""
        fresh, records = self.log.news(self._readers, self._since), list[Record]()
        telling = [topic for topic in fresh if self._began or topic in self._crowds]
        if telling:
            records, self._read = self.log.read(telling, self._read, limit=READ, stop=end, passing=True)
        if len(records) == READ:
            self.looked = -1  # there is more
        else:
            self._since = self._read = end
        for topic in set(fresh).difference(telling):
            yield from (name for some in self._readers[topic].values() for name in some)
        for record in records:
            readers = self._readers[record.topic]
            if (
                record.topic in self._crowds
            ):  # a decision: of its model's stages, and of those that have no model
                found = [*readers.get(record.key, ()), *readers.get("", ())]
            else:
                found = [name for some in readers.values() for name in some]
            yield from (name for name in found if self._began.get(name, 0) <= record.position)
        if self._since == end:
            self._began = {}

    def _next(self) -> list[str]:
        """Whose turn has come round."""
        now_s = self.clock()
        pace = min(PACE, SHARE / self._turn_s) if self._turn_s else PACE
        n = min(len(self._round), int((now_s - self._turned_s) * pace))
        if n:
            self._turned_s = now_s
        turned, self._round = self._round[:n], self._round[n:] + self._round[:n]
        return turned
