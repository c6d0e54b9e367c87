"""monitor: what people look at: standing alerts, and the hours of a model as series for charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from penstock.record.decisions import ALERTS, Alert, Hour, read
from penstock.record.record import Draft, Record
from penstock.stage import Stage, stage

RECENT = 50
Series = dict[str, list[tuple[int, float | None]]]


class Alarms(msgspec.Struct, frozen=True):
    """The alerts that stand, by model and rule, and the newest of all, oldest first."""

    standing: dict[str, dict[str, Alert]] = {}
    recent: list[Alert] = []


def _step(state: Alarms, record: Record) -> tuple[Alarms, list[Draft]]:
    alert = read(record, Alert)
    mine = {rule: one for rule, one in state.standing.get(alert.model, {}).items() if rule != alert.rule}
    if alert.state == "raised":
        mine[alert.rule] = alert
    return Alarms({**state.standing, alert.model: mine}, [*state.recent, alert][-RECENT:]), []


ALARMS: Stage[Alarms] = stage("alarms", (ALERTS,), Alarms, _step)


def thin(hours: Sequence[Hour], most: int = 240) -> list[Hour]:
    """The same stretch of time in at most `most` longer steps; counts become those of a mean hour."""
    step = -(-len(hours) // most) if hours else 1
    return [_joined(hours[i : i + step]) for i in range(0, len(hours), step)] if step > 1 else list(hours)


def _joined(group: Sequence[Hour]) -> Hour:
    n, served = len(group), max(1, sum(hour.served for hour in group))
    asked = max(1, sum(hour.requests for hour in group))
    versions: dict[str, dict[str, float]] = {}
    for hour in group:
        for version, numbers in hour.versions.items():
            into = versions.setdefault(version, {})
            for name, value in numbers.items():
                into[name] = into.get(name, 0.0) + value
    names = {name for hour in group for name in hour.missing}
    return Hour(
        group[0].model, group[0].from_ms, group[-1].to_ms, asked // n, served // n,
        sum(hour.positives for hour in group) // n, sum(hour.errors for hour in group),
        group[n // 2].latency_p50_s, max(hour.latency_p99_s for hour in group),
        {name: _weighted((hour.missing.get(name, 0.0), hour.requests) for hour in group) for name in names},
        group[-1].means, next((hour.drift for hour in reversed(group) if hour.drift), {}), versions,
    )  # fmt: skip


def _weighted(pairs: Iterable[tuple[float, int]]) -> float:
    total, weight = 0.0, 0
    for value, n in pairs:
        total, weight = total + value * n, weight + n
    return total / weight if weight else 0.0


def volume(hours: Sequence[Hour]) -> Series:
    """Requests an hour."""
    return {"requests": [(hour.to_ms, float(hour.requests)) for hour in hours]}


def positive_rate(hours: Sequence[Hour]) -> Series:
    """The share of positive answers."""
    return {"positive": [(hour.to_ms, _share(hour.positives, hour.served)) for hour in hours]}


def latency(hours: Sequence[Hour]) -> Series:
    """Median and 99th percentile, in milliseconds."""
    served = [hour for hour in hours if hour.served]
    return {
        "p50": [(hour.to_ms, hour.latency_p50_s * 1000) for hour in served],
        "p99": [(hour.to_ms, hour.latency_p99_s * 1000) for hour in served],
    }


def live_loss(hours: Sequence[Hour], every: int = 12) -> Series:
    """The mean loss of each version over the outcomes of `every` hours."""
    found: Series = {}
    for group in _groups(hours, every):
        for version in sorted({v for hour in group for v in hour.versions}, key=int):
            mine = [hour.versions[version] for hour in group if version in hour.versions]
            share = _share(_total(mine, "loss"), _total(mine, "rows"))
            found.setdefault(f"v{version}", []).append((group[-1].to_ms, share))
    return found


def missing(hours: Sequence[Hour], most: int = 5) -> Series:
    """The share of missing values, of the columns in which most are missing."""
    names = _highest(((n, share) for hour in hours for n, share in hour.missing.items()), most)
    return {
        name: [(hour.to_ms, hour.missing.get(name, 0.0)) for hour in hours if hour.requests] for name in names
    }


def drifts(hours: Sequence[Hour], most: int = 5) -> Series:
    """The population stability index of the columns that drifted most."""
    names = _highest(((n, x) for hour in hours for n, x in hour.drift.items()), most)
    return {n: [(hour.to_ms, hour.drift[n]) for hour in hours if n in hour.drift] for n in names}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _total(numbers: Iterable[dict[str, float]], name: str) -> float:
    total = 0.0
    for one in numbers:
        total += one[name]
    return total


def _groups(hours: Sequence[Hour], every: int) -> list[list[Hour]]:
    groups: dict[int, list[Hour]] = {}
    for hour in hours:
        groups.setdefault(hour.from_ms // (every * 3_600_000), []).append(hour)
    return list(groups.values())


def _highest(pairs: Iterable[tuple[str, float]], most: int) -> list[str]:
    highest: dict[str, float] = {}
    for name, value in pairs:
        highest[name] = max(highest.get(name, 0.0), value)
    return sorted(highest, key=lambda name: -highest[name])[:most]
