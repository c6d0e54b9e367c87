"""predict: everything about one prediction, from the log alone: what was asked, seen, said, why, and what came true."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from penstock.feature import FeatureSet, Fold, Scored, Seen, answers, descent
from penstock.log import Log
from penstock.record.codec import moment, span_text, unpack
from penstock.record.decisions import (
    AGAIN,
    TICKS,
    Outcome,
    Prediction,
    Release,
    Tick,
    Verdict,
    Version,
    outcomes,
    predictions,
    read,
)
from penstock.record.errors import NotFound, Poison
from penstock.record.event import Source
from penstock.record.poison import HIDDEN
from penstock.record.record import Position, Record, output_id
from penstock.release.registry import registry
from penstock.stage import folded

_TAKEN = ("shadow", "canary", "champion", "rolled_back")
"""The steps that put a version where it answers."""


class Trace(msgspec.Struct, frozen=True):
    """One prediction with all that stands behind it. Personal columns of the request are masked. `given`: what other
    models had answered to the same request and came with it, by the predictions' ids."""

    id: str
    position: int
    request: dict[str, Any]
    prediction: Prediction
    features: list[Seen]
    version: Version | None
    verdict: Verdict | None
    release: Release | None
    others: list[Prediction]
    given: dict[str, Prediction]
    state: Literal["pending", "observed", "expired"]
    outcome: Outcome | None


def trace(
    log: Log, requests: Mapping[str, Source], sets: Mapping[str, Mapping[str, FeatureSet]], id: str
) -> Trace:
    """What the log says of a prediction. `requests`: the request's source by model; `sets`: the feature
    sets by model and digest. `id` is a prediction's, or a request's (then of the served prediction).
    Raises NotFound."""
    found = _find(log, requests, id)
    said = read(found, Prediction)
    asked = log.read([said.source], Position(n=said.position), limit=1)[0][0]
    source = requests[said.model]
    features = sets[said.model].get(said.features)
    known = registry(log, said.o).models.get(said.model)
    version = known.versions.get(said.version) if known else None
    steps = (
        [one for one in known.releases if one.version == said.version and one.step in _TAKEN] if known else []
    )
    verdict = known.verdicts.get(said.version) if known else None
    outcome = _outcome(log, said)
    return Trace(
        found.id, found.position, _shown(source, asked), said,
        _seen(log, features, said, asked, source) if features and asked.topic == source.topic else [],
        version, verdict, steps[-1] if steps else None, _others(log, said, found.id),
        _given(log, source, asked),
        outcome.state if outcome else "pending", outcome,
    )  # fmt: skip


def _find(log: Log, requests: Mapping[str, Source], id: str) -> Record:
    for model, source in requests.items():
        found = log.find(predictions(model), id)
        asked = log.find(source.topic, id) if found is None else None
        if asked is not None:
            found = log.find(
                predictions(model), output_id(f"predict.{model}", asked.topic, asked.position, 0)
            )
        if found is not None:
            return found
    raise NotFound(
        "No prediction and no answered request has this id.",
        hint="An id looks like predict.MODEL:TOPIC:POSITION:0.",
    )


def _shown(source: Source, asked: Record) -> dict[str, Any]:
    """The request's columns, personal ones masked; a request of bare features shows none."""
    if asked.topic != source.topic:
        return {}
    event = msgspec.to_builtins(unpack(asked.value, source.schema))
    return {
        name: HIDDEN if name in source.pii and event[name] is not None else event[name]
        for name in source.columns
    }


def _seen(log: Log, features: FeatureSet, said: Prediction, asked: Record, source: Source) -> list[Seen]:
    """The features' state below O, folded from the log's start, and what it held for this request."""
    fold = Fold(features, prune=False)
    for records, _ in folded(log, f"predict.{said.model}", (*features.topics, TICKS, AGAIN), stop=said.o):
        for record in records:
            if record.topic == TICKS:
                fold.tick(read(record, Tick).t_ms)
                continue
            with contextlib.suppress(Poison):
                fold.add(record)
    personal = {str(getattr(unpack(asked.value, source.schema), name)) for name in source.pii}
    return [
        msgspec.structs.replace(one, entity=HIDDEN if one.entity in personal else one.entity)
        for one in fold.explain(asked)
    ]


