"""release: the registry: trainings, verdicts and release steps as a view that can be read at any position."""

from __future__ import annotations

import msgspec

from penstock.log import Log
from penstock.record.decisions import (
    FAILURES,
    RELEASES,
    VERDICTS,
    VERSIONS,
    Failure,
    Release,
    Verdict,
    Version,
    read,
)
from penstock.record.errors import NotFound
from penstock.record.record import Draft, Position, Record
from penstock.release.route import Route, follow
from penstock.stage import Stage, replay, stage


class Entry(msgspec.Struct, frozen=True):
    """One model's versions and what became of them, oldest first; `failures`: trainings that came to none."""

    versions: dict[int, Version] = {}
    failures: dict[int, Failure] = {}
    verdicts: dict[int, Verdict] = {}
    releases: list[Release] = []
    route: Route = Route()

    @property
    def failed(self) -> Failure | None:
        """The newest training, where it came to no version."""
        newest = max([*self.versions, *self.failures], default=0)
        return self.failures.get(newest)

    def standing(self, version: int) -> str:
        """What a version is now: champion, shadow, canary 10 %, blocked, rolled back, retired, failed..."""
        route = self.route
        if version in self.failures:
            return "failed"
        if route.champion and route.champion.version == version:
            return "champion"
        if route.candidate and route.candidate.version == version:
            return f"canary {route.share} %" if route.share else "shadow"
        steps = [release.step for release in self.releases if release.version == version]
        if steps:
            return {"rolled_back": "rolled back", "withdrawn": "withdrawn"}.get(steps[-1], "retired")
        verdict = self.verdicts.get(version)
        return (
            {"block": "blocked", "ship": "passed"}.get(verdict.decision, verdict.decision)
            if verdict
            else "trained"
        )


class Registry(msgspec.Struct, frozen=True):
    """Every model's entry, by name."""

    models: dict[str, Entry] = {}

    def champion(self, model: str) -> Version:
        """The version that the alias `champion` means; raises NotFound before the first release."""
        ref = self.models.get(model, Entry()).route.champion
        if ref is None:
            raise NotFound(f"{model} has no champion yet.", code="no_champion")
        return self.models[model].versions[ref.version]

    def version(self, name: str) -> Version:
        """A version by "model@v7", "model@champion" or "model" (the champion)."""
        model, _, which = name.partition("@")
        entry = self.models.get(model)
        if entry is None:
            raise NotFound(
                f"There is no model of this name. Known: {', '.join(sorted(self.models)) or 'none'}."
            )
        if which in ("", "champion"):
            return self.champion(model)
        if which == "newest":
            return entry.versions[max(entry.versions)]
        number = which.removeprefix("v")
        if not number.isdigit() or int(number) not in entry.versions:
            known = ", ".join(f"v{n}" for n in sorted(entry.versions))
            raise NotFound(
                f"{model} has no such version. Known: {known}.", hint=f"Write {model}@v1, for example."
            )
        return entry.versions[int(number)]


def _step(registry: Registry, record: Record) -> tuple[Registry, list[Draft]]:
    model = record.key
    entry = registry.models.get(model, Entry())
    if record.topic == VERSIONS:
        version = read(record, Version)
        entry = msgspec.structs.replace(entry, versions={**entry.versions, version.version: version})
    elif record.topic == FAILURES:
        failure = read(record, Failure)
        entry = msgspec.structs.replace(entry, failures={**entry.failures, failure.version: failure})
    elif record.topic == VERDICTS:
        verdict = read(record, Verdict)
        entry = msgspec.structs.replace(entry, verdicts={**entry.verdicts, verdict.version: verdict})
    else:
        release = read(record, Release)
        entry = msgspec.structs.replace(
            entry, releases=[*entry.releases, release], route=follow(entry.route, release)
        )
    return Registry({**registry.models, model: entry}), []


REGISTRY: Stage[Registry] = stage("registry", (VERSIONS, FAILURES, VERDICTS, RELEASES), Registry, _step)


def registry(log: Log, at: Position | None = None) -> Registry:
    """The registry as it stood at a position (default: now)."""
    return replay(REGISTRY, log, at)
