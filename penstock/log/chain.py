"""log: what lies along a topic: its segments, then its batches, each met in order and checked.

A link says how many records lie ahead of it, so that one that is missing or out of place is noticed by
whoever comes along. What was just written or read is kept: several stages of a process read one tail.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter, itemgetter
from pathlib import Path

from apsw import Connection

from penstock.log import Where, tables
from penstock.log.segments import Files, segment_from, segments
from penstock.log.tables import Body, Segment, Topic
from penstock.record.errors import Broken
from penstock.record.record import Record

CACHED_RECORDS = 4_000
_position = attrgetter("position")

Piece = tuple[int, Callable[[], Sequence[Record]]]
"""Where records that lie together begin, or earlier, and what reads them."""


class Part:
    """Records in memory that lie together, a batch or some of a segment: their columns, and themselves once
    somebody read them."""

    def __init__(self, topic: str, base: int, ahead: int, body: Body) -> None:
        self.topic, self.base, self.ahead, self.body = topic, base, ahead, body
        self.n, self.last = len(body.keys), body.last(base)
        self._records: tuple[Record, ...] | None = None

    def within(self, start: int, below: int) -> Sequence[Record]:
        """The records in [start, below)."""
        if self._records is None:
            self._records = self.body.records(self.topic, self.base)
        first, end = (bisect_left(self._records, at, key=_position) for at in (start, below))
        return self._records[first:end]

    def pieces(self, start: int, below: int) -> Iterable[Piece]:
        """Itself, as a link of one piece."""
        return [(self.base, partial(self.within, start, below))] if self.last >= start else []

    def upto(self, position: int) -> tuple[int, int]:
        """How many records lie before a position, and the place of the last of them."""
        before = [at for at in self.body.places(self.base) if at < position]
        return len(before), before[-1]


class Sealed:
    """A segment as a link."""

    def __init__(self, chain: Chain, topic: str, made: Segment) -> None:
        self.base, self.last, self.n, self.ahead = made.base, made.last, made.n, made.ahead
        self._chain, self.topic, self.made = chain, topic, made

    def pieces(self, start: int, below: int) -> Iterable[Piece]:
        """Those with records in [start, below)."""
        found = self._chain.files.groups(self.topic, self.made, start, below)
        return ((base, partial(self._within, base, group, start, below)) for base, group in found)

    def _within(self, base: int, group: int, start: int, below: int) -> Sequence[Record]:
        read = partial(Part, self.topic, base, 0)
        return self._chain.files.held(self.topic, self.made, group, read).within(start, below)

    def upto(self, position: int) -> tuple[int, int]:
        """As of a part."""
        return self._chain.files.upto(self.topic, self.made, position)


class Chain:
    """The topics of one home, for one handle. Each read is within a transaction of the caller's."""

    def __init__(self, home: Path) -> None:
        self.files = Files(home / "sealed")
        self.kept: OrderedDict[Hashable, Part] = OrderedDict()
        self._records = 0
        self._lock = threading.Lock()
        self.used = False  # somebody reads by this handle

    def merged(
        self,
        db: Connection,
        topics: Sequence[str],
        start: int,
        below: int,
        limit: int,
        where: Where | None = None,
        passing: bool = False,
    ) -> tuple[list[Record], int]:
        """At most `limit` records in [start, below), in order, and the position that they reach."""
        self.used = True
        streams = [self._along(db, topic, start, below, passing) for topic in set(topics)]
        wanted = where.test() if where else None
        found: list[Record] = []
        reach = below
        for base, read in streams[0] if len(streams) == 1 else heapq.merge(*streams, key=itemgetter(0)):
            if len(found) >= limit and sum(r.position < base for r in found) >= limit:
                reach = base  # every piece not yet read begins here or later
                break
            found.extend(islice(filter(wanted, read()), limit))
            if len(streams) == 1 and len(found) >= limit:  # what comes next need not even be looked at
                break
        if len(streams) > 1:  # the batches of one write interleave
            found.sort(key=_position)
            while found and found[-1].position >= reach:
                found.pop()
        if len(found) >= limit:
            reach = found[limit - 1].position + 1
        return found[:limit], reach

    def links(
        self, db: Connection, name: str, at: Topic, start: int, below: int, *, keep: bool = True
    ) -> Iterator[Part | Sealed]:
        """The segments and batches that may have records in [start, below), in order, each the next after
        the one before. Only what is on the log for good is to be kept."""
        ahead, follows = begun(at, start), False
        for one in self._links(db, name, at, start, below, keep):
            if one.ahead != ahead and (follows or one.base > start):
                raise tables.damaged(name, one.base)  # one that should lie before it is not there
            ahead, follows = one.ahead + one.n, True
            yield one

    def _links(
        self, db: Connection, name: str, at: Topic, start: int, below: int, keep: bool
    ) -> Iterator[Part | Sealed]:
        if start < at.sealed:
            for made in segments(db, at, start, below):
                yield Sealed(self, name, made)
        for base in tables.bases(db, at, start, below):
            key = at.number, base
            one = self.kept.get(key)
            if one is None:
                one = Part(name, base, *tables.batch(db, at, name, base))
                if keep:
                    self.keep({key: one})
            yield one

    def _along(self, db: Connection, name: str, start: int, below: int, passing: bool) -> Iterator[Piece]:
        """The records of a topic in [start, below), in pieces."""
        at = tables.fact(db, Topic, name)
        if at is None:
            return
        must_reach(name, at, 0 if passing else start)
        start = max(start, at.first)
        ahead = begun(at, start)
        for link in self.links(db, name, at, start, below):
            yield from link.pieces(start, below)
            ahead = link.ahead + link.n
        if start < below:
            self.must_be_whole(db, name, at, ahead, below)

    def must_be_whole(self, db: Connection, name: str, at: Topic, ahead: int, below: int) -> None:
        """Raise Broken unless so many records lie ahead of the first link that begins at `below` or later."""
        made = segment_from(db, at, below) if below < at.sealed else None
        after = made.ahead if made else at.total
        if not made and at.last >= below:
            links = self.links(db, name, at, max(below, at.sealed), at.last + 1)
            after = next((one.ahead for one in links if one.base >= below), at.total)
        if ahead != after:
            raise tables.damaged(name, min(at.last, below))  # one that should lie before it is not there

    def upto(
        self, db: Connection, name: str, at: Topic, position: int, *, keep: bool = True
    ) -> tuple[int, int]:
        """How many records of a topic were ever written before a position, and the place of the last of them
        that retention left; -1 for none."""
        if position <= at.first:
            return at.dropped, tables.NOWHERE
        found = list(self.links(db, name, at, position - 1, position, keep=keep))
        if not found:
            return begun(at, position), tables.NOWHERE
        before, last = found[-1].upto(position)
        return found[-1].ahead + before, last

    def record(
        self, db: Connection, name: str, at: Topic, place: int, id: str, *, keep: bool = True
    ) -> Record:
        """The record at a place, which the table of ids says has this id; raises Broken when it has not."""
        for link in self.links(db, name, at, place, place + 1, keep=keep):
            for _, read in link.pieces(place, place + 1):
                for one in read():
                    if one.id == id:
                        return one
        raise tables.damaged(name, place)

    def keep(self, parts: dict[Hashable, Part]) -> None:
        """Keep parts; the oldest go."""
        with self._lock:
            for key, one in parts.items():
                if key not in self.kept:
                    self.kept[key] = one
                    self._records += one.n
            while self._records > CACHED_RECORDS and len(self.kept) > 1:
                self._records -= self.kept.popitem(last=False)[1].n


def must_reach(name: str, at: Topic, start: int) -> None:
    """Raise Broken where retention has dropped what lies at or above `start`."""
    if 0 < start < at.first:
        raise Broken(
            "Retention has dropped records that were not read yet.",
            where=f"{name}@{start}", code="log_passed", hint=f"The topic now begins at {at.first}.",
        )  # fmt: skip


def begun(at: Topic, start: int) -> int:
    """How many records lie ahead of the first link, where it begins after `start`."""
    return at.dropped if start < at.sealed else max(at.dropped, at.ahead)
