"""app: an event taken back: from a position of the log on it is as if it had never been."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.app.pipeline import File
from penstock.app.system import Numbered, in_order
from penstock.log import Log
from penstock.record.decisions import draft
from penstock.record.errors import NotFound, Refused
from penstock.record.record import START, Draft, Record

RETRACTIONS = "retractions"


class Retraction(msgspec.Struct, frozen=True):
    """The event at `position` of a topic is gone from here on. `value` are its bytes: whose it was."""

    topic: str
    id: str
    position: int
    time_ms: int
    value: bytes


class Retracted(msgspec.Struct, frozen=True):
    """An event that was taken back: it lies at `position`, and who stands beyond `gone_from` does not see it.
    `repeated`: it was gone already."""

    topic: str
    id: str
    position: int
    gone_from: int
    repeated: bool


def retract(
    file: File, log: Log, topic: str, ids: Sequence[str], *, sync: bool = True, numbered: Numbered = ("", 0)
) -> list[Retracted]:
    """Take events of a topic back, all or none. Raises NotFound for a topic or an id that is not there, Refused
    where the topic's events have no ids. Doing it again changes nothing.
    """
    source = file.source(topic)
    if not source.id:
        raise Refused(
            f"The events of {topic} have no id to name one by.",
            code="no_id", hint='Declare it: source(..., id="COLUMN").',
        )  # fmt: skip
    events = [_found(log, topic, id) for id in ids]
    drafts = [_draft(one) for one in events]
    producer, sequence = in_order(log, RETRACTIONS, numbered)
    done = log.append(drafts, producer=producer, sequence=sequence, sync=sync)
    places = done.places or [_place(log, one) for one in drafts]
    return [
        Retracted(topic, one.id, one.position, place, i in done.repeats)
        for i, (one, place) in enumerate(zip(events, places, strict=True))
    ]


def _found(log: Log, topic: str, id: str) -> Record:
    found = log.find(topic, id)
    if found is None:
        gone = log.first(topic).n > START.n
        note = f" Retention has dropped those below position {log.first(topic)}, ids and all." if gone else ""
        raise NotFound(f"{topic} has no event of this id.{note}", code="unknown_id")
    return found


def _draft(event: Record) -> Draft:
    """The retraction of an event, under an id of its own: said once."""
    value = Retraction(event.topic, event.id, event.position, event.time_ms, event.value)
    id = f"{event.topic}:{event.position}"
    return draft(RETRACTIONS, value, key=event.key, t_ms=event.time_ms, id=id)


def _place(log: Log, one: Draft) -> int:
    """Where a retraction lies that was appended under the producer's number before."""
    found = log.find(one.topic, one.id)
    if found is None:
        raise Refused(
            "Another append had this number.", code="sequence", hint="Take the number that follows."
        )
    return found.position
