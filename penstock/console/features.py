"""console: what is shown of a feature set: its definitions, its values now and before, its age and its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from markupsafe import Markup

from penstock.chart import Box, flow, spark, spread
from penstock.chart.small import number
from penstock.console.tail import newest
from penstock.dataset.profile import cell
from penstock.feature import FeatureSet
from penstock.feature.state.size import Size, sizes
from penstock.log import Log
from penstock.monitor import board
from penstock.predict.consistency import Compared, peek
from penstock.record.codec import unpack
from penstock.record.decisions import TICKS, ColumnProfile, Hour, Prediction, Tick, Value, predictions, read
from penstock.record.record import Position
from penstock.release.registry import Entry

ROWS = 1000
"""The newest predictions that tell what values are like now."""
POINTS = 90
NAMES_SHOWN = 12
"""Names in one box of the lineage."""
PREFIX = 12
"""So many digits of a digest stand in an address."""


class Line(msgspec.Struct, frozen=True):
    """What is shown of one definition."""

    name: str
    text: str
    description: str
    owner: str
    tags: tuple[str, ...]
    looks: int | None
    now: Markup | str
    mean: Markup | str
    missing: Markup | str
    missing_now: float | None
    drift: float | None


class Age(msgspec.Struct, frozen=True):
    """The newest event of a topic that has been folded: where, of when, how old at the newest tick, and how
    many newer records wait."""

    topic: str
    position: int | None
    t_ms: int | None
    age_ms: int | None
    waiting: int


class State(msgspec.Struct, frozen=True):
    """The state of the set as the answering stage last wrote it, at a position."""

    position: int
    size_bytes: int
    series: list[Size]


class _Saved(msgspec.Struct):
    folds: dict[str, bytes] = {}


def lineage(features: FeatureSet) -> Markup:
    """From the topics over whose events they are to what is made of them, as a picture."""
    groups = _groups(features)
    boxes, edges = {}, []
    for topic in dict.fromkeys(topic for topic, _ in groups):
        boxes[topic] = Box(topic, (topic,), "outside")
    home: dict[str, str] = {}
    for (topic, title), names in groups.items():
        id = f"{topic}/{title}"
        boxes[id] = Box(id, (title, *_few(names)), "feature")
        edges.append((topic, id))
        home |= dict.fromkeys(names, id)
    made = [name for name, about in features.about.items() if about.kind in ("function", "expression")]
    if made:
        boxes["made"] = Box("made", ("worked out", *_few(made)), "feature")
        needs = dict.fromkeys(home[one] for name in made for one in features.about[name].needs if one in home)
        edges += [(id, "made") for id in needs]
    drawn = flow(list(boxes.values()), edges, title="From events to features", sideways=True)
    return Markup(drawn)


def _groups(features: FeatureSet) -> dict[tuple[str, str], list[str]]:
    """Features by the topic that they look at, and whose of its events."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in features.nodes:
        if node.aggregate is not None:
            found.setdefault((node.aggregate.source.topic, f"by {node.entity}"), []).append(node.name)
        elif node.column:
            found.setdefault((features.request.topic, "the request's own"), []).append(node.name)
    return found


def _few(names: Sequence[str]) -> list[str]:
    shown = list(names[:NAMES_SHOWN])
    return [*shown, f"and {len(names) - NAMES_SHOWN} more"] if len(names) > NAMES_SHOWN else shown


def lines(
    features: FeatureSet,
    hours: Sequence[Hour],
    reference: Mapping[str, ColumnProfile],
    said: Sequence[Prediction],
) -> list[Line]:
    """A line for each feature: listed ones with what their values are like, and those behind them."""
    shown = board.thin(hours, POINTS)
    values = [one.values for one in said if len(one.values) == len(features.names)]
    found = []
    for i, name in enumerate(features.names):
        column = [row[i] for row in values]
        found.append(_line(features, name, shown, reference.get(name), column))
    return found


