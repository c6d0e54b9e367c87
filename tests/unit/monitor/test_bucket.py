"""monitor: rows counted together leave what rows counted one by one leave, to the bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dataset.profile import profile
from penstock.monitor.bucket import TOGETHER, Bucket, count
from penstock.record.codec import pack
from penstock.record.decisions import Prediction
from penstock.record.record import START

NAMES = ("x", "score")
ANY = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.none(), st.booleans(), st.integers(-(2**54), 2**54),
    st.sampled_from((2**63, -0.0, 2**53 + 1, math.nan)), st.text(max_size=2),
)  # fmt: skip


def answered(values: list[Any], score: float | None) -> Prediction:
    """A served prediction of these values."""
    return Prediction(
        "m", 1, "d", "champion", True, "r", "", "ask", 7, 0, START, "f", values, 7, score, None, "", 0.001
    )


@given(
    st.lists(st.one_of(st.floats(width=32), st.none()), min_size=1, max_size=5),
    st.one_of(
        st.lists(st.floats(allow_infinity=True), min_size=TOGETHER, max_size=40),
        st.lists(ANY, min_size=TOGETHER, max_size=40),
    ),
)
def test_together_is_one_by_one(reference: list[Any], values: list[Any]) -> None:
    """With and without a profile to compare with, whatever the values are."""
    said = [answered([value], 0.1 * i if i % 3 else None) for i, value in enumerate(values)]
    for learned in (None, profile(NAMES, [[value, 0.5] for value in reference])):
        together, single = Bucket(), Bucket()
        count(together, said, NAMES, learned)
        for one in said:
            count(single, [one], NAMES, learned)
        assert pack(together) == pack(single)


def test_a_number_that_a_float_cannot_hold_is_counted_as_it_is() -> None:
    """A column with one is counted value by value; one row of another width counts as served, and no more."""
    said = [answered([2**53 + 1 if i == 5 else i], 0.5) for i in range(TOGETHER)]
    into = Bucket()
    count(into, [*said, answered([1.0, 2.0], 0.5)], NAMES, None)
    assert into.served == TOGETHER + 1 and into.sums["score"] == pytest.approx(0.5 * TOGETHER)
    assert into.sums["x"] == sum(float(one.values[0]) for one in said)  # type: ignore[arg-type]
