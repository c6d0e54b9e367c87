"""faults: a short seeded form of `make faults`, on the embedded log: nothing differs, every planted bug is caught."""

from __future__ import annotations

import pytest

from tests.faults.finding import Plan
from tests.faults.run import figures, findings

PARTS = ("crashes", "disk", "full", "power", "blobs", "kills")
"""Flipped bytes are left to `make faults`: ids and topics' names are not under a checksum yet."""
SCALE = 0.02


@pytest.mark.parametrize("part", PARTS)
def test_a_part_finds_nothing_but_what_was_planted(part: str) -> None:
    """Each figure of the part reaches its target: faults provoked, no difference, all bugs caught."""
    told: list[str] = []
    found = list(findings(Plan(1, SCALE, told.append), [part]))
    assert [figure for figure in figures(found, SCALE) if not figure[3]] == [], told
    assert sum(one.provoked for _, one in found) > 0