def _line(
    features: FeatureSet,
    name: str,
    hours: Sequence[Hour],
    reference: ColumnProfile | None,
    column: Sequence[Value],
) -> Line:
    about = features.about[name]
    looks = about.window_ms if about.kind not in ("column", "function", "expression") else None
    served = [hour for hour in hours if hour.served]
    means = [(hour.to_ms, hour.means.get(name)) for hour in served if name in hour.means]
    gone = [(hour.to_ms, hour.missing.get(name, 0.0)) for hour in served]
    texts = any(isinstance(value, str) for value in column)
    drifts = [hour.drift[name] for hour in hours if name in hour.drift]
    return Line(
        name, about.text, about.description, about.owner, about.tags, looks,
        Markup(_spread(name, reference, column)),
        Markup(spark(means, title=f"mean of {name}")) if means and not texts else "",
        Markup(spark(gone, title=f"missing {name}", percent=True)) if any(y for _, y in gone) else "never",
        sum(value is None or value != value for value in column) / len(column) if column else None,
        drifts[-1] if drifts else None,
    )  # fmt: skip


def _spread(name: str, reference: ColumnProfile | None, column: Sequence[Value]) -> str:
    """How the newest values lie in the cells of the training rows."""
    if reference is None or not reference.shares:
        return spread([], [], [], title=name)
    counts = [0] * len(reference.shares)
    for value in column:
        at = cell(reference, value)
        if at is not None and at < len(counts):
            counts[at] += 1
    total = sum(counts)
    now = [n / total for n in counts] if total else []
    return spread(now, reference.shares, _cells(reference), title=name)


def _cells(reference: ColumnProfile) -> list[str]:
    """What lies in each cell."""
    if reference.kind == "category":
        return [*reference.categories, "others"]
    edges = [number(edge) for edge in reference.edges]
    if not edges:
        return ["all"]
    return [f"to {edges[0]}", *(f"{a} to {b}" for a, b in pairwise(edges)), f"over {edges[-1]}"]


def ages(log: Log, features: FeatureSet, folded: Position) -> list[Age]:
    """How old the newest folded event of each topic is; the newest tick is now."""
    ticks = newest(log, TICKS, 1)
    now_ms = read(ticks[0], Tick).t_ms if ticks else None
    found = []
    for topic in (features.request.topic, *(t for t in features.sources if t != features.request.topic)):
        last = newest(log, topic, 1, folded)
        waiting = log.count(topic, folded)
        t_ms = last[0].time_ms if last else None
        age_ms = None if now_ms is None or t_ms is None else max(0, now_ms - t_ms)
        found.append(Age(topic, last[0].position if last else None, t_ms, age_ms, waiting))
    return found


def state(log: Log, model: str, features: FeatureSet) -> State | None:
    """The set's state on the log; None where none was written yet."""
    checkpoint = log.load(f"predict.{model}")
    data = unpack(checkpoint.state, _Saved).folds.get(features.digest) if checkpoint.state else None
    if data is None:
        return None
    return State(checkpoint.state_position.n, len(data), sizes(features, data))


def compared(log: Log, model: str, features: FeatureSet) -> tuple[Compared, int] | None:
    """What the consistency stage had compared when it last wrote its state, and where it stood."""
    checkpoint = log.load(f"consistency.{model}")
    found = peek(checkpoint.state).get(features.digest) if checkpoint.state else None
    return (found, checkpoint.state_position.n) if found is not None else None


def view(
    log: Log, model: str, features: FeatureSet, entry: Entry, hours: Sequence[Hour], folded: Position
) -> dict[str, Any]:
    """All that the page of a feature set shows."""
    bound = sorted(n for n, one in entry.versions.items() if one.features == features.digest)
    reference = entry.versions[bound[-1]].profile.columns if bound else {}
    said = [read(record, Prediction) for record in newest(log, predictions(model), ROWS)]
    mine = [one for one in said if one.served and one.features == features.digest]
    behind = [(name, features.about[name]) for name in features.about if name not in features.names]
    return {
        "name": model, "features": features, "bound": [(n, entry.standing(n)) for n in bound], "rows": len(mine),
        "lineage": lineage(features), "lines": lines(features, hours, reference, mine), "behind": behind,
        "ages": ages(log, features, folded), "state": state(log, model, features),
        "compared": compared(log, model, features),
    }  # fmt: skip


def found_by(sets: Mapping[str, FeatureSet], prefix: str) -> FeatureSet | None:
    """The set whose digest begins so."""
    return next(
        (one for digest, one in sets.items() if len(prefix) >= PREFIX and digest.startswith(prefix)), None
    )
