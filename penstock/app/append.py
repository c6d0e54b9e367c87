"""app: rows become events: checked against their source, numbered by their producer, appended, and told of."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.app.pipeline import File
from penstock.log import Log
from penstock.record.decisions import (
    REFUSED,
    Refusal,
    draft,
)
from penstock.record.errors import NotFound, Refused, Unavailable
from penstock.record.record import NO_HEADERS, Draft

Numbered = tuple[str, int]
"""A producer's name, and the number that it gives an append: 1, 2, 3..."""


class Report(msgspec.Struct, frozen=True):
    """What became of rows that were appended: how many were taken, repeated, refused, and why."""

    appended: int
    duplicates: int
    refused: dict[str, int]
    notes: list[str]
    places: list[int]


def append(
    file: File,
    log: Log,
    topic: str,
    rows: Sequence[Mapping[str, Any] | bytes],
    *,
    now_ms: int,
    sync: bool = True,
    strict: bool = True,
    first: int = 1,
    numbered: Numbered = ("", 0),
    headers: Mapping[str, str] = NO_HEADERS,
) -> Report:
    """Validate events for a topic and append the good ones. Raises NotFound for an unknown topic.

    `first` is the number of the first row in the notes; see `Source.parse` for `strict`; `numbered` is
    the producer's name and this append's number, which follows the one before: an append that comes
    again changes nothing. A refused event stops nothing: it is counted in the report, and on `refused`
    by one record for all that were refused with its code; so are repeats. `headers` go onto the events' records.
    """
    try:
        source = file.source(topic)
    except NotFound as error:
        unknown_one = Refusal(topic[:64], error.code, error.what, now_ms, max(1, len(rows)))
        log.append([_refusal(unknown_one)], sync=sync)
        raise
    drafts: list[Draft] = []
    first_of: dict[str, Refusal] = {}
    refused: dict[str, int] = {}
    notes: list[str] = []
    for number, row in enumerate(rows, first):
        try:
            made = source.draft(source.parse(row, strict=strict))
            drafts.append(msgspec.structs.replace(made, headers=dict(headers)) if headers else made)
        except Refused as error:
            refused[error.code] = refused.get(error.code, 0) + 1
            first_of.setdefault(error.code, Refusal(topic, error.code, error.what, now_ms))
            if len(notes) < 20:
                notes.append(f"row {number}: {error}")
    refusals = [_refusal(msgspec.structs.replace(one, count=refused[code])) for code, one in first_of.items()]
    producer, sequence = in_order(log, topic, numbered)
    done = log.append([*drafts, *refusals], producer=producer, sequence=sequence, sync=sync)
    repeated = sum(i < len(drafts) for i in done.repeats)
    if repeated:
        code, why = ("duplicate", "an id") if done.places else ("repeated", "a number of their producer's")
        note = f"{repeated} events have {why} that stood already; the first ones stand."
        with contextlib.suppress(Unavailable):  # the disk is full: the answer tells it all the same
            log.append([_refusal(Refusal(topic, code, note, now_ms, repeated))], sync=sync)
        notes.append(note)
    return Report(len(drafts) - repeated, repeated, refused, notes, done.places[: len(drafts)])


def in_order(log: Log, topic: str, numbered: Numbered) -> Numbered:
    """The producer as the log knows it. Raises Refused where an append before this one is missing: it
    would be taken for a repeat when it comes."""
    name, sequence = numbered
    if not name:
        return numbered
    producer = f"{topic}/{name}"
    last = log.last(producer)
    if not 0 < sequence <= last + 1:
        raise Refused(
            f"The number that follows is {last + 1}.", code="sequence", where=producer,
            hint="Send one append after the other, each until it is answered.",
        )  # fmt: skip
    return producer, sequence


def _refusal(one: Refusal) -> Draft:
    return draft(REFUSED, one, key=one.topic, t_ms=one.t_ms)
