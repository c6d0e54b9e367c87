"""log: a topic's history as columns: what is sealed as it lies in the files, the tail made so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice, zip_longest
from typing import Any

from penstock.log import tables
from penstock.log.chain import Part, Sealed, begun, must_reach
from penstock.log.segments import FIELDS, Files, groups, within
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import Segment
from penstock.log.upkeep.turn import PIECE
from penstock.record.errors import Refused
from penstock.record.record import START, Position


def columns(
    log: SqliteLog,
    topic: str,
    start: Position = START,
    stop: Position | None = None,
    fields: Sequence[str] = FIELDS,
) -> Iterator[Any]:
    """The records of a topic in [start, stop) as Arrow record batches, in order, with some of their fields
    (`position`, `id`, `key`, `time_ms`, `value`, `headers`). Few are in memory at a time, and no snapshot is
    held between them.

    Raises Broken where something is damaged or missing, or was dropped by retention before it was read."""
    if unknown := set(fields) - set(FIELDS):
        raise Refused(
            f"Records have no {min(unknown)}.", code="no_field", hint=f"They have {', '.join(FIELDS)}."
        )
    position = start.n
    below = min(stop.n, log.end().n) if stop else log.end().n
    while True:
        with log._reading() as db:
            at = tables.fact(db, tables.Topic, topic)
            if at is None or position >= below:
                return
            must_reach(topic, at, position)
            position = max(position, at.first)
            piece = list(islice(log.chain.links(db, topic, at, position, below, keep=False), PIECE))
            if not piece or piece[-1].last < position:
                ahead = piece[-1].ahead + piece[-1].n if piece else begun(at, position)
                log.chain.must_be_whole(db, topic, at, ahead, below)
                return
        made = [link.made for link in piece if isinstance(link, Sealed)]
        yield from _sealed(log.chain.files, topic, made, position, below, fields)
        loose = groups(topic, [(one.base, one.body) for one in piece if isinstance(one, Part)])
        parts = (within(one, position, below) for one in loose)
        yield from (one.select(list(fields)) for one in parts if len(one))
        position = piece[-1].last + 1


def _sealed(
    files: Files, topic: str, made: Sequence[Segment], start: int, below: int, fields: Sequence[str]
) -> Iterator[Any]:
    """The records of some files; while one is read, the next is verified, which takes longer."""
    with ThreadPoolExecutor(1, "penstock-verify") as aside:
        for one, coming in zip_longest(made, made[1:]):
            verified = [aside.submit(files.opened, topic, coming)] if coming else []
            yield from files.columns(topic, one, start, below, fields)
            wait(verified)  # what is wrong with it is told when its turn comes
