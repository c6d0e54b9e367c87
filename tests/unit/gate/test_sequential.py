"""gate: evidence by betting may be looked at after every row."""

from __future__ import annotations

import math

import numpy as np

from penstock.gate.sequential import Evidence, e_better, e_worse, observe

ALPHA = 0.05


def ends(mean: float, runs: int = 150, rows: int = 400) -> tuple[int, int]:
    """In how many runs the evidence for worse, and for better, ever reached 1 / alpha."""
    worse = better = 0
    for seed in range(runs):
        chance = np.random.default_rng(seed)
        evidence, low, high = Evidence(), False, False
        for d in np.clip(chance.normal(mean, 0.3, rows), -1, 1):
            evidence = observe(evidence, float(d))
            low, high = low or e_worse(evidence) >= 1 / ALPHA, high or e_better(evidence) >= 1 / ALPHA
        worse, better = worse + low, better + high
    return worse, better


def test_no_change_seldom_alarms() -> None:
    """Under no difference at most alpha of the runs ever alarm, on either side."""
    worse, better = ends(0.0)
    assert worse <= 150 * ALPHA + 5 and better <= 150 * ALPHA + 5


def test_a_change_is_caught() -> None:
    """A worse version is caught in nearly every run, and not called better."""
    worse, better = ends(-0.08)
    assert worse > 135 and better <= 5


def test_nothing_overflows() -> None:
    """A very long run of the same evidence stays a number; what lies outside the bounds is clipped."""
    evidence = Evidence()
    for _ in range(3000):
        evidence = observe(evidence, -5.0)
    assert (
        math.isfinite(e_worse(evidence))
        and e_worse(evidence) > 1e100
        and e_better(evidence) < 1e-10
        and evidence.n == 3000
    )
