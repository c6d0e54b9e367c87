"""app: an event taken back: from a position of the log on it is as if it had never been."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.app.append import Numbered, in_order
from penstock.app.pipeline import File
from penstock.log import Log
from penstock.record.decisions import (
    AGAIN,
    DEAD,
    RETRACTIONS,
    Again,
    DeadLetter,
    Retraction,
    draft,
    read,
)
from penstock.record.errors import NotFound, Refused
from penstock.record.record import START, Draft, Record
from penstock.stage import every


class Retracted(msgspec.Struct, frozen=True):
    """An event that was taken back: it lies at `position`, and a request beyond `gone_from` does not see it.
    `repeated`: it had been taken back before."""

    topic: str
    id: str
    position: int
    gone_from: int
    repeated: bool


def retract(
    file: File, log: Log, topic: str, ids: Sequence[str], *, sync: bool = True, numbered: Numbered = ("", 0)
) -> list[Retracted]:
    """Take events of a topic back, all or none. Raises NotFound for a topic or an id that is not there, Refused
    where the topic's events have no ids, or no stage counts the event. Doing it again changes nothing.
    """
    source = file.source(topic)
    if not source.id:
        raise Refused(
            f"The events of {topic} have no id to name one by.",
            code="no_id", hint='Declare it: source(..., id="COLUMN").',
        )  # fmt: skip
    stages = {f"predict.{name}" for name, plan in file.plans.items() if plan.features.reads(topic)}
    events = [_found(log, topic, id) for id in dict.fromkeys(ids)]
    words = [[_draft(one, place) for place in _places(log, one, stages)] for one in events]
    drafts = [one for some in words for one in some]
    producer, sequence = in_order(log, RETRACTIONS, numbered)
    done = log.append(drafts, producer=producer, sequence=sequence, sync=sync)
    at = dict(
        zip([one.id for one in drafts], done.places or [_earlier(log, one) for one in drafts], strict=True)
    )
    again = {drafts[i].id for i in done.repeats}
    return [
        Retracted(
            topic, event.id, event.position, max(at[one.id] for one in some), all(one.id in again for one in some)
        )
        for event, some in zip(events, words, strict=True)
    ]  # fmt: skip


def _found(log: Log, topic: str, id: str) -> Record:
    found = log.find(topic, id)
    if found is None:
        gone = log.first(topic).n > START.n
        note = f" Retention has dropped those below position {log.first(topic)}, ids and all." if gone else ""
        raise NotFound(f"{topic} has no event of this id.{note}", code="unknown_id")
    return found


def _places(log: Log, event: Record, stages: set[str]) -> list[int]:
    """From where on the event counts: its own place, and where an `Again` brought it back to a stage that had
    buried it. Raises Refused where every stage has buried it, for then it counts nowhere."""
    places = {event.position: set(stages)}
    for record in every(log, [DEAD, AGAIN]):
        if record.topic == AGAIN:
            word = read(record, Again)
            if (word.topic, word.position) == (event.topic, event.position):
                places[record.position] = stages & set(word.stages)
        else:
            letter = read(record, DeadLetter)
            if letter.o in places:
                places[letter.o].discard(letter.stage)
    counting = [place for place, some in places.items() if some or not stages]
    if not counting:
        raise Refused(
            "No feature counts this event: it is a dead letter.",
            code="dead",
            hint="`penstock dead` lists them.",
        )
    return counting


def _draft(event: Record, place: int) -> Draft:
    """The retraction of an event from where it counts, under an id of its own: said once."""
    value = Retraction(event.topic, event.id, place, event.time_ms, event.value)
    id = f"{event.topic}:{place}"
    return draft(RETRACTIONS, value, key=event.key, t_ms=event.time_ms, id=id)


def _earlier(log: Log, one: Draft) -> int:
    """Where a retraction lies that was appended under the producer's number before."""
    found = log.find(one.topic, one.id)
    if found is None:
        raise Refused(
            "Another append had this number.", code="sequence", hint="Take the number that follows."
        )
    return found.position
