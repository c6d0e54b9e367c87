"""monitor: charts show the hours' own numbers, and thinning keeps what a mean hour was like."""

from __future__ import annotations

import math

from penstock.monitor import board
from penstock.record.decisions import Hour
from tests.unit.monitor.world import HOUR_MS, MODEL


def hour(n: int, requests: int = 10, **told: object) -> Hour:
    """The n-th hour."""
    usual = {
        "served": requests, "positives": 1, "errors": 0, "latency_p50_s": 0.002, "latency_p99_s": 0.01,
        "missing": {}, "means": {}, "drift": {}, "versions": {},
    }  # fmt: skip
    return Hour(MODEL, n * HOUR_MS, (n + 1) * HOUR_MS, requests, **(usual | told))


def test_series_stand_at_the_end_of_their_hour() -> None:
    """Points are (milliseconds, value); a share of nothing is a gap, and no latency."""
    two = [hour(1), hour(2, requests=0, served=0, positives=0)]
    assert board.volume(two) == {"requests": [(2 * HOUR_MS, 10.0), (3 * HOUR_MS, 0.0)]}
    assert board.positive_rate(two) == {"positive": [(2 * HOUR_MS, 0.1), (3 * HOUR_MS, None)]}
    assert board.latency(two) == {"p50": [(2 * HOUR_MS, 2.0)], "p99": [(2 * HOUR_MS, 10.0)]}


def test_live_loss_by_version() -> None:
    """The loss of some hours is their sum of losses over their rows, for each version in its order."""
    versions = {"10": {"rows": 1.0, "loss": 3.0}, "9": {"rows": 3.0, "loss": 1.0}}
    found = board.live_loss([hour(0, versions=versions), hour(1, versions={"9": {"rows": 1.0, "loss": 1.0}})])
    assert found == {"v9": [(2 * HOUR_MS, 0.5)], "v10": [(2 * HOUR_MS, 3.0)]}


def test_the_worst_columns_come_first() -> None:
    """Only the columns with most missing, or most drift, are drawn, the worst first."""
    two = [hour(0, missing={"a": 0.1, "b": 0.5}, drift={"a": 1.0}), hour(1, missing={"c": 0.9})]
    assert list(board.missing(two, most=2)) == ["c", "b"]
    assert board.missing(two)["a"] == [(HOUR_MS, 0.1), (2 * HOUR_MS, 0.0)]
    assert board.drifts(two) == {"a": [(HOUR_MS, 1.0)]}


def test_thinning_keeps_the_mean_hour() -> None:
    """Fewer, longer steps: counts of a mean hour, shares weighted by requests, versions added up."""
    many = [
        hour(n, requests=10 * (n % 2 + 1), missing={"a": 0.3 * (n % 2)}, versions={"1": {"rows": 1.0}})
        for n in range(8)
    ]
    thinned = board.thin(many, most=4)
    assert [(one.from_ms, one.to_ms) for one in thinned] == [
        (n * HOUR_MS, (n + 2) * HOUR_MS) for n in (0, 2, 4, 6)
    ]
    assert all(one.requests == 15 and one.versions == {"1": {"rows": 2.0}} for one in thinned)
    assert all(math.isclose(one.missing["a"], 0.2) for one in thinned)
    assert board.thin(many) == many and board.thin([]) == []
