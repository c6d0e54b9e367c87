"""log: what each write does to the tables, within one transaction of the SQLite engine.

The same writes in the same order have the same effects and answers, on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from apsw import Connection
from msgspec.structs import replace

from penstock.log import Append, Appended, Claim, Commit, Drop, Write, tables
from penstock.log.chain import Chain, Part
from penstock.log.crash import Point, point
from penstock.log.tables import NOWHERE, SPAN, End, Producer, Stage, Topic
from penstock.record.errors import Broken, Fenced, Refused
from penstock.record.record import Draft, Position


class Writing:
    """One write transaction on its way: apply writes, then `close` before the COMMIT.

    `fresh` collects the batches made, as parts. `before` is what this handle wrote last: while nobody else has
    written, which `version` tells, the log's end and the topics are as it left them.
    """

    def __init__(self, db: Connection, chain: Chain, before: Writing | None = None) -> None:
        self.db, self.chain, self.version = db, chain, 0  # SQLite's, as its COMMIT left it: each changes it
        known = before if before and before.version == db.data_version() else None
        self.signed: End = known.signed if known else tables.end_of(db)
        self.before = self.end = self.signed.n
        self.facts = self.signed.facts
        self.fresh: list[tuple[int, Part]] = []  # with their topics' numbers
        self._topics: dict[str, Topic] = dict(known._topics) if known else {}
        self._changed: set[str] = set()

    def apply(self, write: Write) -> Any:
        """The effect of one write; its answer is the port's. What it refuses, it refuses before it writes:
        nothing to undo. Broken may come in the middle: nothing of the transaction may stay."""
        kinds: dict[type, Callable[[Any], Any]] = {
            Append: self._append, Claim: self._claim, Commit: self._commit, Drop: self._drop
        }  # fmt: skip
        return kinds[type(write)](write)

    def close(self) -> None:
        """Write what the transaction's writes share. Every transaction writes: SQLite syncs nothing for
        one that did not, though what it found standing may not be safe yet."""
        for name in sorted(self._changed):
            tables.put(self.db, name, self._topics[name])
        self.signed = tables.sign(self.db, replace(self.signed, n=self.end, facts=self.facts))

    def topic(self, name: str) -> Topic | None:
        """A topic as this transaction leaves it."""
        found = self._topics.get(name) or tables.fact(self.db, Topic, name)
        if found is not None:
            self._topics[name] = found
        return found

    def change(self, name: str, topic: Topic) -> None:
        """A topic is another from here on."""
        self._topics[name] = topic
        self._changed.add(name)

    def _append(self, write: Append) -> Appended:
        if write.producer:
            last = tables.fact(self.db, Producer, write.producer)
            if write.sequence <= (last.sequence if last else 0):
                return Appended([], list(range(len(write.drafts))), Position(n=self.end))
            self.facts += last is None
            tables.put(self.db, write.producer, Producer(write.sequence))
            point(Point.PRODUCER)
        return self._insert(write.drafts)

    def _claim(self, write: Claim) -> int:
        at = tables.fact(self.db, Stage, write.stage)
        self.facts += at is None
        at = at or Stage()
        tables.put(self.db, write.stage, replace(at, epoch=at.epoch + 1))
        return at.epoch + 1

    def _commit(self, write: Commit) -> Appended:
        at = tables.fact(self.db, Stage, write.stage)
        if at is None or write.epoch != at.epoch:
            raise Fenced(where=write.stage)
        if write.position.n < at.position:
            raise Refused("A stage's position does not go back.", where=write.stage, code="position")
        state = at.state if write.state is None else write.position.n
        tables.put(self.db, write.stage, Stage(at.epoch, write.position.n, state))
        point(Point.OWNER, write.stage)
        if write.state is not None:
            tables.keep(self.db, write.stage, write.position.n, write.state)
            point(Point.STATE, write.stage)
        return self._insert(write.outputs)

    def _drop(self, write: Drop) -> int:
        """The topic begins later. What lies before is no longer in force; upkeep takes it away."""
        at = self.topic(write.topic)
        below = min(write.below, self.end)
        if at is None or below <= at.first:
            return 0
        dropped, last = self.chain.upto(self.db, write.topic, at, below, keep=False)
        if dropped > at.dropped:
            self.change(write.topic, replace(at, first=last + 1, dropped=dropped))
            point(Point.FORGOTTEN)
        return dropped - at.dropped

    def _insert(self, drafts: Sequence[Draft]) -> Appended:
        """Give the drafts their positions. Ids are tried all at once, and one by one if some stand already."""
        if not drafts:
            return Appended([], [], Position(n=self.end))
        names = sorted({draft.topic for draft in drafts})
        for name in names:
            if self.topic(name) is None:
                self._new(name)
        places = list(range(self.end, self.end + len(drafts)))
        repeats: list[int] = []
        if {draft.id for draft in drafts} != {""}:
            places, repeats = self._identify(drafts, places)
            point(Point.IDS)
        fresh, at = drafts, places
        if repeats:
            kept = sorted(set(range(len(drafts))) - set(repeats))
            fresh, at = [drafts[i] for i in kept], [places[i] for i in kept]
        if len(names) == 1:
            self._insert_batch(names[0], fresh, at)
        else:
            for name in names:
                mine = [i for i, draft in enumerate(fresh) if draft.topic == name]
                self._insert_batch(name, [fresh[i] for i in mine], [at[i] for i in mine])
        self.end += len(fresh)
        return Appended(places, repeats, Position(n=self.end))

    def _insert_batch(self, name: str, drafts: Sequence[Draft], places: Sequence[int]) -> None:
        if not drafts:
            return
        at, base, held = self._topics[name], places[0], tables.body(drafts, places)
        tables.insert(self.db, at, name, base, held)
        self.change(name, replace(at, last=base, total=at.total + len(drafts)))
        self.fresh.append((at.number, Part(name, base, at.total, held)))
        point(Point.BATCH)

    def _new(self, name: str) -> None:
        found = tables.row(self.db, "SELECT count(*) FROM fact WHERE kind = 'topic'") or (0,)
        made = self._topics[name] = Topic(found[0] + 1)
        if made.number * SPAN >= 1 << 62:
            raise Broken("A log takes at most 16,383 topics.", where=name, code="too_many")
        self.facts += 1
        tables.put(self.db, name, made)

    def _identify(self, drafts: Sequence[Draft], places: list[int]) -> tuple[list[int], list[int]]:
        """The position of each draft, and the indices of those whose id stands already."""
        topics = self._topics
        named = [(topics[d.topic].number, d.id, at) for d, at in zip(drafts, places, strict=True) if d.id]
        before = self.db.total_changes()
        self.db.executemany("INSERT OR IGNORE INTO ident VALUES(?, ?, ?)", named)
        if self.db.total_changes() - before == len(named):
            return places, []
        self.db.executemany("DELETE FROM ident WHERE topic = ? AND id = ? AND position = ?", named)
        places, repeats = [], []
        end = self.end
        for i, draft in enumerate(drafts):
            at = topics[draft.topic]
            first = tables.place_of(self.db, at, draft.id) if draft.id else NOWHERE
            if first != NOWHERE:
                if first < self.before:  # what is written in this transaction has no batch to look at yet
                    self.chain.record(self.db, draft.topic, at, first, draft.id, keep=False)
                repeats.append(i)
                places.append(first)
                continue
            if draft.id:
                self.db.execute("INSERT OR REPLACE INTO ident VALUES(?, ?, ?)", (at.number, draft.id, end))
            places.append(end)
            end += 1
        return places, repeats