def _others(log: Log, said: Prediction, id: str) -> list[Prediction]:
    """What other versions said to the same request."""
    found = []
    for n in range(3):
        record = log.find(
            predictions(said.model), output_id(f"predict.{said.model}", said.source, said.position, n)
        )
        if record is not None and record.id != id:
            found.append(read(record, Prediction))
    return found


def _given(log: Log, source: Source, asked: Record) -> dict[str, Prediction]:
    """What was answered on the way to this request, the first one first."""
    scored = (
        [one for one in descent(source) if isinstance(one, Scored)] if asked.topic == source.topic else []
    )
    found = [record for one in reversed(scored) for record in answers(one, asked.id, log.find)]
    return {record.id: read(record, Prediction) for record in found}


def _outcome(log: Log, said: Prediction) -> Outcome | None:
    """The newest outcome of the request; an amended one stands for the one before."""
    position, found = Position(n=said.position), None
    while True:
        records, position = log.read([outcomes(said.model)], position, limit=4096)
        if not records:
            return found
        for record in records:
            if record.key == said.request:
                found = read(record, Outcome)


def told(found: Trace) -> str:
    """A trace in lines for a terminal."""
    said = found.prediction
    lines = [
        f"prediction  {found.id} at position {found.position}",
        f"request     {said.request} at {moment(said.t_ms):%Y-%m-%d %H:%M:%S} UTC, seen at position {said.o}",
        *(f"            {name} = {value}" for name, value in found.request.items()),
        *(
            f"given       {one.model} v{one.version} said {_answer(one)}: {id}"
            for id, one in found.given.items()
        ),
        f"answer      {_answer(said)} by v{said.version} ({said.role}{', served' if said.served else ', not served'})",
        *(f"            v{one.version} ({one.role}) said {_answer(one)}" for one in found.others),
        f"            scored in {said.latency_s * 1000:.2f} ms, in the batch that began at {said.batch}",
        "features",
        *(f"            {one.name} = {one.value}  {_behind(one)}" for one in found.features),
    ]
    return "\n".join(lines + _why(found))


def _why(found: Trace) -> list[str]:
    version, verdict, release = found.version, found.verdict, found.release
    lines = []
    if version is not None:
        data = version.training
        lines = [
            f"version     v{version.version} {version.digest}",
            f"            trained on {data.rows} rows of {data.source}, seen at position {data.o} ({version.reason})",
            f"            from {moment(data.from_ms):%Y-%m-%d %H:%M} to {moment(data.to_ms):%Y-%m-%d %H:%M} UTC",
            f"            dataset {data.digest}",
        ]
    if verdict is not None:
        lines.append(f"verdict     {verdict.decision}: {verdict.reasons[0]}")
    if release is not None:
        share = f" {release.share} %" if release.share else ""
        lines.append(f"release     {release.step}{share} by {release.by}: {release.reason}")
    outcome = found.outcome
    truth = "pending"
    if outcome is not None:
        truth = f"{outcome.state}: {outcome.label} (known {moment(outcome.known_ms):%Y-%m-%d %H:%M} UTC)"
    return [*lines, f"outcome     {truth}"]


def _answer(said: Prediction) -> str:
    return (
        f"failed ({said.error})"
        if said.score is None
        else f"{said.score:.6g}{' (positive)' if said.positive else ''}"
    )


def _behind(one: Seen) -> str:
    if one.first < 0 and not one.window_ms and not one.count:
        return f"({one.kind})"
    window = f" over {span_text(one.window_ms)}" if one.window_ms else ""
    places = f", positions {one.first} to {one.last}" if one.count else ""
    return f"({one.kind}{window}: {one.count} events of {one.topic} for {one.entity}{places})"
