"""monitor: what happened in one stretch of event time, counted.

Rows of one stretch are counted together, column by column, where their values are numbers; what comes out is, to the
bit, what counting them one after the other gives, so that it does not depend on how a replay divides the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from penstock.dataset.profile import absent, cell
from penstock.record.decisions import ColumnProfile, Outcome, Prediction, Profile, Value

GONE = "gone"
"""The cell of missing values."""
TOGETHER = 16
"""From so many rows on it is quicker to count them together."""
_CLIP = 1e-15
_WHOLE = float(1 << 53)  # up to here a whole number is itself as a float
Numbers = np.ndarray[Any, np.dtype[np.float64]]

_NUMBERS = frozenset((float, int, bool, type(None)))


class Bucket(msgspec.Struct, gc=False):
    """Counts of one stretch of event time; buckets add up. `versions`: rows, loss, wrong, positives."""

    requests: int = 0
    blank: dict[str, int] = {}
    served: int = 0
    dead: int = 0
    positives: int = 0
    errors: int = 0
    known: int = 0
    truths: int = 0
    paid: int = 0
    loss: float = 0.0
    latency: dict[str, int] = {}
    missing: dict[str, int] = {}
    cells: dict[str, dict[str, int]] = {}
    sums: dict[str, float] = {}
    versions: dict[str, list[float]] = {}


def count(into: Bucket, said: Sequence[Prediction], names: Sequence[str], reference: Profile | None) -> None:
    """Count served predictions; `names` are those of their values and of the score, `reference` is what the columns'
    cells are of."""
    into.served += len(said)
    into.positives += sum(bool(one.positive) for one in said)
    into.errors += sum(one.score is None for one in said)
    for one in said:
        step = str(_bin(one.latency_s))
        into.latency[step] = into.latency.get(step, 0) + 1
    rows = [(*one.values, one.score) for one in said if len(one.values) == len(names) - 1]
    columns = reference.columns if reference else {}
    for name, values in zip(names, zip(*rows, strict=True), strict=bool(rows)):
        column = columns.get(name)
        numbers = _numbers(values, column) if len(rows) >= TOGETHER else None
        if numbers is None:
            _one_by_one(into, name, values, column)
        else:
            _together(into, name, numbers, column)


def _numbers(values: Sequence[Value], column: ColumnProfile | None) -> Numbers | None:
    """A column as floats, missing ones as NaN; None where that would not be the same."""
    kinds = set(map(type, values))
    if kinds - _NUMBERS or (column is not None and column.kind == "category"):
        return None
    numbers = np.array(values, dtype=np.float64)
    if int in kinds and np.nanmax(np.abs(numbers)) > _WHOLE:
        return None
    return numbers


def _together(into: Bucket, name: str, numbers: Numbers, column: ColumnProfile | None) -> None:
    known = numbers[~np.isnan(numbers)]
    gone = len(numbers) - len(known)
    if gone:
        into.missing[name] = into.missing.get(name, 0) + gone
    if len(known):  # a running sum adds one after the other, as `sum` of an array does not
        with np.errstate(over="ignore", invalid="ignore"):
            into.sums[name] = float(np.cumsum(np.concatenate(([into.sums.get(name, 0.0)], known)))[-1])
    if column is None:
        return
    cells = into.cells.setdefault(name, {})
    if gone:
        cells[GONE] = cells.get(GONE, 0) + gone
    for at, n in enumerate(np.bincount(np.searchsorted(column.edges, known, side="left")).tolist()):
        if n:
            cells[str(at)] = cells.get(str(at), 0) + n


def _one_by_one(into: Bucket, name: str, values: Sequence[Value], column: ColumnProfile | None) -> None:
    for value in values:
        if absent(value):
            into.missing[name] = into.missing.get(name, 0) + 1
        elif isinstance(value, (int, float)):
            into.sums[name] = into.sums.get(name, 0.0) + value
        if column is not None:
            at = cell(column, value)
            place = GONE if at is None else str(at)
            cells = into.cells.setdefault(name, {})
            cells[place] = cells.get(place, 0) + 1


def _bin(seconds: float) -> int:
    """Latencies in bins of a quarter of a factor of two."""
    return round(4 * math.log2(max(seconds, 1e-6) * 1e6))


def learn(into: Bucket, outcome: Outcome, label: float) -> None:
    """Count an outcome whose label is known."""
    into.known += 1
    into.truths += label == 1.0
    for said in outcome.said:
        if said.score is None:
            continue
        one = into.versions.setdefault(str(said.version), [0.0, 0.0, 0.0, 0.0])
        cost = _loss(label, said.score)
        wrong = said.positive is not None and said.positive != (label == 1.0)
        for i, more in enumerate((1.0, cost, float(wrong), label)):
            one[i] += more
        if said.served:
            into.paid += 1
            into.loss += cost


def _loss(label: float, score: float) -> float:
    if label in (0.0, 1.0) and 0.0 <= score <= 1.0:
        return -math.log(max(score if label else 1 - score, _CLIP))
    return (score - label) ** 2


def cells(buckets: Iterable[Bucket], name: str) -> tuple[dict[int, int], int]:
    """A column's counts by cell, and how many were missing."""
    counts: dict[int, int] = {}
    gone = 0
    for one in buckets:
        for place, n in one.cells.get(name, {}).items():
            if place == GONE:
                gone += n
            else:
                counts[int(place)] = counts.get(int(place), 0) + n
    return counts, gone


def by_version(buckets: Iterable[Bucket]) -> dict[str, dict[str, float]]:
    """What became known of each version."""
    totals: dict[str, list[float]] = {}
    for one in buckets:
        for version, numbers in one.versions.items():
            before = totals.get(version, [0.0] * 4)
            totals[version] = [a + b for a, b in zip(before, numbers, strict=True)]
    return {v: dict(zip(("rows", "loss", "wrong", "positives"), n, strict=True)) for v, n in totals.items()}


def quantiles(buckets: Iterable[Bucket]) -> tuple[float, float]:
    """The median and the 99th percentile of the latencies, in seconds."""
    counts: dict[int, int] = {}
    for one in buckets:
        for text, n in one.latency.items():
            counts[int(text)] = counts.get(int(text), 0) + n
    total, found = sum(counts.values()), []
    for share in (0.5, 0.99):
        below = 0
        for step in sorted(counts):
            below += counts[step]
            if below >= share * total:
                found.append(2 ** (step / 4) / 1e6)
                break
    return (found[0], found[1]) if found else (0.0, 0.0)
