"""gate: verdicts are right as often as they say, and never a crash."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock.gate import Gate, better, not_worse
from penstock.gate.judge import judge
from penstock.gate.paired import compare_auc
from penstock.gate.report import report
from penstock.record.decisions import Dataset, Evaluation, Profile, Version
from penstock.record.errors import DefinitionError
from penstock.record.record import START

DATA = Dataset("t", 0, 1, START, 1, 1, "d")
VERSION = Version(
    "m",
    2,
    "d",
    "i",
    "why",
    0,
    DATA,
    DATA,
    "f",
    ["x"],
    "c",
    "e",
    {},
    0,
    1,
    {},
    Profile(1, {}),
    "ev",
    champion=1,
)


def evaluation(labels: Any, mine: Any, other: Any, slices: dict[str, list[str]] | None = None) -> Evaluation:
    """Two sets of answers on the same rows."""
    n = len(labels)
    return Evaluation(
        "binary", [float(y) for y in labels], list(mine), list(other), 0.5, slices or {}, [0.001] * n, [0.001] * n,
        1000, 1000, [0] * n,
    )  # fmt: skip


def scored(seed: int, n: int, mine: float, other: float) -> tuple[Any, list[float], list[float]]:
    """Labels, and two sets of scores with their own noise around the truth's log odds."""
    chance = np.random.default_rng(seed)
    z = chance.normal(size=n)
    labels = chance.random(n) < 1 / (1 + np.exp(-z))
    noisy = [1 / (1 + np.exp(-(z + chance.normal(size=n) * noise))) for noise in (mine, other)]
    return labels, noisy[0].tolist(), noisy[1].tolist()


def decisions(gate: Gate, mine: float, other: float, runs: int = 200, rows: int = 400) -> dict[str, int]:
    """How often each verdict comes out."""
    counts: dict[str, int] = {}
    for seed in range(runs):
        one = judge(VERSION, evaluation(*scored(seed, rows, mine, other)), gate)
        counts[one.decision] = counts.get(one.decision, 0) + 1
    return counts


def test_no_difference_is_seldom_called_one() -> None:
    """Two versions that are equally good: at most some 2.5 % ship, and as many are blocked."""
    counts = decisions(better("log_loss"), 0.7, 0.7)
    assert counts.get("ship", 0) <= 10 and counts.get("block", 0) <= 10 and counts["inconclusive"] > 180


@pytest.mark.parametrize("metric", ["log_loss", "brier", "roc_auc"])
def test_a_difference_is_found(metric: str) -> None:
    """A better one ships, a worse one is blocked."""
    assert decisions(better(metric), 0.2, 1.2, runs=40).get("ship", 0) >= 35
    assert decisions(better(metric), 1.2, 0.2, runs=40).get("block", 0) >= 35


def test_not_worse_ships_what_is_equal() -> None:
    """Within the margin is enough."""
    assert decisions(not_worse("log_loss", margin=0.08), 0.7, 0.7, runs=40).get("ship", 0) >= 30


def test_a_worse_slice_blocks_and_is_named() -> None:
    """Better on the whole, worse for some: blocked, with the slice in the reason."""
    labels, mine, other = scored(1, 1000, 0.2, 1.0)
    where = ["B" if i % 5 == 0 else "A" for i in range(1000)]
    mine = [1 - score if w == "B" else score for score, w in zip(mine, where, strict=True)]
    found = judge(
        VERSION, evaluation(labels, mine, other, {"origin": where}), better("log_loss", slices=["origin"])
    )
    assert found.decision == "block" and any("origin=B" in reason for reason in found.reasons)
    assert {one.value: one.worse for one in found.slices} == {"A": False, "B": True}


def test_speed_and_size_are_bounds() -> None:
    """A version that is better but too slow or too large is blocked, and told why."""
    labels, mine, other = scored(1, 500, 0.2, 1.2)
    one = msgspec.structs.replace(
        evaluation(labels, mine, other), candidate_latency_s=[0.2], candidate_bytes=2_000_000
    )
    found = judge(VERSION, one, better("log_loss", p99="5ms", size="1MB"))
    assert found.decision == "block" and len(found.reasons) == 2


@pytest.mark.parametrize("labels", [[], [1.0], [0.0] * 50, [3.5] * 50])
@pytest.mark.parametrize("metric", ["log_loss", "roc_auc", "mae"])
def test_poor_evidence_is_no_crash(labels: list[float], metric: str) -> None:
    """No rows, one class, numbers for labels: a verdict with finite numbers, and never a ship."""
    kind = "number" if 3.5 in labels else "binary"
    scores: list[float | None] = [0.5 if i % 3 else None for i in range(len(labels))]
    one = msgspec.structs.replace(evaluation(labels, scores, scores), kind=kind)
    found = judge(VERSION, one, better(metric))
    assert found.decision != "ship" and found.reasons
    numbers = [value for value in msgspec.structs.asdict(found).values() if isinstance(value, float)]
    assert all(math.isfinite(value) for value in numbers)


def test_the_auc_is_the_share_of_ordered_pairs() -> None:
    """DeLong's area equals the definition, ties counted half."""
    chance = np.random.default_rng(3)
    y, x = chance.random(60) < 0.4, chance.integers(0, 6, 60) / 5
    pairs = [(a > b) + 0.5 * (a == b) for a in x[y] for b in x[~y]]
    found = compare_auc(y.astype(float).tolist(), x, np.zeros(60), 0.95)
    assert found.candidate == pytest.approx(np.mean(pairs)) and found.champion == pytest.approx(0.5)


def test_an_interval_covers() -> None:
    """The interval of the difference of two areas holds no difference about 95 times in a hundred."""
    inside = 0
    for seed in range(150):
        labels, mine, other = scored(seed, 300, 0.8, 0.8)
        found = compare_auc([float(y) for y in labels], np.array(mine), np.array(other), 0.95)
        inside += found.low <= 0 <= found.high
    assert 135 <= inside <= 149


def test_a_wrong_gate_is_refused() -> None:
    """An unknown metric names the nearest, a bound needs its unit; with the line."""
    with pytest.raises(DefinitionError, match="log_loss") as caught:
        better("logloss")
    assert caught.value.where.startswith("line ")
    for wrong in ({"p99": "5"}, {"size": "50"}):
        with pytest.raises(DefinitionError):
            better("log_loss", **wrong)  # type: ignore[arg-type]


def test_the_report_stands_alone() -> None:
    """No script, nothing from outside, and names from outside are escaped."""
    labels, mine, other = scored(1, 300, 0.2, 1.2)
    one = evaluation(labels, mine, other, {"<b>": ["<script>"] * 300})
    version = msgspec.structs.replace(VERSION, reason="<script>alert(1)</script>")
    page = report(version, judge(version, one, better("log_loss")), one)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.replace("http://www.w3.org/2000/svg", "").count("http") == 0
