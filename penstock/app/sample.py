"""app: events to play a file with: samples from a folder, or made up from the types."""

from __future__ import annotations

import functools
import random
import typing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.pipeline import File
from penstock.app.replay import Timed
from penstock.record.codec import millis
from penstock.record.errors import Refused
from penstock.record.event import Event, Source

START_AT = datetime(2024, 1, 1, tzinfo=UTC)


def sampled(file: File, folder: Path) -> list[Timed]:
    """The events of TOPIC.ndjson files, by event time."""
    events: list[Timed] = []
    for topic, source in file.sources.items():
        path = folder / f"{topic}.ndjson"
        for line in path.read_bytes().splitlines() if path.exists() else ():
            draft = source.draft(source.parse(line))
            events.append((draft.time_ms, topic, msgspec.json.decode(line)))
    if not events:
        raise Refused("The folder holds no TOPIC.ndjson of this file's topics.", code="no_data")
    return sorted(events, key=lambda event: event[0])


@functools.cache
def columns(schema: type[Event]) -> dict[str, Any]:
    """The types of an event's columns."""
    return typing.get_type_hints(schema)


def made_row(
    source: Source, when: datetime, i: int, chance: random.Random, pools: dict[str, list[Any]]
) -> dict[str, Any]:
    """An event made up from its type; columns of one name share their values, so that entities meet."""
    hints = columns(source.schema)
    row = {name: _value(name, hints[name], chance, pools) for name in source.columns}
    if source.id:
        row[source.id] = f"r{i}" if hints[source.id] is str else i
    if source.time:
        row[source.time] = when if hints[source.time] is datetime else millis(when)
    return row


def _value(name: str, hint: Any, chance: random.Random, pools: dict[str, list[Any]]) -> Any:
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    if type(None) in typing.get_args(hint) and chance.random() < 0.1:
        return None
    kind = kinds[0]
    if typing.get_origin(hint) is typing.Literal:
        return chance.choice(typing.get_args(hint))
    makers: dict[Any, Callable[[], Any]] = {
        bool: lambda: chance.random() < 0.4,
        float: lambda: round(chance.lognormvariate(2, 1), 2),
        int: lambda: chance.randrange(100),
        datetime: lambda: START_AT + timedelta(minutes=chance.randrange(10_000)),
        str: lambda: chance.choice(pools.setdefault(name, [f"{name}-{n}" for n in range(20)])),
    }
    return makers[kind]() if kind in makers else None
