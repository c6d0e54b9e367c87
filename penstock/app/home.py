"""app: a home: the folder of one log and its blobs, and what any process can read from it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.consistency import KIND, Found, found
from penstock.app.counters import Counters, plain
from penstock.app.lookup import Lookup, Lookups
from penstock.app.models import Models
from penstock.app.parts import folds
from penstock.app.pipeline import File, Plan, load_text
from penstock.app.place import Remembered, blobs_of, follow, remember
from penstock.app.pressure import Bounds, Lags, Pressure, disk_of, lags
from penstock.dataset.rows import past
from penstock.feature import JOIN, FeatureSet, join_inputs
from penstock.log import Blob, Log
from penstock.log.blob import FolderBlob
from penstock.log.sqlite import SqliteLog
from penstock.monitor.board import ALARMS
from penstock.predict.consistency import consistency_inputs
from penstock.predict.stage import predict_inputs, share_name
from penstock.predict.trace import Trace, trace
from penstock.predict.verify import Progress, Verified, verify
from penstock.record.decisions import (
    DEPLOYMENTS,
    Deployment,
    Value,
    predictions,
    read,
)
from penstock.record.errors import NotFound
from penstock.record.record import Record
from penstock.release.registry import REGISTRY, Registry, registry
from penstock.stage import View, stage


class Deployed(msgspec.Struct, frozen=True):
    """What was brought up last."""

    newest: Deployment | None = None


DEPLOYED = stage(
    "deployed", (DEPLOYMENTS,), Deployed, lambda _, record: (Deployed(read(record, Deployment)), [])
)


class Home(msgspec.Struct, frozen=True, eq=False):
    """An open home."""

    path: Path
    log: SqliteLog
    blobs: FolderBlob

    def file(self) -> File:
        """The pipeline file that was brought up last, as its text was then."""
        newest = View(DEPLOYED, self.log).read().newest
        if newest is None:
            raise NotFound("Nothing was brought up in this home yet.", hint="`penstock up FILE` does that.")
        return load_text(self.blobs.get(newest.code), newest.path)

    def features(self, name: str, file: File | None = None) -> Lookup:
        """Look-ups in a model's feature set, or in the one whose digest begins so: `home.features("fraud")
        .get({"card": "c1"})`. `file`: whose sets (default: those of the file brought up last)."""
        file = file or self.file()
        return Lookups(Books(file, self.log, self.blobs).all_sets(), file, self.log).of(name)


def wall_ms() -> int:
    """The wall clock in UTC milliseconds."""
    return time.time_ns() // 1_000_000


def open_home(
    path: Path, *, create: bool = False, log: str = "", settings: str = "", blobs: str = ""
) -> Home:
    """A home's log and blobs; raises NotFound when there is none and none shall be made. See `place.remember`
    for what is given once."""
    kept = remember(path, Remembered(log, settings, blobs))
    opened = follow(path, kept, create) if kept.log else SqliteLog(path, create=create)
    return Home(path, opened, blobs_of(path))


def inputs_of(file: File, blobs: Blob) -> dict[str, Sequence[str]]:
    """The topics that each stage of a file reads, by the stage's name."""
    inputs: dict[str, Sequence[str]] = {one.name: one.inputs for one in folds(file, blobs)}
    inputs |= {f"{JOIN}.{one.topic}": join_inputs(one) for one in file.scored.values()}
    for plan in file.plans.values():
        sets = {plan.features.digest: plan.features}
        inputs[f"predict.{plan.name}"] = predict_inputs(plan.name, plan.pipeline.request, sets)
        if plan.pipeline.consistency:
            inputs[f"{KIND}.{plan.name}"] = consistency_inputs(plan.name, plan.pipeline.request, sets)
    return inputs


def pressure(file: File, home: Home, bounds: Bounds) -> Pressure:
    """The bounds that producers into a home meet. What only compares holds nobody back."""
    inputs = {n: t for n, t in inputs_of(file, home.blobs).items() if not n.startswith(f"{KIND}.")}
    return Pressure(bounds, Lags(home.log, inputs), lambda: disk_of(home.path))


class Views:
    """What status and pages read: folds that are kept up with the log. One thread at a time."""

    def __init__(self, file: File, log: Log, blobs: Blob) -> None:
        self.file, self.log, self.blobs = file, log, blobs
        self._registry = View(REGISTRY, log)
        self._alarms = View(ALARMS, log)
        self._counters = Counters(log, file.sources, list(file.plans))
        self._deployed = View(DEPLOYED, log)
        self._inputs = inputs_of(file, blobs)

    def registry(self) -> Registry:
        """All versions and what became of them, as of now."""
        return self._registry.read()

    def status(self) -> dict[str, Any]:
        """How things stand: the log, every share's owner by epoch and its lag in records, every model."""
        log: Any = self.log
        topics = {topic: log.count(topic) for topic in log.topics()}
        known, inputs = log.stages(), dict(self._shares())
        behind = lags(log, inputs)
        stages = {
            name: {"position": known[name].position.n, "lag": behind[name], "epoch": known[name].epoch}
            for name in inputs
            if name in behind
        }
        models = {name: self._model(name, topics) for name in self.file.plans}
        return {
            "end": log.end().n,
            "topics": topics,
            "stages": stages,
            "models": models,
            "counters": plain(self._counters.read()),
            "code": self.file.code,
        }

    def _shares(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Every stage of the file and what it reads, a divided one as the shares that are in use now."""
        newest = self._deployed.read().newest
        n = newest.shares if newest else 1
        for name, inputs in sorted(self._inputs.items()):
            shares = n if name.startswith("predict.") else 1
            yield from ((share_name(name, k, shares), inputs) for k in range(shares))

    def _model(self, name: str, topics: dict[str, int]) -> dict[str, Any]:
        entry = self.registry().models.get(name)
        route, failed = (entry.route, entry.failed) if entry else (None, None)
        standing = self._alarms.read().standing.get(name, {})
        return {
            "versions": len(entry.versions) if entry else 0,
            "champion": route.champion.version if route and route.champion else None,
            "candidate": route.candidate.version if route and route.candidate else None,
            "share": route.share if route else 0,
            "predictions": topics.get(predictions(name), 0),
            "failed": f"v{failed.version}: {failed.note}" if failed else "",
            "alerts": sorted(standing),
        }


class Books:
    """Every feature set and model that a home's versions were bound to: what verify and trace need."""

    def __init__(self, file: File, log: Log, blobs: Blob) -> None:
        self.file, self.log = file, log
        self.plans: dict[str, dict[str, Plan]] = {
            name: {plan.features.digest: plan} for name, plan in file.plans.items()
        }
        for name, entry in registry(log).models.items():
            known = self.plans.get(name)
            for version in entry.versions.values():
                if known is not None and version.features not in known:
                    plan = load_text(blobs.get(version.code), file.path).plan(name)
                    known[plan.features.digest] = plan
        self.models = Models(file, log, blobs)

    def sets(self, model: str) -> dict[str, FeatureSet]:
        """A model's feature sets, by digest."""
        return {digest: plan.features for digest, plan in self.plans[model].items()}

    def all_sets(self) -> dict[str, tuple[str, FeatureSet]]:
        """Every feature set by digest, with the model that it belongs to."""
        return {
            digest: (name, plan.features)
            for name, plans in self.plans.items()
            for digest, plan in plans.items()
        }

    def verify(self, model: str, progress: Progress = lambda done, total: None) -> Verified:
        """Every prediction of a model made again, and compared."""
        request = self.file.plan(model).pipeline.request

        def seen(features: FeatureSet, record: Record) -> list[Value]:
            found = past(self.log, f"predict.{model}", features, [record])
            return found[0][1] if found else []  # none where the log has no such request to fold

        return verify(self.log, model, request, self.sets(model), self.models.get, seen, progress)

    def consistency(self, model: str) -> Found:
        """What was compared of a model so far, and what was unequal."""
        return found(self.log, self.file.plan(model), self.sets(model))

    def trace(self, id: str) -> Trace:
        """Everything about one prediction, by its id or its request's."""
        requests = {name: plan.pipeline.request for name, plan in self.file.plans.items()}
        return trace(self.log, requests, {name: self.sets(name) for name in self.plans}, id)
