"""faults: a short seeded form of `make faults`, on the embedded log: nothing differs, every planted bug is caught."""

from __future__ import annotations

import pytest

from tests.faults.contract import missed_fence
from tests.faults.finding import Plan
from tests.faults.run import figures, findings

PARTS = {
    "crashes": 0.02,
    "disk": 0.02,
    "full": 0.02,
    "power": 0.02,
    "blobs": 0.02,
    "flips": 0.01,
    "kills": 0.02,
    "served": 0.06,
}
"""Each part with the scale of its short form."""


@pytest.mark.parametrize("part", PARTS)
def test_a_part_finds_nothing_but_what_was_planted(part: str) -> None:
    """Each figure of the part reaches its target: faults provoked, no difference, all bugs caught."""
    told: list[str] = []
    scale = PARTS[part]
    found = list(findings(Plan(1, scale, told.append), [part]))
    assert [figure for figure in figures(found, scale) if not figure[3]] == [], told
    assert sum(one.provoked for _, one in found) > 0


def test_the_contract_notices_a_missing_fence() -> None:
    """By the law about it, for its own reason: what takes the fence out still does."""
    assert missed_fence("sqlite") == ""
