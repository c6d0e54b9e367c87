"""app: the one-minute test: a whole pipeline on a sliver of data, and the laws on the user's own code."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import tempfile
import time
import typing
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.append import append
from penstock.app.home import Books, Home, open_home
from penstock.app.pipeline import File, Plan, load
from penstock.app.replay import Timed, replay
from penstock.app.sample import START_AT, made_row, sampled
from penstock.app.system import System, decide
from penstock.app.worker import in_process
from penstock.feature import Fold, asked
from penstock.model.fit import answers
from penstock.model.pack import Model, dump
from penstock.predict.refold import same
from penstock.record.codec import millis, moment
from penstock.record.decisions import Decision, Failure, Prediction, Version, predictions, read
from penstock.record.errors import PenstockError, Refused
from penstock.record.event import Source
from penstock.record.record import START
from penstock.release.registry import registry

REQUESTS = 400
LIMIT_S = 40.0


class Finding(msgspec.Struct, frozen=True):
    """One thing that was checked: whether it holds, and what to do where it does not."""

    what: str
    ok: bool
    note: str = ""


def check(path: str, data: Path | None, *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Load a file, play events through every stage in a temporary home, train, judge, serve, verify, rebuild.

    `data` is a folder of TOPIC.ndjson; without one, events are made up from the types.
    """
    try:
        file = load(path)
    except PenstockError as error:
        return [Finding("the file loads", False, str(error))]
    findings = [Finding("the file loads", True, f"{len(file.plans)} pipelines, {len(file.sources)} topics")]
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(Path(folder), create=True)
        with contextlib.closing(home.log):
            findings += _played(file, home, data, limit_s)
    return findings


def _played(file: File, home: Home, data: Path | None, limit_s: float) -> list[Finding]:
    trained: list[Version | Failure] = []

    def train(order: Any) -> Version | Failure:
        trained.append(in_process(msgspec.structs.replace(order, limit_s=limit_s)))
        return trained[-1]

    quick = _hurried(file)
    system = System(quick, home.log, home.blobs, home.path, time.perf_counter, train, sync=False)
    system.deploy(millis(START_AT))
    try:
        history = sampled(file, data) if data else _made_up(file)
        told: list[Timed] = []
        for n, names in enumerate(_generations(file)):
            told += _once_more(file, history, n)
            end_ms = replay(system, told, period_ms=_period(history)).now_ms
            for name in names:
                decide(home.log, Decision(name, "train", "check", "a sliver of data", end_ms))
            system.tick(end_ms + 1)
            system.drain()
            for name, entry in registry(home.log).models.items():
                if entry.versions and entry.route.champion is None:
                    decide(
                        home.log,
                        Decision(
                            name, "promote", "check", "to see it serve", end_ms + 2, max(entry.versions)
                        ),
                    )
            system.drain()
        again = [(end_ms + 3, topic, row) for _, topic, row in _asked_again(file, history, end_ms)]
        system.drain()
        for _, topic, row in again:
            append(file, home.log, topic, [row], now_ms=end_ms + 3, sync=False)
        system.drain()
    except PenstockError as error:
        return [Finding("the stages run", False, str(error))]
    findings = [Finding("the stages run", True, f"{home.log.end().n} records")]
    return findings + [one for name in file.plans for one in _model(quick, home, name, trained)]


def _hurried(file: File) -> File:
    """The same file, trained only when it is asked to be, on however few rows."""
    plans = {}
    for name, plan in file.plans.items():
        when = msgspec.structs.replace(
            plan.pipeline.train, period_ms=0, labels=0, at_least=10**9, on_alert=""
        )
        plans[name] = msgspec.structs.replace(
            plan, pipeline=msgspec.structs.replace(plan.pipeline, train=when)
        )
    return msgspec.structs.replace(file, plans=plans)


def _generations(file: File) -> list[list[str]]:
    """The models, those whose answers others are given before them: the others learn from what they answered."""
    by = functools.partial(_depth, file)
    return [list(names) for _, names in itertools.groupby(sorted(file.plans, key=by), by)]


def _depth(file: File, model: str) -> int:
    return len(file.order(model))


def _once_more(file: File, history: list[Timed], n: int) -> list[Timed]:
    """The history as it is; for the n-th generation after the first under new ids, and behind what came before."""
    if not n or not history:
        return history
    shift_ms = n * (history[-1][0] - history[0][0] + 2 * _period(history))
    keys = {(plan.label.source.topic, plan.label.source.key) for plan in file.plans.values()}
    made = []
    for at_ms, topic, row in history:
        source = file.sources[topic]
        event = msgspec.structs.asdict(source.parse(row))
        for name in {source.id, source.key if (topic, source.key) in keys else ""} - {""}:
            event[name] = f"{event[name]}.{n}" if _is_text(source, name) else event[name] + n * 10**8
        if source.time:
            at = event[source.time]
            event[source.time] = at + (
                timedelta(milliseconds=shift_ms) if isinstance(at, datetime) else shift_ms
            )
        made.append((at_ms + shift_ms, topic, event))
    return made


