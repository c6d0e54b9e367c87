"""laws: a stage in shares, with seats in several hands, says what one undivided stage says."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from penstock.app.pipeline import load
from penstock.app.processes.seats import LockSeats, Seat
from penstock.app.replay import replay
from penstock.app.system import System
from penstock.app.train import carry_out
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.predict.stage import share_name
from penstock.record.decisions import Outcome, Prediction, outcomes, predictions, read
from penstock.record.record import START, partition
from tests.crash.player import START_AT, history

ASKING = Path(__file__).parents[1] / "crash" / "pipeline.py"


def _played(shares: int) -> tuple[MemoryLog, set[str]]:
    """A log on which eight days were played with answering in so many shares, and what it says."""
    log, blobs = MemoryLog(), MemoryBlob()
    system = System(
        load(ASKING), log, blobs, Path(), time.perf_counter,
        lambda order: carry_out(order, log, blobs, time.perf_counter), shares=shares,
    )  # fmt: skip
    system.deploy(int(START_AT.timestamp() * 1000))
    replay(system, history(11))
    return log, set(log.stages())


def test_shares_say_what_the_whole_says() -> None:
    """Three shares answer each request once, with the same feature values; truth joins alike.

    Not compared: scores, since a library may round another batch differently.
    """
    (whole, _), (parts, stages) = _played(1), _played(3)
    assert {f"predict.agree/{k}of3" for k in (1, 2, 3)} <= stages
    one, three = (_answers(log) for log in (whole, parts))
    assert one == three and len(one) > 500 and max(Counter(one).values()) == 1
    assert _truths(whole) == _truths(parts)


def _answers(log: MemoryLog) -> list[tuple[str, str, str]]:
    """Who was answered, with which feature values, once for each answer that left."""
    said = (read(r, Prediction) for r in log.read([predictions("agree")], START, limit=10**6)[0])
    return sorted((one.request, one.entity, repr(one.values)) for one in said if one.served)


def _truths(log: MemoryLog) -> list[tuple[str, float, bool]]:
    found = (read(r, Outcome) for r in log.read([outcomes("agree")], START, limit=10**6)[0])
    return sorted((one.request, one.label or 0.0, one.amends) for one in found)


def test_a_fair_part_of_the_seats(tmp_path: Path) -> None:
    """Two who are there hold each seat once, none both; who stays takes what the other gave up."""
    left: list[Seat] = []
    shares = {"predict.m": 4, "gate": 1}
    one, two = (LockSeats(tmp_path, shares, left.append) for _ in range(2))
    one.look()
    assert len(one.held()) == 5
    for _ in range(3):
        two.look()
        one.look()
    assert one.held() | two.held() == {*(("predict.m", k) for k in range(4)), ("gate", 0)}
    assert not one.held() & two.held() and len({s for s in one.held() if s[0] != "gate"}) == 2
    assert set(left) == two.held()
    one.close()
    two.look()
    assert len(two.held()) == 5
    two.close()


@pytest.mark.parametrize("shares", [1, 3])
def test_a_share_is_named_by_its_number(shares: int) -> None:
    """An undivided stage keeps its name; each key belongs to one share."""
    names = {share_name("predict.m", k, shares) for k in range(shares)}
    assert len(names) == shares and ("predict.m" in names) == (shares == 1)
    assert {partition(f"k{i}", shares) for i in range(50)} == set(range(shares))
