"""cli: features looked up in a home, and events taken back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.home import open_home
from penstock.app.pipeline import load
from penstock.app.retract import retract as take_back
from penstock.cli import show
from penstock.feature.lookup import Entity, Looked
from penstock.record.codec import moment
from penstock.record.errors import Refused
from penstock.serve.features import told


def get(given: argparse.Namespace) -> int:
    """Print the values of features for entities."""
    file = load(given.file)
    if not given.model and len(file.plans) > 1:
        names = ", ".join(file.plans)
        raise Refused(
            "The file has several models.", code="which_model", hint=f"Say which: --model, of {names}."
        )
    home = open_home(Path(given.home))
    try:
        lookup = home.features(given.model or next(iter(file.plans)), file)
        entities = [_entity(words) for words in given.entity]
        found = lookup.look(entities, _time(given.t), o=given.o, names=given.feature, strict=False)
    finally:
        home.log.close()
    if given.json:
        show.as_json(told(found))
    else:
        _shown(found)
    return 0


def _entity(words: Sequence[str]) -> Entity:
    """An entity of COLUMN=VALUE words; one word without a column is the value of the only one."""
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    pairs = [word.partition("=") for word in words]
    if any(not equals for _, equals, _ in pairs):
        raise Refused("--entity takes COLUMN=VALUE.", code="arguments")
    return {name: value for name, _, value in pairs}


def _time(text: str) -> datetime | int | None:
    if not text:
        return None
    try:
        return int(text) if text.lstrip("-").isdigit() else datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            "--t takes a time such as 2026-05-01T12:00Z, or UTC milliseconds.", code="arguments"
        ) from None


def _shown(found: Looked) -> None:
    """A feature a row, an entity a column, in the order asked for."""
    heads = ["feature", *(f"entity {i}" for i in range(1, len(found.rows) + 1))]
    rows = [[name, *(_cell(row[i]) for row in found.rows)] for i, name in enumerate(found.names)]
    show.table("", heads, rows)
    age = (
        "nothing on the log yet" if found.age_ms is None else f"known until {found.age_ms / 1000:g} s before"
    )
    at = moment(found.t_ms).isoformat()
    print(f"features: {found.digest[:12]} at t {at}, log position {found.o}; {age}")


def _cell(value: Any) -> Any:
    return "null" if value is None else repr(value) if isinstance(value, float) else value


def retract(given: argparse.Namespace) -> int:
    """Take events back."""
    home = open_home(Path(given.home))
    try:
        done = take_back(load(given.file), home.log, given.topic, given.ids)
    finally:
        home.log.close()
    if given.json:
        show.as_json([msgspec.structs.asdict(one) for one in done])
        return 0
    for one in done:
        again = " already" if one.repeated else ""
        print(f"retract: {one.topic}@{one.position} is gone{again}, from log position {one.gone_from} on")
    return 0