def _period(history: list[Timed]) -> int:
    """Some sixty periods over the whole history."""
    return max(1, (history[-1][0] - history[0][0]) // 60) if history else 1


def _asked_again(file: File, history: list[Timed], end_ms: int) -> list[Timed]:
    """The newest requests once more under new ids, so that a fresh champion has some to answer."""
    found = []
    for plan in file.plans.values():
        request = asked(plan.pipeline.request)
        mine = [event for event in history if event[1] == request.topic][-20:]
        for i, (_, topic, row) in enumerate(mine):
            changed = (
                {**row, request.id: f"check-{i}"}
                if _is_text(request, request.id)
                else {**row, request.id: 10**9 + i}
            )
            found.append(
                (end_ms, topic, {**changed, **({request.time: moment(end_ms)} if request.time else {})})
            )
    return found


def _is_text(source: Source, column: str) -> bool:
    return typing.get_type_hints(source.schema)[column] is str


# What must hold.


def _model(file: File, home: Home, name: str, trained: list[Version | Failure]) -> list[Finding]:
    plan = file.plan(name)
    mine = [one for one in trained if one.model == name]
    if not mine:
        return [
            Finding(f"{name} trains", False, "No label found its request: check the label's key and `wait`.")
        ]
    if isinstance(mine[-1], Failure):
        return [Finding(f"{name} trains", False, mine[-1].note)]
    version = mine[-1]
    books = Books(file, home.log, home.blobs)
    said = _predictions(home, name)
    failed = [one.error for one in said if one.error]
    checked = books.verify(name)
    model = books.models.get(version.digest)
    rows = [one.values for one in said] or [[None] * len(plan.features.names)]
    still = model.elsewhere or _unchanged(model, rows)  # what another server does with a question is its own
    made = f"{version.training.rows} rows, {version.size_bytes} bytes, {version.train_s:.1f} s"
    answered = f"{len(said)} predictions{f', failed: {failed[0]}' if failed else ''}"
    rebuilt = _rebuilt(home, version)
    books.models.close()
    return [
        Finding(f"{name} trains", True, made),
        Finding(f"{name} answers", bool(said) and not failed, answered),
        Finding(f"{name} answers the same again", not checked.unequal and _pure(plan, home), _first(checked.unequal)),
        Finding(f"{name} is not changed by predicting", still, ""),
        rebuilt,
    ]  # fmt: skip


def _first(unequal: list[Any]) -> str:
    return f"{unequal[0].id}: {unequal[0].what}; does a feature use the clock, or chance?" if unequal else ""


def _predictions(home: Home, name: str) -> list[Prediction]:
    records, _ = home.log.read([predictions(name)], START, limit=1000)
    return [read(record, Prediction) for record in records]


def _pure(plan: Plan, home: Home) -> bool:
    """Features read twice from one state are the same."""
    fold = Fold(plan.features, prune=False)
    records, _ = home.log.read([plan.pipeline.request.topic], START, limit=50)
    return all(same(fold.read(record), fold.read(record)) for record in records)


def _unchanged(model: Model, rows: list[Any]) -> bool:
    before = dump(model)
    first = answers(model, rows)
    return answers(model, rows) == first and dump(model) == before


def _rebuilt(home: Home, version: Version) -> Finding:
    from penstock.app.worker import rebuild

    what = f"{version.model} is trained to the same bytes again"
    try:
        digest = rebuild(home.path, home.log, "check", version, lambda done, total: None, limit_s=LIMIT_S)
    except Refused as error:
        return Finding(what, False, str(error))
    hint = "Give every random_state=data.seed, and iterate over no set."
    return Finding(what, digest == version.digest, "" if digest == version.digest else hint)


# Data to play.


def _made_up(file: File) -> list[Timed]:
    """Seeded events of every topic; a label follows half of the requests, or all where its value tells."""
    chance, events = random.Random(0), []
    pools: dict[str, list[Any]] = {}
    labels = {plan.label.source.topic: plan for plan in file.plans.values()}
    at = {plan.name: list(_times(plan, chance)) for plan in file.plans.values()}
    rows: dict[str, list[tuple[datetime, dict[str, Any]]]] = {}
    for plan in file.plans.values():
        request = asked(plan.pipeline.request)
        mine = rows.setdefault(request.topic, [])
        for i, at_first in enumerate(at[plan.name]):
            if i == len(mine):
                mine.append((at_first, made_row(request, at_first, i, chance, pools)))
                events.append((millis(at_first), request.topic, mine[i][1]))
            when, row = mine[i]
            if plan.label.silence is None or i % 2:
                later = when + timedelta(milliseconds=plan.label.wait_ms // 4)
                truth = made_row(plan.label.source, later, i, chance, pools)
                truth[plan.label.source.key] = row[request.id]
                events.append((millis(later), plan.label.source.topic, truth))
    whens = next(iter(at.values()))
    for topic, source in file.sources.items():
        if topic not in rows and topic not in labels:
            events += [(millis(w), topic, made_row(source, w, i, chance, pools)) for i, w in enumerate(whens)]
    return sorted(_unique(file, events), key=lambda event: event[0])


def _times(plan: Plan, chance: random.Random) -> Iterator[datetime]:
    step_ms = max(1, 3 * plan.label.wait_ms // REQUESTS)
    for i in range(REQUESTS):
        yield START_AT + timedelta(milliseconds=i * step_ms + chance.randrange(step_ms))


def _unique(file: File, events: list[Timed]) -> list[Timed]:
    seen: set[tuple[str, Any]] = set()
    kept = []
    for event in events:
        id = file.sources[event[1]].id
        if not id or (event[1], event[2][id]) not in seen:
            seen.add((event[1], event[2].get(id)))
            kept.append(event)
    return kept
