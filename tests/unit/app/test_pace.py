"""app: from when on a batch is overdue: by what its model usually takes."""

from __future__ import annotations

import math

import pytest

from penstock.app.scoring.pace import FLOOR_S, ROW_FLOOR_S, Pace


def paced(*took: tuple[int, float]) -> Pace:
    """The pace of a model that took so long for so many rows."""
    pace = Pace()
    for rows, seconds in took:
        pace.took(rows, seconds)
    return pace


def test_nothing_is_overdue_before_anything_is_known() -> None:
    """The first batch of a model has its whole deadline."""
    assert Pace().overdue_s(1) == Pace().overdue_s(1000) == math.inf


def test_overdue_is_many_times_what_is_usual() -> None:
    """But a busy machine is no hang; a row that would be given up has more time than a batch that is asked again."""
    assert paced((1, 0.2)).overdue_s(1) == pytest.approx(2.0)
    quick = paced((1, 0.001), (8, 0.001))
    assert (quick.overdue_s(8), quick.overdue_s(1)) == (FLOOR_S, ROW_FLOOR_S) and FLOOR_S < ROW_FLOOR_S


def test_a_few_slow_ones_make_no_slow_model() -> None:
    """One in ten does not count; more do, and the newest are what counts."""
    usual = [(1, 0.1)] * 60
    assert paced(*usual, *[(1, 4.0)] * 4).overdue_s(1) == pytest.approx(1.0)
    assert paced(*usual, *[(1, 4.0)] * 16).overdue_s(1) == pytest.approx(40.0)
    assert paced(*[(1, 4.0)] * 64, *[(1, 0.1)] * 64).overdue_s(1) == pytest.approx(1.0)


def test_more_rows_may_take_longer() -> None:
    """Each size has its own pace; one that was not seen has that of the nearest smaller one, for each row."""
    pace = paced((1, 0.1), (32, 1.0))
    assert pace.overdue_s(1) == pytest.approx(1.0) and pace.overdue_s(40) == pytest.approx(10.0)
    assert paced((1, 0.1)).overdue_s(4) == pytest.approx(4.0)
    assert paced((32, 1.0)).overdue_s(16) == pytest.approx(10.0)
