"""predict: a model's answers one after the other, for whoever reads them instead of waiting at a door.

Every request that a champion was there for has one: its prediction, or the code of why there is none (`error`), be
that the model's, a deadline's, or a dead letter's. Whoever keeps the place of the last one that he is done with goes
on behind it after a crash.
"""

from __future__ import annotations

import msgspec

from penstock.log import Log
from penstock.record.codec import unpack
from penstock.record.decisions import DEAD, DeadLetter, predictions, read, vectors
from penstock.record.errors import NotFound, Refused
from penstock.record.record import START, Position, Record, output_id

MOST = 10_000
"""Answers in one reading."""


class Reply(msgspec.Struct, frozen=True):
    """An answer, at its place on the log. `prediction` is the prediction's id; a dead letter has none, and its
    `request` is masked where it is personal."""

    position: int
    request: str
    score: float | None = None
    positive: bool | None = None
    version: int = 0
    prediction: str = ""
    error: str = ""


class Replies(msgspec.Struct, frozen=True):
    """Answers in the log's order, and the place after which the next ones come: that of the last one, or beyond."""

    answers: list[Reply]
    after: int


class _Said(msgspec.Struct, frozen=True, gc=False):
    """What of a prediction an answer tells."""

    version: int
    served: bool
    request: str
    score: float | None
    positive: bool | None
    error: str = ""


def replies(log: Log, model: str, after: int, most: int) -> Replies:
    """The answers after a place, at most so many. Raises Refused where the log does not reach it, and what the log
    does where retention has passed it."""
    if after and after >= log.end().n:
        raise Refused(
            "The log does not reach this place: it is another one, or went backwards.", code="no_place"
        )
    found: list[Reply] = []
    position = Position(n=after + 1) if after else START
    while len(found) < most:
        records, position = log.read([predictions(model), DEAD], position, limit=most, passing=not after)
        if not records:
            break
        for record in records:
            one = _reply(model, record)
            if one is not None:
                found.append(one)
        if len(found) > most:
            found, position = found[:most], Position(n=found[most].position)
    return Replies(found, max(after, position.n - 1))


def reply_to(log: Log, model: str, topic: str, id: str) -> Reply:
    """The answer to a request by its id; raises NotFound where there is no such request, or no answer yet."""
    asked = log.find(topic, id) or log.find(vectors(model), id)
    if asked is None:
        raise NotFound("There is no request of that id.")
    while again := log.find(vectors(model), again_id(asked.topic, asked.position)):
        asked = again
    said = log.find(predictions(model), output_id(f"predict.{model}", asked.topic, asked.position, 0))
    dead = log.find(DEAD, f"{DEAD}:predict.{model}:{asked.topic}:{asked.position}")
    record = said or dead
    found = _reply(model, record) if record else None
    if found is None:
        raise NotFound("The request has no answer yet.", code="unanswered", hint="Ask again later.")
    return msgspec.structs.replace(found, request=id)


def again_id(topic: str, position: int) -> str:
    """The id of a request of which no score came, once it is scored again."""
    return f"again:{topic}:{position}"


def _reply(model: str, record: Record) -> Reply | None:
    if record.topic == DEAD:
        letter = read(record, DeadLetter)
        if record.key != f"predict.{model}":
            return None
        return Reply(record.position, letter.id, error=letter.code)
    said = unpack(record.value, _Said)
    if not said.served:
        return None
    return Reply(
        record.position, said.request, said.score, said.positive, said.version, record.id, said.error
    )
