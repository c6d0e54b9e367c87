"""log: what a repair will do, planned from what a damaged log still holds, and the new log made of that."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path

import msgspec
from msgspec.structs import replace

from penstock.log import tables
from penstock.log.machine import make_folder, sync_file, sync_folder
from penstock.log.segments import segment_name
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import NOWHERE, Body, End, Producer, Segment, Stage, Topic
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.salvage import Lost, Piece, Salvage
from penstock.log.upkeep.seal import store
from penstock.log.upkeep.turn import PIECE
from penstock.log.writing import Writing
from penstock.record.codec import digest, pack
from penstock.record.decisions import REPAIRS
from penstock.record.errors import Broken
from penstock.record.record import Draft

NEW = "repair.new"
"""The folder beside the log in which the new one is made."""
LEAP = 1 << 24
"""Where the log's end is lost and perhaps the newest records, the end is set so far behind what is known: more
than can have been given. Positions need not be dense."""
ANEW = 1 << 20
"""The epoch of a stage whose own is lost: no owner had it."""
_ID = "INSERT OR IGNORE INTO ident VALUES(?, ?, ?)"


class Repair(msgspec.Struct, frozen=True):
    """A repair, as `repairs` tells of it. `found`: what was wrong; `anew`: what is made again without a loss;
    `lost`: records; `forgotten`: what else is lost; `end`: where the log goes on; `kept`: where the old files
    are."""

    t_ms: int = 0
    found: list[str] = []
    anew: list[str] = []
    lost: list[Lost] = []
    forgotten: list[str] = []
    end: int = 0
    kept: str = ""
    done: bool = False

    @property
    def loses(self) -> bool:
        """Whether something is lost for good."""
        return bool(self.lost or self.forgotten)


# The plan.


def planned(salvage: Salvage) -> Repair:
    """What a repair will do."""
    lost: list[Lost] = []
    counted: dict[str, int] = {}
    reach: dict[str, int] = {}
    for name, at in salvage.topics.items():
        counted[name], reach[name] = at.dropped, at.first
        for one in salvage.walk(name):
            if isinstance(one, Lost):
                lost.append(one)
            else:
                reach[name] = one.last + 1
                counted[name] = max(counted[name], one.ahead + one.n)
    lost = _settled(salvage, lost, sum(counted.values()))
    end = _end(salvage, lost, reach)
    lost = salvage.said([replace(one, last=end - 1) if one.last == NOWHERE else one for one in lost])
    whole = not lost and not any(at.dropped for at in salvage.topics.values())
    again = _again(salvage)
    anew = [*_anew(salvage), *(f"{one} from the beginning" for one in again if whole)]
    partly = [f"{one} from what is left, which is not all" for one in again if not whole]
    return Repair(anew=anew, lost=lost, forgotten=[*partly, *_forgotten(salvage)], end=end)


def _settled(salvage: Salvage, lost: Sequence[Lost], counted: int) -> list[Lost]:
    """The same, where a topic's newest records may be lost without a count, with as many as there are positions
    that nobody had; without them where there are none."""
    end = salvage.known(End).get("")
    spare = end.n - counted - sum(one.n for one in lost) if end else None
    sure = [one for one in lost if one.n]
    return sure + [replace(one, n=spare or 0) for one in lost if not one.n and (spare is None or spare > 0)]


def _end(salvage: Salvage, lost: Sequence[Lost], reach: dict[str, int]) -> int:
    """Where the log goes on: never before a position that was given."""
    stages = (at.position for at in salvage.known(Stage).values())
    least = max([0, *reach.values(), *stages, *(at.last + 1 for at in salvage.topics.values())])
    end = salvage.known(End).get("")
    if end is not None:
        return max(end.n, least)
    sure = salvage.unnamed() == 0 and not any(one.last == NOWHERE for one in lost)
    return least if sure else least + LEAP


def _again(salvage: Salvage) -> list[str]:
    """The stages that fold again."""
    stages = salvage.known(Stage)
    lost = [name for name, at in stages.items() if at.state != NOWHERE and not _has_state(salvage, name)]
    words = [f"stage {name}: its state is lost and is folded again," for name in lost]
    return words + [f"stage {name}: its place is lost; it begins anew," for name in salvage.forgotten_stages]


def _has_state(salvage: Salvage, name: str) -> bool:
    return salvage.state(name, salvage.known(Stage)[name].state) is not None


def _anew(salvage: Salvage) -> Iterator[str]:
    """What is made again of what is there."""
    yield "ids and trees: from the records"
    if not salvage.known(End):
        yield "the log's end: from the records"
    for name in salvage.topics:
        if name not in salvage.known(Topic):
            yield f"topic {name}: what the log knew of it, from its records; what retention dropped is forgotten"
    for topic, made in salvage.refound:
        yield f"{topic}@{made.base}: the log had forgotten its segment"


def _forgotten(salvage: Salvage) -> Iterator[str]:
    """What cannot be told again."""
    for name in salvage.missing(Producer):
        yield f"producer {name}: how far it was; what it repeats without ids would be taken for new"
    unnamed = salvage.unnamed()
    if unnamed is None:
        yield "What else lay beside the log's end, stages, producers, topics, is not known."
    elif unnamed:
        yield f"{unnamed} stages, producers or topics, whose names cannot be read."


# The new log.


def rebuild(home: Path, salvage: Salvage, plan: Repair) -> None:
    """Make the new log in its folder, whole and on the disk when this returns. Raises Broken unless all of it is
    what it should be."""
    folder = home / NEW
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    make_folder(home / "sealed")
    (folder / "sealed").symlink_to(Path("..") / "sealed")
    with closing(SqliteLog(folder)) as log:
        for name in salvage.topics:
            _Topic(log, salvage, name).make()
        log._transact(partial(_small, salvage, plan), sync=True)
        id = f"{REPAIRS}:{digest(pack(plan))[:32]}"
        log.append([Draft(REPAIRS, plan.kept, plan.t_ms, pack(plan), id)])
    with closing(SqliteLog(folder, create=False)) as log:
        for problem in examine(log):
            raise Broken("The repaired log is not right: nothing was changed.", where=problem.where)
    sync_file(folder / "log.db")
    sync_folder(folder)


def _small(salvage: Salvage, plan: Repair, writing: Writing) -> None:
    """Stages, their states, producers and the end."""
    for name, at in salvage.known(Stage).items():
        held = None if at.state == NOWHERE else salvage.state(name, at.state)
        if held is not None:
            tables.keep(writing.db, name, at.state, held)
        tables.put(writing.db, name, at if held is not None else replace(at, state=NOWHERE))
    for name in salvage.forgotten_stages:
        tables.put(writing.db, name, Stage(ANEW))
    for name, producer in salvage.known(Producer).items():
        tables.put(writing.db, name, producer)
    parts = salvage.known(Stage), salvage.forgotten_stages, salvage.known(Producer)
    writing.facts += sum(map(len, parts))
    writing.end = plan.end


class _Topic:
    """A topic on its way into the new log."""

    def __init__(self, log: SqliteLog, salvage: Salvage, name: str) -> None:
        self.log, self.salvage, self.name = log, salvage, name
        at = salvage.topics[name]
        ahead = at.dropped if at.sealed > at.first else at.ahead
        self.at = replace(at, ahead=ahead, last=NOWHERE, total=at.dropped)

    def make(self) -> None:
        """Write all that is there of it."""
        self.log._transact(self._begin, sync=False)
        pieces = (one for one in self.salvage.walk(self.name) if isinstance(one, Piece))
        for made, some in groupby(pieces, key=lambda piece: piece.made):
            if made is not None:
                self._segment(made, some)
                continue
            while few := list(islice(some, PIECE)):
                self.log._transact(partial(self._batches, few), sync=False)

    def _begin(self, writing: Writing) -> None:
        writing.facts += 1
        writing.change(self.name, self.at)

    def _batches(self, few: Sequence[Piece], writing: Writing) -> None:
        for one in few:
            if one.body is not None:
                self.at = replace(self.at, total=one.ahead)
                tables.insert(writing.db, self.at, self.name, one.base, one.body)
                self.at = replace(self.at, last=one.base, total=one.ahead + one.n)
                self._ids(one.base, one.body, writing)
        writing.change(self.name, self.at)

    def _segment(self, made: Segment, some: Iterator[Piece]) -> None:
        first, files = next(some), self.log.chain.files
        if first.body is None:
            made = replace(made, ahead=first.ahead)
        else:
            made = store(files, self.name, first.ahead, _bodies(chain([first], some)))
        for base, group in files.groups(self.name, made, 0, made.last + 1):
            body = files.body(self.name, made, group)
            self.log._transact(partial(self._ids, base, body), sync=False)
        self.log._transact(partial(self._enter, made), sync=False)

    def _enter(self, made: Segment, writing: Writing) -> None:
        tables.put(writing.db, segment_name(self.at, made.base), made)
        writing.facts += 1
        n = made.ahead + made.n
        self.at = replace(self.at, ahead=n, total=n)
        writing.change(self.name, self.at)

    def _ids(self, base: int, body: Body, writing: Writing) -> None:
        named = zip(body.ids or (), body.places(base), strict=False)
        rows = [(self.at.number, id, at) for id, at in named if id and at >= self.at.first]
        writing.db.executemany(_ID, rows)


def _bodies(pieces: Iterable[Piece]) -> Iterator[tuple[int, Body]]:
    return ((one.base, one.body) for one in pieces if one.body is not None)
