"""log: the log of several machines.

Records lie on one Kafka topic for each of ours, in partitions by key, where any Kafka reader finds
them. A one-partition topic, the journal, gives them their one order: each entry is a group of writes
(appends, claims, commits) that names its records by their offsets. Every home applies the entries in
order to its tables, as the SQLite engine does, so ids, fences, sequences and positions are the same
everywhere. A write whose outcome is unknown is sent again, under its number, by a new producer,
until it is read back: of the copies of an entry the first counts.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from penstock.log import Append, Appended, Commit, Then, Where, Write, tables
from penstock.log.kafka import wire
from penstock.log.kafka.fetch import Fetcher
from penstock.log.kafka.follow import Follower, Numbered
from penstock.log.kafka.link import ATTEMPT_S, ENTRY_BYTES, PATIENCE_S, Link
from penstock.log.kafka.place import PARTITIONS, Place
from penstock.log.kafka.publish import Publisher
from penstock.log.kafka.wire import Answer, Entry, Outgoing, Part, Refs, Slot
from penstock.log.sqlite import SqliteLog, Work
from penstock.log.writing import Writing
from penstock.record.codec import pack, unpack
from penstock.record.errors import Broken, Fenced, PenstockError, Refused, Unavailable
from penstock.record.record import Draft, Position, Record, partition

RECORD_BYTES = ENTRY_BYTES
TOGETHER_BYTES = 64 << 20
"""What one entry takes of several callers, and what a home applies in one transaction, at most."""
RECORD_COST = 300  # bytes that a record takes beside its own
LATE = 100_000
"""Entries after which one that still comes is void, and its writer's number forgotten."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS writer(
  name TEXT PRIMARY KEY, number INTEGER NOT NULL, seen INTEGER NOT NULL, answers BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS slot(
  stage TEXT PRIMARY KEY, epoch INTEGER NOT NULL, number INTEGER NOT NULL, chunks INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS named(topic TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO meta VALUES('journal', '-1 0'), ('home', lower(hex(randomblob(8))));
"""
_WRITER = "SELECT number, answers FROM writer WHERE name = ?"
_LATE = Answer.of(
    Unavailable("This write came too late to the journal and is void; send it again.", code="log_late")
)


class _Under(msgspec.Struct):
    """The entry that is under way, and whose writes it holds."""

    number: int
    group: list[Work]
    done: bool = False


class _Plan(msgspec.Struct):
    """A write on its way to the brokers: its messages are those from `at` on, records before chunks."""

    work: Work
    refs: Refs
    records: int
    at: int
    slot: Slot | None
    chunks: int


class KafkaLog(SqliteLog):
    """A log on Kafka whose mirror lies in `home/log.db`. Processes of one home share the mirror.

    `told(applied, newest)` is called now and then while a home catches up with the journal at its start."""

    alone = False

    def __init__(
        self,
        home: Path,
        place: Place,
        *,
        create: bool = True,
        told: Callable[[int, int], None] = lambda applied, newest: None,
    ) -> None:
        super().__init__(home, create=create)
        self.place = place
        self._follower: Follower | None = None
        self._link = Link(place)
        self._fetcher = Fetcher(self._link, self._closed)
        self._publisher = Publisher(self._link, self._closed)
        self._applied = threading.Condition()
        self._number = 0
        self._under: _Under | None = None
        self._doubtful: dict[str, set[tuple[int, int]]] = {}  # slots that a state went to without an answer
        try:
            self._writer.execute(_SCHEMA)
            self._home = str(
                (tables.row(self._writer, "SELECT value FROM meta WHERE key = 'home'") or ("",))[0]
            )
            self.name = f"{self._home}/{secrets.token_hex(8)}"
            self._link.make({place.journal: 1, place.states: 1})
            self._link.check()
            newest = self._newest_entry()
            self._follower = Follower(self._link, self._home, self._mark, self._apply, self._wake)
            self._catch_up(newest, told)
        except BaseException:  # a handle that is half open would keep its threads and its files
            self.close()
            raise

    def settings(self, **more: Any) -> dict[str, Any]:
        """The settings of a client of this log's brokers: the place's, and `more`, which goes first."""
        return self._link.settings(**more)

    def close(self) -> None:
        """Let go of the brokers, then of the mirror."""
        self._closed.set()
        if self._follower is not None:
            self._follower.close()
        self._fetcher.close()
        self._publisher.close()
        super().close()

    def join(self, drafts: Sequence[Draft], then: Then, *, sync: bool = True) -> Appended:
        """Never: others write from other machines."""
        raise Refused("On a log that others share an append and its commit are two writes.", code="joint")

    # The port: as on one machine, but a mirror that cannot follow says so to who reads it.

    def read(
        self,
        topics: Sequence[str],
        start: Position,
        *,
        limit: int = 1024,
        stop: Position | None = None,
        where: Where | None = None,
        passing: bool = False,
    ) -> tuple[list[Record], Position]:
        """See the port."""
        self._must_follow()
        return super().read(topics, start, limit=limit, stop=stop, where=where, passing=passing)

    def wait(self, position: Position, timeout_s: float) -> bool:
        """See the port."""
        self._must_follow()
        woken = super().wait(position, timeout_s)
        self._must_follow()
        return woken

    def about(self) -> dict[str, Any]:
        """How the mirror stands to the brokers. `orphans`: records by topic that no entry names, left by
        writers that ended in between; nobody reads them."""
        low, high = self._link.reach(self.place.journal, 0)
        with self._reading() as db:
            named: dict[str, int] = dict(db.execute("SELECT topic, n FROM named"))
            writers = tables.row(db, "SELECT count(*) FROM writer") or (0,)
        return {
            "journal": f"{self.place!r}",
            "sync": "by the brokers: acknowledged when all replicas in sync have it",
            "entries": [low, high],
            "behind": high - 1 - self._mark()[0],
            "writers": writers[0],
            "orphans": {topic: self._lying(topic) - n for topic, n in named.items()},
        }

    def _lying(self, topic: str) -> int:
        if topic not in self._link.spread:
            self._link.make({topic: PARTITIONS})
        ends = [self._link.reach(topic, part) for part in range(self._link.spread[topic])]
        return sum(high - low for low, high in ends)

    def _must_follow(self) -> None:
        if self._follower is not None and self._follower.failed is not None:
            raise self._follower.failed

    # At the start.

    def _newest_entry(self) -> int:
        """The journal's newest offset; raises Broken when it is not the journal that the mirror followed."""
        applied, _ = self._mark()
        low, high = self._link.reach(self.place.journal, 0)
        if applied >= high:
            raise Broken(
                f"The journal ends at {high}, before entry {applied} that this home has applied.",
                code="log_backwards", where=self.place.journal,
                hint="Was it made anew? Move the home's log.db away to follow this one.",
            )  # fmt: skip
        if low > applied + 1:
            raise Broken(
                "The journal no longer has the entries that this home has to apply next.", code="log_passed",
                where=f"{self.place.journal}@{applied + 1}", hint="Start this home from a snapshot of a newer one.",
            )  # fmt: skip
        return high - 1

    def _catch_up(self, newest: int, told: Callable[[int, int], None]) -> None:
        """Wait until the mirror has applied an offset; there is no limit while it goes on."""
        applied, deadline = self._mark()[0], time.monotonic() + 2 * PATIENCE_S
        while applied < newest:
            self._must_follow()
            told(applied, newest)
            with self._applied:
                self._applied.wait(0.2)
            before, applied = applied, self._mark()[0]
            if applied > before:
                deadline = time.monotonic() + 2 * PATIENCE_S
            elif time.monotonic() > deadline:
                raise self._link.away()
        self._must_follow()

    def _mark(self, db: Any = None) -> tuple[int, int]:
        """The offset of the newest entry that the mirror has applied, and the CRC of its bytes."""
        found = tables.row(db or self._reader(), "SELECT value FROM meta WHERE key = 'journal'")
        offset, crc = str(found[0] if found else "-1 0").split()
        return int(offset), int(crc)

    # Writing: publish the records, then the entry that names them; wait until it is read back.

    def _lead(self, group: list[Work]) -> None:
        """See the SQLite engine; the transaction is an entry of the journal, and each home's own."""
        for few in _few(group):
            try:
                self._must_follow()
                self._enter_group(few)
            except BaseException as error:  # whatever it is, each who waits is told
                for work in few:
                    work.error = work.error or error
            finally:
                self._under = None
                for work in few:
                    work.done = True

    def _enter_group(self, group: Sequence[Work]) -> None:
        """Write an entry with those of a group that can be written."""
        deadline = time.monotonic() + PATIENCE_S
        messages: list[Outgoing] = []
        plans = [plan for work in group if (plan := self._plan(work, messages)) is not None]
        if not plans:
            return
        since, _ = self._mark()
        offsets = self._publisher.publish(messages, deadline)
        self._number += 1
        entry = Entry(self.name, self._number, since, [_part(plan, offsets) for plan in plans])
        data = pack(entry)
        if len(data) > ENTRY_BYTES:
            raise Refused("One append takes at most about half a million records.", code="too_large")
        self._under = _Under(self._number, [plan.work for plan in plans])
        self._settle(self._under, data, deadline)
        for plan in plans:
            if isinstance(plan.work.write, Commit) and plan.slot is not None and plan.work.error is None:
                self._doubtful.pop(plan.work.write.stage, None)

    def _plan(self, work: Work, messages: list[Outgoing]) -> _Plan | None:
        """Lay out what a write brings; None, with its error, when it cannot be written."""
        at, write = len(messages), work.write
        try:
            if not isinstance(write, Append | Commit):
                return _Plan(work, Refs([], [], [], [], 0, 0), 0, at, None, 0)
            drafts = _drafts(write)
            refs = self._lay(drafts, messages)
            slot = self._state(write, messages) if isinstance(write, Commit) else None
            return _Plan(work, refs, len(drafts), at, slot, len(messages) - at - len(drafts))
        except (PenstockError, ValueError) as error:  # ValueError: a text that is no Unicode
            work.error = error
            del messages[at:]
            return None

    def _lay(self, drafts: Sequence[Draft], messages: list[Outgoing]) -> Refs:
        names = sorted({draft.topic for draft in drafts})
        topics = [self.place.topic(name) for name in names]
        missing = [topic for topic in topics if topic not in self._link.spread]
        if missing:
            self._link.make(dict.fromkeys(missing, PARTITIONS))
        spread = [self._link.spread[topic] for topic in topics]
        number = {name: i for i, name in enumerate(names)}
        which = [number[draft.topic] for draft in drafts]
        parts = [partition(d.key, spread[w]) for d, w in zip(drafts, which, strict=True)]
        for draft, w, part in zip(drafts, which, parts, strict=True):
            if len(draft.value) > RECORD_BYTES:
                raise Refused("A record's value takes at most 8 MB.", code="too_large", where=draft.topic)
            messages.append(wire.outgoing(draft, topics[w], part))
        return Refs(topics, which, parts, [], wire.crc_of(drafts), sum(len(draft.value) for draft in drafts))

    def _state(self, commit: Commit, messages: list[Outgoing]) -> Slot | None:
        """Put a state where neither the committed one lies nor one whose commit may yet come."""
        if commit.state is None:
            return None
        taken = self._doubtful.setdefault(commit.stage, set())
        kept = tables.row(
            self._reader(), "SELECT epoch, number, chunks FROM slot WHERE stage = ?", (commit.stage,)
        )
        held = {*taken, kept[:2] if kept else (0, 0)}
        number = next(n for n in range(len(held) + 1) if (commit.epoch, n) not in held)
        taken.add((commit.epoch, number))
        chunks = wire.chunks(commit.stage, commit.epoch, number, commit.state, self.place.states)
        messages += chunks
        return Slot(commit.epoch, number, [0] * len(chunks))

    def _settle(self, under: _Under, data: bytes, deadline: float) -> None:
        """Send an entry until it is read back. Nobody knows what became of a copy that was not confirmed,
        and nobody needs to: it is the same entry."""
        again = time.monotonic()
        message: Outgoing = (self.place.journal, 0, self.name.encode(), data, 0, [])
        while not under.done:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "The brokers do not answer; the write may have happened.", code="log_unknown"
                )
            if time.monotonic() >= again:
                with contextlib.suppress(Unavailable):
                    self._publisher.publish([message], min(deadline, time.monotonic() + ATTEMPT_S))
                again = time.monotonic() + ATTEMPT_S
            with self._applied:
                if not under.done:
                    self._applied.wait(ATTEMPT_S / 10)
            self._must_follow()

    # Applying: on the follower's thread.

    def _apply(self, entries: Sequence[Numbered]) -> None:
        """Apply entries to the mirror, each once, whichever process of this home comes first."""
        for few in _steps(entries):
            applied, _ = self._mark()
            left = [one for one in few if one[0] > applied]
            if left:
                self._apply_few(left)
            self._answer()

    def _apply_few(self, entries: Sequence[Numbered]) -> None:
        under = self._under
        mine = {under.number: under.group} if under else {}
        own = [mine.get(entry.number) if entry.writer == self.name else None for _, _, entry in entries]
        foreign = [entry for (_, _, entry), group in zip(entries, own, strict=True) if group is None]
        fetched = self._fetcher.fetch(wire.places(foreign, self.place.states))
        writes = [
            [work.write for work in group] if group else wire.whole(entry, fetched, self.place)
            for (_, _, entry), group in zip(entries, own, strict=True)
        ]
        self._transact(partial(self._enter, entries, writes), sync=False)

    def _enter(
        self, entries: Sequence[Numbered], writes: Sequence[Sequence[Write]], writing: Writing
    ) -> None:
        """Within the mirror's transaction: the entries that no other process of this home was faster with.
        What is done with one depends on the journal alone: every home does the same."""
        db = writing.db
        applied, crc = self._mark(db)
        for (offset, its_crc, entry), whole in zip(entries, writes, strict=True):
            if offset <= applied:
                continue
            applied, crc = offset, its_crc
            last = tables.row(db, _WRITER, (entry.writer,))
            if last is not None and entry.number <= last[0]:
                continue
            late = offset - entry.since > LATE
            answers = [_LATE for _ in whole] if late else [_one(writing, write) for write in whole]
            kept = pack(answers) if entry.writer.startswith(self._home) else b""
            row = (entry.writer, entry.number, offset, kept)
            db.execute("INSERT OR REPLACE INTO writer VALUES(?, ?, ?, ?)", row)
            _count(writing, entry, answers)
        db.execute("DELETE FROM writer WHERE seen < ?", (applied - LATE,))
        db.execute("UPDATE meta SET value = ? WHERE key = 'journal'", (f"{applied} {crc}",))

    def _answer(self) -> None:
        """Tell the group under way what came of it, if it was applied, here or by another process."""
        under = self._under
        if under is not None and not under.done:
            found = tables.row(self._reader(), _WRITER, (self.name,))
            if found is not None and found[0] == under.number:
                for work, answer in zip(under.group, unpack(found[1], list[Answer]), strict=True):
                    answer.give(work)
                under.done = True
        self._wake()

    def _wake(self) -> None:
        with self._applied:
            self._applied.notify_all()


def _one(writing: Writing, write: Write) -> Answer:
    """Apply a write. What is Broken is this mirror, not the write: it stops the home."""
    try:
        return Answer.of(writing.apply(write))
    except (Refused, Fenced) as error:
        return Answer.of(error)


def _count(writing: Writing, entry: Entry, answers: Sequence[Answer]) -> None:
    """Remember which slot holds a stage's newest state, and how many records of a topic were named."""
    for part, answer in zip(entry.parts, answers, strict=True):
        names: dict[str, int] = {}
        for w in part.records.which:
            names[part.records.topics[w]] = names.get(part.records.topics[w], 0) + 1
        counted = "INSERT INTO named VALUES(?1, ?2) ON CONFLICT DO UPDATE SET n = n + ?2"
        writing.db.executemany(counted, names.items())
        if part.slot is not None and isinstance(part.write, Commit) and answer.error is None:
            row = (part.write.stage, part.slot.epoch, part.slot.number, len(part.slot.offsets))
            writing.db.execute("INSERT OR REPLACE INTO slot VALUES(?, ?, ?, ?)", row)


def _part(plan: _Plan, offsets: Sequence[int]) -> Part:
    """What the entry says of a write whose messages have their offsets."""
    write, middle = plan.work.write, plan.at + plan.records
    refs = msgspec.structs.replace(plan.refs, offsets=list(offsets[plan.at : middle]))
    if isinstance(write, Append):
        write = msgspec.structs.replace(write, drafts=())
    elif isinstance(write, Commit):
        write = msgspec.structs.replace(write, outputs=(), state=None)
    slot = plan.slot
    if slot is not None:
        slot = msgspec.structs.replace(slot, offsets=list(offsets[middle : middle + plan.chunks]))
    return Part(write, refs, slot)


def _few(group: Sequence[Work]) -> Iterator[list[Work]]:
    """A group in parts that fit into an entry each."""
    return _cut(group, [sum(len(d.value) + RECORD_COST for d in _drafts(work.write)) for work in group])


def _drafts(write: Write) -> Sequence[Draft]:
    if isinstance(write, Append):
        return write.drafts
    return write.outputs if isinstance(write, Commit) else ()


def _steps(entries: Sequence[Numbered]) -> Iterator[list[Numbered]]:
    """Entries in steps whose records fit into memory."""
    return _cut(entries, [sum(_weight(part.records) for part in entry.parts) for _, _, entry in entries])


def _weight(refs: Refs) -> int:
    return refs.size_bytes + RECORD_COST * len(refs.which)


def _cut(items: Sequence[Any], sizes: Sequence[int]) -> Iterator[list[Any]]:
    few: list[Any] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if few and total + size > TOGETHER_BYTES:
            yield few
            few, total = [], 0
        few.append(item)
        total += size
    if few:
        yield few
