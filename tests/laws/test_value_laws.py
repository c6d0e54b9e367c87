"""laws: live fold = restarted = unpruned = looked up = replayed through the log = SQL, bit for bit."""

from __future__ import annotations

import pytest

from tests.laws.values.ways import compared, play, seeded


@pytest.mark.parametrize("seed", range(6))
def test_every_way_gives_the_same_bits(seed: int) -> None:
    """Random definitions over random logs: late, tied, future, null, retracted, repeated, restarted."""
    count, wrong = compared(play(*seeded(seed, features=30, size=250)))
    assert wrong == []
    assert count > 5_000
