"""laws: schedules of the whole pipeline drawn by seed: the same seed, the same log; a planted bug is found."""

from __future__ import annotations

from collections import Counter

import pytest

from penstock.app.simulate import Ground, ground, run
from penstock.log import Appended, Commit
from penstock.log.memory import MemoryLog

FLIGHTS = "examples/flights/pipeline.py"


@pytest.fixture(scope="module")
def flights() -> Ground:
    """The flights' pipeline, made small."""
    pytest.importorskip("sklearn")
    return ground(FLIGHTS)


def test_schedules_keep_every_law(flights: Ground) -> None:
    """Faults at random, then none: nothing breaks, and the loop is really gone through."""
    runs = [run(flights, seed) for seed in range(1, 31)]
    assert [(one.seed, one.broken) for one in runs if one.broken] == []
    seen = Counter(name for one in runs for name, n in one.seen.items() if n)
    for name in ("champion", "zombie_fenced", "unsure", "restored", "predictions_verified"):
        assert seen[name] > 5, name


def test_a_seed_is_a_schedule(flights: Ground) -> None:
    """The same seed gives the same log, another one another."""
    first, again, other = run(flights, 5), run(flights, 5), run(flights, 6)
    assert first.digest == again.digest != other.digest and first.steps == again.steps


def test_a_torn_commit_is_found(flights: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that moves the position and loses its outputs breaks a law within thirty schedules."""
    whole = MemoryLog.commit
    torn = Counter[str]()

    def position_only(log: MemoryLog, commit: Commit, *, sync: bool = True) -> Appended:
        torn[commit.stage] += 1
        if torn[commit.stage] % 20 == 0:
            commit = Commit(commit.stage, commit.epoch, commit.position, [], commit.state)
        return whole(log, commit, sync=sync)

    monkeypatch.setattr(MemoryLog, "commit", position_only)
    assert any(run(flights, seed).broken for seed in range(1, 31))
