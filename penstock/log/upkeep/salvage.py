"""log: what a damaged log still holds, each row and file proved by its own checksum, and what it does not.

Everything small is known under its name or not at all; of the records, those that are gone show as gaps in
how many lie ahead of those that are there. Nothing is changed here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from penstock.log import tables
from penstock.log.segments import Files, described, file_digest, segment_name
from penstock.log.tables import KINDS, NOWHERE, SPAN, Body, End, Fact, Producer, Segment, Stage, Topic
from penstock.log.upkeep.apart import left
from penstock.log.upkeep.pages import BATCH, FACT, IDENT, STATE, Cell, Pages
from penstock.record.codec import unpack
from penstock.record.errors import Broken

F = TypeVar("F", bound=Fact)
_UNREADABLE = (ValueError, IndexError, msgspec.MsgspecError)


class Lost(msgspec.Struct, frozen=True):
    """`n` records of a topic that are not there: they had positions in [first, last]. `most`: it may be fewer.
    `by`: the stages that said some of them, as far as their ids are known."""

    topic: str
    first: int
    last: int
    n: int
    most: bool = False
    by: list[str] = []

    def __str__(self) -> str:
        count = "the records" if not self.n else f"{'up to ' * self.most}{self.n} record{'s' * (self.n != 1)}"
        by = f", said by {' and '.join(self.by)}" if self.by else ""
        return f"{self.topic}: {count} at positions {self.first} to {self.last}{by}"


class Piece(NamedTuple):
    """Records that are there: a batch, a segment (`made`, its records in its file), or what is left of one."""

    base: int
    last: int
    n: int
    ahead: int
    body: Body | None
    made: Segment | None


class Salvage:
    """A damaged log, read once for what is small, and again for its records whenever they are asked for."""

    def __init__(self, pages: Pages, files: Files) -> None:
        self.pages, self.files = pages, files
        self.facts: dict[type[Fact], dict[str, Any]] = {kind: {} for kind in KINDS}
        self.damaged: set[tuple[str, str]] = set()  # what other facts say that they are
        self._batches: defaultdict[int, list[Cell]] = defaultdict(list)  # by place; copies lie on free pages
        self._states: list[Cell] = []
        self._end: End | None = None
        self.damaged_files: set[Path] = set()
        for number in range(2, pages.count + 1):
            for cell in pages.cells(number):
                self._sort(cell)
        self._places = sorted(self._batches)
        self.topics = self._name()

    def known(self, kind: type[F]) -> dict[str, F]:
        """The facts of a kind that are right."""
        return self.facts[kind]

    def missing(self, kind: type[Fact]) -> list[str]:
        """The names of facts of a kind that are there and not right."""
        word = kind.__name__.lower()
        return sorted(name for one, name in self.damaged if one == word and name not in self.facts[kind])

    def _sort(self, cell: Cell) -> None:
        if cell.shape == BATCH:
            self._batches[cell.key].append(cell)
        elif cell.shape == STATE:
            self._states.append(cell)
        elif cell.shape == FACT and cell.page not in self.pages.free:
            with suppress(*_UNREADABLE):
                self._learn(*self.pages.values(cell))

    def _learn(self, word: str, name: str, crc: int, data: bytes) -> None:
        """A fact, whatever kind it says that it is of, if its checksum says so."""
        for kind in KINDS:
            if tables.check(data, kind.__name__.lower(), name) == crc:
                known, found = self.facts[kind], unpack(data, kind)
                if name not in known or _age(found) > _age(known[name]):
                    known[name] = found
                return
        self.damaged.add((word, name))
        if (word, name) == ("end", ""):
            self._end = unpack(data, End)  # its number of facts is taken for right if it is just that

    # Topics and their names.

    def _name(self) -> dict[str, Topic]:
        """Every topic by name: as the log knew it, or, where that is lost, as far as its records tell."""
        numbers = {at.number: name for name, at in self.known(Topic).items()}
        begun = {place // SPAN for place in self._places} | {int(name[:5]) for name in self.known(Segment)}
        for number in sorted(begun - {0, *numbers}):
            if name := self._named(number):
                numbers[number] = name
        highest = max(numbers, default=0)
        while highest + 1 in begun:
            highest += 1
        for number in range(1, highest + 1):  # numbers have no gaps
            numbers.setdefault(number, f"lost.{number}")
        if self._doubtful:  # a topic's rows may all be gone, and its files be there
            for name in sorted({topic for topic, _ in self._files.values()} - {*numbers.values()}):
                numbers[len(numbers) + 1] = name
        return {name: self._topic(number, name) for number, name in sorted(numbers.items())}

    def _topic(self, number: int, name: str) -> Topic:
        """A topic as the log knew it, but never older than its segments."""
        at = self.known(Topic).get(name)
        made = [one for key, one in self.known(Segment).items() if int(key[:5]) == number]
        if at is None:
            made += [one for topic, one in self._files.values() if topic == name]
        at = at or Topic(number)
        return replace(at, sealed=max([at.sealed, *(one.last + 1 for one in made if one.last >= at.first)]))

    def _named(self, number: int) -> str | None:
        """The name under which the checksum of one of a topic's batches is right, or that a file of it bears."""
        for name, made in self.known(Segment).items():
            if int(name[:5]) == number and made.digest in self._files:
                return self._files[made.digest][0]
        names = sorted({name for _, name in self.damaged} | {name for name, _ in self._files.values()})
        for place in self._places[self._from(number * SPAN) : self._from((number + 1) * SPAN)]:
            for name in names:
                if name not in self.facts[Topic] and self._batch(name, place) is not None:
                    return name
        return None

    @cached_property
    def _files(self) -> dict[str, tuple[str, Segment]]:
        """The files that are what their names say, by digest: their topic, and what the log should know of them."""
        found: dict[str, tuple[str, Segment]] = {}
        for path in sorted(self.files.folder.glob("*.parquet")):
            digest = file_digest(path)
            if f".{digest[:32]}." in path.name:
                found[digest] = described(path, digest)
        return found

    # Records.

    def walk(self, name: str) -> Iterator[Piece | Lost]:
        """What is there of a topic, in order, each piece behind the one before, with what is lost between; how
        many lie ahead is counted without the lost."""
        at, known = self.topics[name], name in self.facts[Topic]
        due, lost, seen = NOWHERE, 0, at.first - 1
        begin = at.first  # lost ones lie from here on
        for piece in self._pieces(name, at):
            if piece.last < at.first or (due != NOWHERE and piece.base <= seen):
                continue
            if due == NOWHERE:
                due = at.dropped if piece.base >= at.first else self._straddles(name, at, piece)
            ahead = due if piece.ahead == NOWHERE else piece.ahead
            if ahead > due:
                gone = ahead - due  # or dropped by retention, if that is not known any more
                yield Lost(name, begin, piece.base - 1, gone, most=not known)
                lost += gone
            due, seen = ahead + piece.n, piece.last
            begin = begin if piece.ahead == NOWHERE else seen + 1
            yield piece._replace(ahead=ahead - lost)
        due = max(due, at.dropped)
        if at.total > due or not known:
            yield Lost(name, begin, NOWHERE, max(0, at.total - due), most=not known)

    def _straddles(self, name: str, at: Topic, piece: Piece) -> int:
        """How many lie ahead of a piece in the middle of which retention lets its topic begin."""
        if piece.ahead != NOWHERE or piece.made is None:
            return piece.ahead
        return at.dropped - self.files.upto(name, piece.made, at.first)[0]

    def _pieces(self, name: str, at: Topic) -> Iterator[Piece]:
        for made in self._segments(name, at):
            try:
                self.files.opened(name, made)
            except Broken:
                path = self.files.path(name, made)
                self.damaged_files |= {path} if path.exists() else set()
                yield from self._left(name, at, made)
            else:
                yield Piece(made.base, made.last, made.n, made.ahead, None, made)
        yield from self._rows(name, at, at.sealed, SPAN)

    def _segments(self, name: str, at: Topic) -> list[Segment]:
        """The segments in force, with those that the log has forgotten and whose files are there."""
        known = [one for key, one in self.known(Segment).items() if key == segment_name(at, one.base)]
        known += [made for topic, made in self.refound if topic == name]
        return sorted((one for one in known if one.last >= at.first), key=lambda one: one.base)

    @cached_property
    def refound(self) -> list[tuple[str, Segment]]:
        """Segments in force that the log has forgotten and whose files are there, by topic."""
        found: list[tuple[str, Segment]] = []
        for topic, made in self._files.values() if self._doubtful else ():
            at = self.topics.get(topic)
            if at is None or not at.first <= made.last < at.sealed:
                continue
            own = [one for key, one in self.known(Segment).items() if int(key[:5]) == at.number]
            own += [one for name, one in found if name == topic]
            if not any(made.base <= one.last and one.base <= made.last for one in own):
                found.append((topic, made))
        return found

    def unnamed(self) -> int | None:
        """How many facts are gone without a trace of their names; None where nothing credible counts them."""
        known = self.known(End).get("")
        end = known or self._end
        if end is None:
            return None
        there = sum(map(len, self.facts.values())) + len(self.topics.keys() - self.known(Topic).keys())
        there += len(self.forgotten_stages) + len(self.missing(Producer)) + (known is None)
        there += max(len(self.refound), len(self.missing(Segment)))
        gone = end.facts + 1 - there
        return max(0, gone) if known or gone == 0 else None

    @cached_property
    def _doubtful(self) -> bool:
        """Whether facts are missing, among which a segment may be."""
        end = self.known(End).get("")
        return bool(self.damaged) or end is None or end.facts + 1 > sum(map(len, self.facts.values()))

    def _left(self, name: str, at: Topic, made: Segment) -> Iterator[Piece]:
        """What is left of a damaged segment: its batches, where they still lie in the database, or some of its
        groups of rows."""
        rows = [one._replace(made=made) for one in self._rows(name, at, made.base, made.last + 1)]
        if sum(one.n for one in rows) == made.n:
            yield from rows
            return
        path = self.files.path(name, made)
        for before, base, body in left(made, path) if path.exists() else ():
            yield Piece(base, body.last(base), len(body.keys), made.ahead + before, body, made)

    def _rows(self, name: str, at: Topic, start: int, below: int) -> Iterator[Piece]:
        begin = at.number * SPAN
        for place in self._places[self._from(begin + start) : self._from(begin + below)]:
            found = self._batch(name, place)
            if found is not None:
                base, (ahead, body) = place - begin, found
                yield Piece(base, body.last(base), len(body.keys), ahead, body, None)

    def _from(self, place: int) -> int:
        return bisect_left(self._places, place)

    def _batch(self, name: str, place: int) -> tuple[int, Body] | None:
        for cell in self._batches[place]:
            with suppress(*_UNREADABLE):
                _, n, ahead, crc, data = self.pages.values(cell)
                if tables.check(data, name, place % SPAN, n, ahead) == crc:
                    return ahead, unpack(data, Body)
        return None

    def said(self, lost: Sequence[Lost]) -> list[Lost]:
        """The same, with the stages whose outputs they were: an output's id begins with its stage's name."""
        stages = [*self.known(Stage), *self.forgotten_stages]
        by: list[set[str]] = [set() for _ in lost]
        for topic, id, place in self._ids() if lost and stages else ():
            for one, names in zip(lost, by, strict=True):
                if self.topics[one.topic].number == topic and one.first <= place <= one.last:
                    names.update(name for name in stages if id.startswith(f"{name}:"))
        return [replace(one, by=sorted(of)) for one, of in zip(lost, by, strict=True)]

    def _ids(self) -> Iterator[tuple[Any, ...]]:
        """What the table of ids says, which nothing proves."""
        for number in range(2, self.pages.count + 1):
            for cell in self.pages.cells(number):
                if cell.shape == IDENT:
                    with suppress(*_UNREADABLE):
                        yield self.pages.values(cell)

    # States.

    def state(self, name: str, position: int) -> bytes | None:
        """A stage's state at a position, where it is right with all its pieces."""
        rows = list(self._state_rows(name))
        for stage, crc, first in rows:
            if stage == name:
                begins = tables.mark(name, position, crc, len(first))
                lie = {one: data for one, _, data in rows if one.startswith(begins)}
                state = b"".join([first, *(lie[one] for one in sorted(lie))])
                if tables.check(state, name, position) == crc:
                    return state
        return None

    def _state_rows(self, name: str) -> Iterator[tuple[str, int, bytes]]:
        for cell in self._states:
            with suppress(*_UNREADABLE):
                stage, crc, data = self.pages.values(cell)
                if isinstance(data, bytes) and str(stage).partition("\n")[0] == name:
                    yield stage, crc, data

    @cached_property
    def forgotten_stages(self) -> list[str]:
        """The stages of which only the name is left."""
        names = set(self.missing(Stage))
        for cell in self._states:
            with suppress(*_UNREADABLE):
                if cell.page not in self.pages.free:
                    names.add(self.pages.values(cell)[0].partition("\n")[0])
        return sorted(names - self.known(Stage).keys()) if self._doubtful else []


def _age(fact: Any) -> tuple[int, ...]:
    """What grows from one version of a fact to the next."""
    if isinstance(fact, Topic):
        return fact.total, fact.first, fact.sealed
    if isinstance(fact, Stage):
        return fact.epoch, fact.position, fact.state
    return (fact.n if isinstance(fact, End) else fact.sequence if isinstance(fact, Producer) else 0,)
